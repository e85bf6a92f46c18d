"""The gRPC interface."""

import asyncio
import dataclasses
import itertools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.client import IMAGE_ID, LONG, MAX_MESSAGE_BYTES
from services.common.metrics import record
from services.common.objects import ObjectStoreUnavailableError
from services.face_recog.deciding import Decider, View, WrongEngineError, WrongRequestError
from services.face_recog.domain import (
    Box,
    Candidate,
    Held,
    Match,
    Outcome,
    Problem,
    RecogniserBusyError,
    RecogniserFaultError,
    RejectedError,
)
from services.face_recog.service import (
    Answer,
    Identifier,
    NamedFace,
    NotReadyError,
    Question,
)

log = structlog.get_logger(__name__)

NOT_FOUND: Final = "not_found"
"""The image name of a picture that shows nobody who is known."""

_STATUS: Final = {
    Problem.NOT_FOUND: face_pb2.STATUS_NOT_FOUND,
    Problem.UNREADABLE: face_pb2.STATUS_UNREADABLE,
    Problem.TOO_LARGE: face_pb2.STATUS_TOO_LARGE,
    Problem.INVALID_REQUEST: face_pb2.STATUS_INVALID_REQUEST,
}
_OUTCOME: Final = {
    Outcome.NAMED: face_pb2.OUTCOME_NAMED,
    Outcome.UNSURE: face_pb2.OUTCOME_UNSURE,
    Outcome.UNKNOWN: face_pb2.OUTCOME_UNKNOWN,
}
_FAULTS: Final[dict[type[Exception], grpc.StatusCode]] = {
    NotReadyError: grpc.StatusCode.UNAVAILABLE,
    ObjectStoreUnavailableError: grpc.StatusCode.UNAVAILABLE,
    RecogniserBusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RecogniserFaultError: grpc.StatusCode.INTERNAL,
    WrongEngineError: grpc.StatusCode.FAILED_PRECONDITION,
    WrongRequestError: grpc.StatusCode.INVALID_ARGUMENT,
}
_READINESS: Final = ("", "facerecog.Identify", "facerecog.People", "facerecog.HealthCheck")
"""Health names that say whether requests are served."""

_LIVENESS: Final = "liveness"
"""The health name that is serving as long as the process answers at all."""

_Context = grpc.aio.ServicerContext[Any, Any]


def _question(message: bytes) -> Question:
    """Read a request. The message, with a copy of the picture, need not live until the answer."""
    request = face_pb2.IdentifyRequest.FromString(message)
    return Question(
        path=request.image_path,
        picture=request.image_data,
        tolerance=request.tolerance if request.HasField("tolerance") else None,
        max_faces=request.max_faces,
        max_candidates=request.max_candidates,
        person=request.person,
        boxes=[Box(box.left, box.top, box.right, box.bottom) for box in request.boxes],
    )


