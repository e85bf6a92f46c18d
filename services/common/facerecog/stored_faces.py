"""A client of the service people, which finds stored faces."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc

from services.common.errors import (
    OtherEngineError,
    RefusedError,
    StoredFacesAwayError,
    StoredFacesBusyError,
    StoredFacesError,
)
from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.channel import Channel

_ERRORS: Final[Mapping[grpc.StatusCode, type[StoredFacesError | RefusedError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: RefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: StoredFacesBusyError,
    grpc.StatusCode.FAILED_PRECONDITION: OtherEngineError,
}


class StoredFacesClient:
    """One channel to all replicas; ``target`` as gRPC names it (``dns:///people:50052``).

    Whoever does not answer within ``timeout`` seconds is away. Without ``tls``, the folder with
    certificates, all is in plain text.
    """

    def __init__(self, target: str, *, timeout: float = 10.0, tls: Path | None = None) -> None:
        self._timeout = timeout
        self._channel = Channel(target, tls)

    async def find(self, engine: str, encoding: bytes, limit: int) -> Sequence[face_pb2.FoundFace]:
        """Return up to 1,000 faces, nearest first.

        Raises a :class:`StoredFacesError`, and :class:`RefusedError` for an encoding that cannot be
        compared with those that are stored.
        """
        stub: Any = face_pb2_grpc.StoredFacesStub(self._channel.now())
        request = face_pb2.FindRequest(engine=engine, encoding=encoding, limit=limit)
        try:
            answer: face_pb2.FindResponse = await stub.Find(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            kind = _ERRORS.get(error.code(), StoredFacesAwayError)
            raise kind(f"people: {error.code().name}: {error.details()}") from error
        return answer.faces

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
