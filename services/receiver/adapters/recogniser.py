"""Asks face_recog whether a picture is fit to be a known one."""

from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient, RecogniserUnavailableError
from services.receiver.domain import InvalidError


class GrpcRecogniser:
    """The port ``Recogniser`` on face_recog."""

    def __init__(self, client: RecogniserClient) -> None:
        self._client = client

    async def count_faces(self, content: bytes, *, image_id: int | None) -> int:
        """Return how many faces the picture shows."""
        answer = await self._client.identify(content, image_id=image_id)
        if answer.status != face_pb2.STATUS_OK:
            raise InvalidError(f"this picture cannot be used: {answer.reason}")
        return len(answer.faces)

    async def check(self) -> None:
        """Raise when nobody is ready to recognise."""
        if not await self._client.ping():
            raise RecogniserUnavailableError("face_recog does not answer, or is not ready")