class _Identify:
    def __init__(self, identifier: Identifier, engine: str) -> None:
        self._identifier = identifier
        self._engine = engine

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what the generated stubs would, but with :func:`_question`."""
        method = grpc.unary_unary_rpc_method_handler(
            self._identify,
            request_deserializer=_question,
            response_serializer=face_pb2.IdentifyResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("facerecog.Identify", {"Identify": method})

    async def _identify(self, question: Question, context: _Context) -> face_pb2.IdentifyResponse:
        async def say_long() -> None:
            await context.send_initial_metadata(((LONG, "1"),))

        with structlog.contextvars.bound_contextvars(**_image_id(context)):
            try:
                answer = await self._identifier.identify(question, on_long=say_long)
            except RejectedError as error:
                log.info("rejected", problem=error.problem, reason=str(error))
                return face_pb2.IdentifyResponse(
                    image_name=NOT_FOUND,
                    status=_STATUS[error.problem],
                    engine=self._engine,
                    reason=str(error),
                )
            except tuple(_FAULTS) as error:
                log.warning("failed", reason=str(error))
                await context.abort(_FAULTS[type(error)], str(error))
            response = _response(answer, self._engine)
            log.info("identified", faces=len(response.faces), image_name=response.image_name)
            return response


class _People(face_pb2_grpc.PeopleServicer):
    def __init__(self, decider: Decider, is_draining: Callable[[], bool]) -> None:
        self._decider = decider
        self._is_draining = is_draining

    async def Decide(  # noqa: N802
        self, requests: AsyncIterator[face_pb2.DecideRequest], context: _Context
    ) -> AsyncIterator[face_pb2.DecideResponse]:
        """Answer one request after another in one view of the known people."""
        view: View | None = None
        try:
            async for request in requests:
                if self._is_draining():
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "it stops: ask another one")
                if view is None:
                    view = await self._decider.view(request.person)
                    yield face_pb2.DecideResponse(known=self._known(view))
                else:
                    yield await self._answer(view, request)
        except tuple(_FAULTS) as error:
            log.warning("cannot decide", reason=str(error))
            await context.abort(_FAULTS[type(error)], str(error))

    def _known(self, view: View) -> face_pb2.PersonKnown:
        return face_pb2.PersonKnown(
            engine=self._decider.engine.name,
            calibration=view.snapshot.calibration.version,
            pictures=[
                face_pb2.KnownPicture(image_name=name, skipped=not known)
                for name, known in view.pictures.items()
            ],
            portrait=view.portrait.mean.astype("<f4").tobytes() if view.portrait else b"",
            least_product=view.portrait.least_product if view.portrait else 0,
        )

    async def _answer(self, view: View, request: face_pb2.DecideRequest) -> face_pb2.DecideResponse:
        match request.WhichOneof("kind"):
            case "sift":
                asked = request.sift
                encodings = self._decider.read(asked.engine, asked.encodings)
                may_be = await self._decider.sift(view, encodings)
                return face_pb2.DecideResponse(sifted=face_pb2.Sifted(may_be=may_be))
            case "decide":
                decided = await self._decide(view, request.decide)
                return face_pb2.DecideResponse(
                    decided=face_pb2.DecidedPictures(
                        pictures=[
                            face_pb2.DecidedPicture(faces=map(_decided, matches))
                            for matches in decided
                        ]
                    )
                )
            case _:
                raise WrongRequestError("neither faces to sift nor pictures to decide on")

    async def _decide(
        self, view: View, asked: face_pb2.PicturesToDecide
    ) -> Sequence[Sequence[Match]]:
        faces = [face.encoding for picture in asked.pictures for face in picture.faces]
        encodings = iter(self._decider.read(asked.engine, faces))
        return await self._decider.decide(
            view,
            [
                (
                    list(itertools.islice(encodings, len(picture.faces))),
                    Held(picture.given, [face.denied for face in picture.faces]),
                )
                for picture in asked.pictures
            ],
        )


class _HealthCheck(face_pb2_grpc.HealthCheckServicer):
    def __init__(self, is_serving: Callable[[], bool], decider: Decider) -> None:
        self._is_serving = is_serving
        self._decider = decider

    async def HealthCheck(  # noqa: N802
        self,
        request: face_pb2.Empty,  # noqa: ARG002
        context: _Context,  # noqa: ARG002
    ) -> face_pb2.HealthCheckResponse:
        """Tell whether requests are served, and by which engine."""
        return face_pb2.HealthCheckResponse(
            ready=self._is_serving(),
            engine=self._decider.engine.name,
            strangers_product=self._decider.strangers.product,
            strangers_decade=self._decider.strangers.decade,
        )


class Server:
    """The gRPC server: not serving until :meth:`set_serving`, and no longer after draining.

    Only its health says so; requests are answered whenever they can be.
    """

    def __init__(
        self, identifier: Identifier, decider: Decider, *, connection_age: float, grace: float
    ) -> None:
        self._grace = grace
        self._is_serving = False
        self._draining = False
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=[_Observer()],
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                # Clients look for replicas again only when they reconnect. An old connection
                # finishes what it has, however long that takes: no grace, which would cut it.
                ("grpc.max_connection_age_ms", int(connection_age * 1000)),
                # Clients ping idle connections, so that a lost host is noticed.
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                # Two processes on one port would share its requests at random.
                ("grpc.so_reuseport", 0),
            ],
        )
        engine = decider.engine.name
        self._server.add_generic_rpc_handlers((_Identify(identifier, engine).handler(),))
        face_pb2_grpc.add_PeopleServicer_to_server(
            _People(decider, lambda: self._draining), self._server
        )
        face_pb2_grpc.add_HealthCheckServicer_to_server(
            _HealthCheck(lambda: self._is_serving, decider), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port; raise ``OSError`` when it cannot be had."""
        try:
            bound = self._server.add_insecure_port(
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            )
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{port}") from error
        await self._health.set(_LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._show()
        await self._server.start()
        return bound

    async def set_serving(self, *, serving: bool) -> None:
        """Tell everyone whether requests are served."""
        self._is_serving = serving and not self._draining
        await self._show()

    async def drain(self) -> None:
        """Tell everyone to go elsewhere; requests are still served."""
        self._draining = True
        await self.set_serving(serving=False)

    async def stop(self) -> None:
        """Take no more requests and finish those in flight."""
        await self._server.stop(self._grace)

    async def _show(self) -> None:
        response = health_pb2.HealthCheckResponse
        for name in _READINESS:
            await self._health.set(
                name, response.SERVING if self._is_serving else response.NOT_SERVING
            )


class _Observer(grpc.aio.ServerInterceptor):
    """RED metrics by method; health probes are left out."""

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Wrap the method's handler."""
        found = await continuation(handler_call_details)
        package, _, operation = handler_call_details.method.partition(".")
        if found is None or package != "/facerecog":
            return found
        handler: Any = found  # the stubs know only the synchronous kind

        if handler.response_streaming:

            async def observed_stream(requests: Any, context: _Context) -> AsyncIterator[Any]:
                with _recorded(operation, context):
                    async for response in handler.stream_stream(requests, context):
                        yield response

            return grpc.stream_stream_rpc_method_handler(
                observed_stream,
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )

        async def observed(request: Any, context: _Context) -> Any:
            with _recorded(operation, context):
                return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            observed,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


@contextmanager
def _recorded(operation: str, context: _Context) -> Iterator[None]:
    start = time.perf_counter()
    error = True
    try:
        yield
        error = False
    except (asyncio.CancelledError, GeneratorExit):
        # The client went away, which is its own affair unless its patience ended.
        left = context.time_remaining()
        error = left is not None and left <= 0
        raise
    finally:
        record(operation, time.perf_counter() - start, error=error)


def _image_id(context: _Context) -> dict[str, int]:
    """Return the image that the caller asks for, as it stands in the logs."""
    for name, value in context.invocation_metadata() or ():
        if name == IMAGE_ID and re.fullmatch("[0-9]{1,19}", str(value), re.ASCII):
            return {"image_id": int(value)}
    return {}


def _response(answer: Answer, engine: str) -> face_pb2.IdentifyResponse:
    best = min(
        (face.match.candidates[0] for face in answer.faces if face.match.outcome is Outcome.NAMED),
        key=lambda candidate: candidate.distance,
        default=None,
    )
    return face_pb2.IdentifyResponse(
        image_name=best.image_name if best else NOT_FOUND,
        status=face_pb2.STATUS_OK,
        faces=[_face(face) for face in answer.faces],
        width=answer.width,
        height=answer.height,
        engine=engine,
        calibration=answer.calibration,
    )


def _face(named: NamedFace) -> face_pb2.Face:
    face = named.face
    return face_pb2.Face(
        box=face_pb2.Box(
            left=face.box.left, top=face.box.top, right=face.box.right, bottom=face.box.bottom
        ),
        detection_score=face.score,
        candidates=map(_candidate, named.match.candidates),
        ambiguous=named.match.ambiguous,
        outcome=_OUTCOME[named.match.outcome],
        quality=face_pb2.Quality(**dataclasses.asdict(face.quality)),
        like_person=named.like_person,
        encoding=face.encoding.astype("<f4").tobytes(),
    )


def _candidate(candidate: Candidate) -> face_pb2.Candidate:
    return face_pb2.Candidate(
        image_name=candidate.image_name,
        person=candidate.person,
        distance=candidate.distance,
        likeness=candidate.likeness,
    )


def _decided(match: Match) -> face_pb2.DecidedFace:
    return face_pb2.DecidedFace(
        candidates=map(_candidate, match.candidates), outcome=_OUTCOME[match.outcome]
    )
