"""Asks face_recog what a picture shows."""

from collections.abc import Sequence

from services.common.errors import RecogniserUnavailableError
from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient, seen_faces
from services.common.faces import Box, SeenFace
from services.common.strangers import PairsOfStrangers
from services.receiver.domain.errors import InvalidError
from services.receiver.domain.faces import EncodedFace
from services.receiver.domain.search import DetectedFaces


class GrpcFaceChecker:
    """The ports ``FaceChecker``, ``FaceEncoder`` and ``FaceDetector`` on face_recog."""

    def __init__(self, client: RecogniserClient) -> None:
        self._client = client

    async def faces(
        self, content: bytes, *, person: str, image_id: int | None
    ) -> Sequence[SeenFace]:
        answer = await self._client.identify(content, person=person, image_id=image_id)
        return _faces_of(answer)

    async def face_in(self, content: bytes, box: Box, *, person: str, image_id: int) -> EncodedFace:
        answer = await self._client.identify(content, person=person, image_id=image_id, boxes=[box])
        (face,) = _faces_of(answer)
        return EncodedFace(face, answer.engine, answer.calibration or None)

    async def check(self) -> None:
        """Raise when nobody is ready to recognise."""
        if not await self._client.ping():
            raise RecogniserUnavailableError("face_recog does not answer, or is not ready")

    async def detect(self, content: bytes) -> DetectedFaces:
        answer = await self._client.identify(content, max_candidates=1)
        return DetectedFaces(answer.engine, _faces_of(answer))

    async def strangers(self) -> tuple[str, PairsOfStrangers]:
        found = await self._client.strangers()
        if found is None:
            raise RecogniserUnavailableError("face_recog does not say how alike strangers are")
        return found


def _faces_of(answer: face_pb2.IdentifyResponse) -> Sequence[SeenFace]:
    """Return the faces of an answer, or raise ``InvalidError`` when the picture cannot be read."""
    if answer.status != face_pb2.STATUS_OK:
        raise InvalidError(f"this picture cannot be used: {answer.reason}")
    return seen_faces(answer)
