"""face_recog over gRPC, as far as it encodes faces that are stored."""

from collections.abc import Sequence

from services.common.errors import RecogniserFailedError
from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient, encoding_of
from services.common.faces import Box
from services.image_processor.domain import Encoded, Rejected


class GrpcStoredFaceEncoder:
    """Translates face_recog's answers."""

    def __init__(self, client: RecogniserClient) -> None:
        self._client = client

    async def engine(self) -> str | None:
        """Return the engine that answers; None when nobody says."""
        return await self._client.engine()

    async def encode(
        self, picture: bytes, image_id: int, boxes: Sequence[Box]
    ) -> Encoded | Rejected:
        """Encode the faces in these boxes, or raise a ``RecogniserError``."""
        answer = await self._client.identify(picture, image_id=image_id, boxes=boxes)
        match answer.status:
            case face_pb2.STATUS_OK:
                return Encoded(answer.engine, tuple(encoding_of(face) for face in answer.faces))
            case (
                face_pb2.STATUS_UNREADABLE
                | face_pb2.STATUS_TOO_LARGE
                | face_pb2.STATUS_INVALID_REQUEST
            ):
                return Rejected(answer.reason or face_pb2.Status.Name(answer.status))
            case status:
                raise RecogniserFailedError(
                    f"face_recog: unexpected status {status}: {answer.reason}"
                )
