"""face_recog over gRPC, as far as it finds faces and names them, and encodes stored ones."""

from collections.abc import Callable, Sequence

from services.common.errors import RecogniserFailedError
from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient, encoding_of, seen_faces
from services.common.faces import Box
from services.image_processor.domain import Encoded, Processed, Rejected


class GrpcFaceFinder:
    """Translates face_recog's answers."""

    def __init__(self, client: RecogniserClient) -> None:
        self._client = client

    async def identify(
        self, picture: bytes, image_id: int, on_long: Callable[[], None]
    ) -> Processed | Rejected:
        answer = await self._client.identify(picture, image_id=image_id, on_long=on_long)
        return _rejected(answer) or Processed(
            seen_faces(answer),
            answer.width,
            answer.height,
            answer.engine,
            calibration=answer.calibration or None,
        )

    async def encode(
        self, picture: bytes, image_id: int, boxes: Sequence[Box]
    ) -> Encoded | Rejected:
        answer = await self._client.identify(picture, image_id=image_id, boxes=boxes)
        # It takes no boxes that are very small, nor very many: no later try would be answered.
        return _rejected(answer, face_pb2.STATUS_INVALID_REQUEST) or Encoded(
            answer.engine, tuple(encoding_of(face) for face in answer.faces)
        )


def _rejected(
    answer: face_pb2.IdentifyResponse, *also: face_pb2.Status.ValueType
) -> Rejected | None:
    """Return why the picture can never work; None when its faces are answered."""
    if answer.status == face_pb2.STATUS_OK:
        return None
    if answer.status in (face_pb2.STATUS_UNREADABLE, face_pb2.STATUS_TOO_LARGE, *also):
        return Rejected(answer.reason or face_pb2.Status.Name(answer.status))
    raise RecogniserFailedError(f"face_recog: unexpected status {answer.status}: {answer.reason}")
