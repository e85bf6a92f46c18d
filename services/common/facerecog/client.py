"""A client of face_recog whose errors say what the caller should do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.errors import (
    RecogniserBusyError,
    RecogniserError,
    RecogniserFailedError,
    RecogniserTimeoutError,
    RecogniserUnavailableError,
)
from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.channel import Channel
from services.common.faces import Box, Likely, MeasuredFace, SeenFace, check_encoding
from services.common.quality import Quality
from services.common.strangers import PairsOfStrangers

log = structlog.get_logger(__name__)

IMAGE_ID: Final = "image-id"
"""The metadata with the id of the image that the caller asks for, for the logs."""

LONG: Final = "long"
"""The header that is sent ahead of the answer when a picture needs longer than others."""

VIEW_SECONDS: Final = 300.0
"""A view holds memory of the server's, so whoever needs longer opens another one."""

_ERRORS: Final = {
    grpc.StatusCode.UNAVAILABLE: RecogniserUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: RecogniserTimeoutError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RecogniserBusyError,
}


class RecogniserClient:
    """One channel to all replicas of face_recog.

    ``target`` as gRPC names it (``dns:///face-recog:50051``), ``timeout`` in seconds a request,
    ``tls`` the folder with certificates, without which all is in plain text.
    """

    def __init__(self, target: str, *, timeout: float, tls: Path | None = None) -> None:
        self.target = target
        self._timeout = timeout
        self._channel = Channel(target, tls)

    async def identify(
        self,
        picture: bytes,
        *,
        image_id: int | None = None,
        person: str = "",
        boxes: Sequence[Box] = (),
        max_candidates: int = 0,
        on_long: Callable[[], None] | None = None,
    ) -> face_pb2.IdentifyResponse:
        """Recognise a picture file, or raise a :class:`RecogniserError`.

        ``image_id`` is what face_recog's log lines about it will carry; ``person`` is whom faces
        are held against, too; ``boxes`` are the faces to answer, exactly these and in this order,
        empty: all that are found; of each at most ``max_candidates`` people, 0: as many as
        face_recog wants; ``on_long`` is called when the picture turns out to need longer than
        others.
        """
        asked = [face_pb2.Box(**asdict(box)) for box in boxes]
        request = face_pb2.IdentifyRequest(
            image_data=picture, person=person, boxes=asked, max_candidates=max_candidates
        )
        metadata = None if image_id is None else ((IMAGE_ID, str(image_id)),)
        # As a stream of one answer, whose headers can be read before it; the wire is the same.
        identify = self._channel.now().unary_stream(
            "/facerecog.Identify/Identify",
            request_serializer=face_pb2.IdentifyRequest.SerializeToString,
            response_deserializer=face_pb2.IdentifyResponse.FromString,
        )
        call: Any = identify(request, timeout=self._timeout, metadata=metadata)
        try:
            headers = await call.initial_metadata()
            if on_long and any(name == LONG for name, _ in headers or ()):
                on_long()
            answer: face_pb2.IdentifyResponse = await call.read()
        except grpc.aio.AioRpcError as error:
            raise _error(error) from error
        finally:
            call.cancel()  # nobody waits for it any more, unless it is done
        answered = [face.box for face in answer.faces]
        if asked and answer.status == face_pb2.STATUS_OK and answered != asked:
            raise RecogniserBusyError("face_recog: answered other boxes, as an older replica does")
        return answer

    async def engine(self) -> str | None:
        """Return the engine of a replica that serves, without raising; None when it does not say.

        One that says it takes ``boxes``.
        """
        answer = await self._healthy()
        return answer.engine or None if answer else None

    async def strangers(self) -> tuple[str, PairsOfStrangers] | None:
        """Return the engine of a replica that serves, and how alike strangers are to it.

        Without raising; None when nobody says so, as an older face_recog does not.
        """
        answer = await self._healthy()
        if not answer or not answer.engine or not answer.strangers_decade:
            return None
        its = PairsOfStrangers(answer.strangers_product, answer.strangers_decade)
        return answer.engine, its

    async def _healthy(self) -> face_pb2.HealthCheckResponse | None:
        stub: Any = face_pb2_grpc.HealthCheckStub(self._channel.now())  # stubs have no methods
        try:
            answer: face_pb2.HealthCheckResponse = await stub.HealthCheck(
                face_pb2.Empty(), timeout=2.0
            )
        except grpc.aio.AioRpcError:
            return None
        return answer if answer.ready else None

    @asynccontextmanager
    async def decide(self, person: str) -> "AsyncIterator[Decisions]":
        """Open one replica's view of the known people, for one person's sake.

        ``person`` is a folder below known_people/. It and whatever is asked within raise a
        :class:`RecogniserError`; one view lasts for :data:`VIEW_SECONDS` at most.
        """
        decide = self._channel.now().stream_stream(
            "/facerecog.People/Decide",
            request_serializer=face_pb2.DecideRequest.SerializeToString,
            response_deserializer=face_pb2.DecideResponse.FromString,
        )
        call: Any = decide(timeout=VIEW_SECONDS)
        try:
            first = await _ask(call, face_pb2.DecideRequest(person=person), "known")
            yield Decisions(call, first.known)
        finally:
            call.cancel()

    async def ping(self) -> bool:
        """Ask the health service, without raising."""
        stub: Any = health_pb2_grpc.HealthStub(self._channel.now())
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


