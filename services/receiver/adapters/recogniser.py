"""Asks face_recog what a picture shows, and whether it is fit to be a known one."""

from collections.abc import Sequence

from services.common.facerecog import face_pb2
from services.common.facerecog.client import (
    RecogniserClient,
    RecogniserUnavailableError,
    encoding_of,
    quality_of,
)
from services.receiver.domain import Box, EncodedFace, InvalidError, Likely, SeenFace


class GrpcRecogniser:
    """The ports ``Recogniser`` and ``FaceEncoder`` on face_recog."""

    def __init__(self, client: RecogniserClient) -> None:
        self._client = client

    async def faces(self, content: bytes, *, person: str, image_id: int | None) -> list[SeenFace]:
        """Return the faces that the picture shows."""
        answer = await self._client.identify(content, person=person, image_id=image_id)
        return [_seen(face) for face in faces_of(answer)]

    async def face_in(self, content: bytes, box: Box, *, person: str, image_id: int) -> EncodedFace:
        """Return the face in a box of the picture."""
        boxes = [(box.left, box.top, box.right, box.bottom)]
        answer = await self._client.identify(content, person=person, image_id=image_id, boxes=boxes)
        (face,) = faces_of(answer)
        return EncodedFace(
            seen=_seen(face),
            detection_score=face.detection_score,
            quality=quality_of(face),
            encoding=encoding_of(face),
            engine=answer.engine,
            calibration=answer.calibration or None,
            candidates=tuple(
                Likely(
                    one.image_name,
                    one.person,
                    one.distance,
                    one.likeness if one.HasField("likeness") else None,
                )
                for one in face.candidates
            ),
            named=bool(face.candidates) and face.outcome != face_pb2.OUTCOME_UNSURE,
            ambiguous=face.ambiguous,
        )

    async def check(self) -> None:
        """Raise when nobody is ready to recognise."""
        if not await self._client.ping():
            raise RecogniserUnavailableError("face_recog does not answer, or is not ready")


def faces_of(answer: face_pb2.IdentifyResponse) -> Sequence[face_pb2.Face]:
    """Return the faces of an answer, or raise ``InvalidError`` when the picture cannot be read."""
    if answer.status != face_pb2.STATUS_OK:
        raise InvalidError(f"this picture cannot be used: {answer.reason}")
    return answer.faces


def _seen(face: face_pb2.Face) -> SeenFace:
    quality = quality_of(face)
    return SeenFace(
        flaw=quality.flaw if quality else None,
        like_person=face.like_person if face.HasField("like_person") else None,
        taken_for=face.candidates[0].person if face.candidates and not face.ambiguous else None,
    )
