"""face_recog over gRPC, as far as it finds faces and names them."""

from collections.abc import Callable

from services.common.errors import RecogniserFailedError
from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient, seen_faces
from services.image_processor.domain import Processed, Rejected


class GrpcFaceFinder:
    """Translates face_recog's answers."""

    def __init__(self, client: RecogniserClient) -> None:
        self._client = client

    async def identify(
        self, picture: bytes, image_id: int, on_long: Callable[[], None]
    ) -> Processed | Rejected:
        """Recognise a picture file, or raise a ``RecogniserError``."""
        answer = await self._client.identify(picture, image_id=image_id, on_long=on_long)
        match answer.status:
            case face_pb2.STATUS_OK:
                return Processed(
                    seen_faces(answer),
                    answer.width,
                    answer.height,
                    answer.engine,
                    calibration=answer.calibration or None,
                )
            case face_pb2.STATUS_UNREADABLE | face_pb2.STATUS_TOO_LARGE:
                return Rejected(answer.reason or face_pb2.Status.Name(answer.status))
            case status:
                raise RecogniserFailedError(
                    f"face_recog: unexpected status {status}: {answer.reason}"
                )