class Decisions:
    """A view of the known people in which faces are decided on; see ``People`` in face.proto."""

    def __init__(self, call: Any, known: face_pb2.PersonKnown) -> None:
        self._call = call
        self.known = known

    async def sift(self, encodings: Sequence[bytes]) -> Sequence[bool]:
        """Tell of each face whether it may be the view's person, but for who else it may be."""
        asked = face_pb2.Encodings(engine=self.known.engine, encodings=encodings)
        answer = await _ask(self._call, face_pb2.DecideRequest(sift=asked), "sifted")
        return answer.sifted.may_be

    async def decide(
        self, pictures: Sequence[face_pb2.PictureToDecide]
    ) -> Sequence[face_pb2.DecidedPicture]:
        """Say who the faces of each picture are."""
        asked = face_pb2.PicturesToDecide(engine=self.known.engine, pictures=pictures)
        answer = await _ask(self._call, face_pb2.DecideRequest(decide=asked), "decided")
        return answer.decided.pictures


async def _ask(call: Any, request: face_pb2.DecideRequest, kind: str) -> face_pb2.DecideResponse:
    try:
        with suppress(asyncio.InvalidStateError):  # it has ended: reading says how
            await call.write(request)
        answer: Any = await call.read()
    except grpc.aio.AioRpcError as error:
        raise _error(error) from error
    if answer is grpc.aio.EOF or answer.WhichOneof("kind") != kind:
        raise RecogniserFailedError(f"face_recog: no answer of the kind {kind!r}")
    found: face_pb2.DecideResponse = answer
    return found


def _error(error: grpc.aio.AioRpcError) -> RecogniserError:
    kind = _ERRORS.get(error.code(), RecogniserFailedError)
    return kind(f"face_recog: {error.code().name}: {error.details()}")


def seen_faces(answer: face_pb2.IdentifyResponse) -> tuple[SeenFace, ...]:
    """Return the faces of an answer, in its order."""
    return tuple(
        SeenFace(
            **_read(MeasuredFace, face),
            ambiguous=face.ambiguous,
            candidates=tuple(
                Likely(
                    candidate.image_name,
                    candidate.person,
                    candidate.distance,
                    candidate.likeness if candidate.HasField("likeness") else None,
                )
                for candidate in face.candidates
            ),
            unsure=face.outcome == face_pb2.OUTCOME_UNSURE,
            encoding=encoding_of(face),
            like_person=face.like_person if face.HasField("like_person") else None,
        )
        for face in answer.faces
    )


def encoding_of(face: face_pb2.Face) -> bytes | None:
    """Return a face's encoding; None when an older face_recog has answered.

    None, too, when it cannot be compared: a model may make no numbers of some picture, and the
    face is there all the same.
    """
    if not face.encoding:
        return None
    try:
        return check_encoding(face.encoding)
    except ValueError as error:
        log.warning("face without an encoding", reason=str(error))
        return None


_PARTS: Final[dict[Any, Any]] = {face_pb2.Box: Box, face_pb2.Quality: Quality}


def _read(kind: Any, message: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as a message has them; None is what it leaves unset.

    Fractions are rounded to three digits: further ones say nothing of a face.
    """
    values = {}
    for field in fields(kind):
        value = getattr(message, field.name)
        if message.DESCRIPTOR.fields_by_name[field.name].has_presence and not message.HasField(
            field.name
        ):
            value = None
        elif isinstance(value, float):
            value = round(value, 3)
        elif part := _PARTS.get(type(value)):
            value = part(**_read(part, value))
        values[field.name] = value
    return values
