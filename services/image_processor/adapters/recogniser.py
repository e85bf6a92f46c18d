"""face_recog over gRPC."""

from collections.abc import Callable

from services.common.facerecog import face_pb2
from services.common.facerecog.client import (
    RecogniserClient,
    RecogniserFailedError,
    encoding_of,
    quality_of,
)
from services.image_processor.domain import Candidate, Face, Processed, Rejected


class GrpcRecogniser:
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
                faces = tuple(_face(face) for face in answer.faces)
                return Processed(
                    faces,
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


def _face(face: face_pb2.Face) -> Face:
    return Face(
        left=face.box.left,
        top=face.box.top,
        right=face.box.right,
        bottom=face.box.bottom,
        detection_score=face.detection_score,
        ambiguous=face.ambiguous,
        candidates=tuple(
            Candidate(
                candidate.image_name,
                candidate.person,
                candidate.distance,
                candidate.likeness if candidate.HasField("likeness") else None,
            )
            for candidate in face.candidates
        ),
        unsure=face.outcome == face_pb2.OUTCOME_UNSURE,
        quality=quality_of(face),
        encoding=encoding_of(face),
    )
