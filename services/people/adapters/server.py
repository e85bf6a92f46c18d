"""The gRPC interface: stored faces that are near to one."""

from typing import Final

import grpc
import structlog

from services.common.errors import AwayError, OtherEngineError
from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.server import Context, GrpcServer
from services.people.service.stored_faces import StoredFaces

log = structlog.get_logger(__name__)

MAX_FOUND: Final = 1000

AT_ONCE: Final = 16
"""Searches, of which one is made and the others wait: among a million faces for 60 ms each."""

_CONNECTION_SECONDS: Final = 60.0
_GRACE_SECONDS: Final = 5.0

_FAULTS: Final[dict[type[Exception], grpc.StatusCode]] = {
    OtherEngineError: grpc.StatusCode.FAILED_PRECONDITION,
    AwayError: grpc.StatusCode.UNAVAILABLE,
    ValueError: grpc.StatusCode.INVALID_ARGUMENT,
}
"""The first that an error is counts."""


class _StoredFaces(face_pb2_grpc.StoredFacesServicer):
    def __init__(self, faces: StoredFaces) -> None:
        self._faces = faces
        self._asked = 0

    async def Find(  # noqa: N802
        self, request: face_pb2.FindRequest, context: Context
    ) -> face_pb2.FindResponse:
        """Answer with the nearest faces; refuse what comes while ``AT_ONCE`` are not answered."""
        if self._asked >= AT_ONCE:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{AT_ONCE} searches wait already"
            )
        self._asked += 1
        try:
            if not 1 <= request.limit <= MAX_FOUND:
                raise ValueError(f"a limit of {request.limit}, not of 1 to {MAX_FOUND}")
            found = await self._faces.nearest(request.engine, request.encoding, request.limit)
        except tuple(_FAULTS) as error:
            log.warning("cannot search", reason=str(error))
            code = next(code for kind, code in _FAULTS.items() if isinstance(error, kind))
            await context.abort(code, str(error))
        finally:
            self._asked -= 1
        return face_pb2.FindResponse(faces=[face_pb2.FoundFace(**face._asdict()) for face in found])


class SearchServer(GrpcServer):
    """Answers searches; see :class:`GrpcServer`."""

    def __init__(self, faces: StoredFaces) -> None:
        super().__init__(["StoredFaces"], connection_age=_CONNECTION_SECONDS, grace=_GRACE_SECONDS)
        face_pb2_grpc.add_StoredFacesServicer_to_server(_StoredFaces(faces), self.grpc)
