"""The gRPC interface."""

import dataclasses
import itertools
import re
from collections.abc import AsyncIterator, Sequence
from typing import Final, NoReturn

import grpc
import structlog

from services.common.errors import (
    AwayError,
    RecogniserBusyError,
    RecogniserFailedError,
    RefusedError,
)
from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.client import IMAGE_ID, LONG
from services.common.facerecog.server import Context, GrpcServer
from services.common.faces import Box, Likely, measured
from services.face_recog.domain.errors import RejectedError, WrongEngineError
from services.face_recog.domain.matching import Constraints, Match, Outcome
from services.face_recog.service.deciding import Decider, View
from services.face_recog.service.identifying import (
    Identification,
    IdentificationRequest,
    Identifier,
    NamedFace,
)

log = structlog.get_logger(__name__)

NOT_FOUND: Final = "not_found"
"""The image name in an answer that names nobody."""

_CODES: Final = (
    (RecogniserBusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (RecogniserFailedError, grpc.StatusCode.INTERNAL),
    (AwayError, grpc.StatusCode.UNAVAILABLE),
    (WrongEngineError, grpc.StatusCode.FAILED_PRECONDITION),
    (RefusedError, grpc.StatusCode.INVALID_ARGUMENT),
)
"""The first that an error is one of says what its caller should do."""


async def _abort(context: Context, error: AwayError | RefusedError) -> NoReturn:
    code = next(code for branch, code in _CODES if isinstance(error, branch))
    await context.abort(code, str(error))


def _read(message: bytes) -> IdentificationRequest:
    """Read a request. The message, with a copy of the picture, need not live until the answer."""
    request = face_pb2.IdentifyRequest.FromString(message)
    return IdentificationRequest(
        path=request.image_path,
        picture=request.image_data,
        tolerance=request.tolerance if request.HasField("tolerance") else None,
        max_faces=request.max_faces,
        max_candidates=request.max_candidates,
        person=request.person,
        boxes=[Box(box.left, box.top, box.right, box.bottom) for box in request.boxes],
    )


class FaceRecogServer(GrpcServer, face_pb2_grpc.PeopleServicer, face_pb2_grpc.HealthCheckServicer):
    """Answers for pictures, people and health; see :class:`GrpcServer`."""

    def __init__(
        self, identifier: Identifier, decider: Decider, *, connection_age: float, grace: float
    ) -> None:
        super().__init__(
            ["Identify", "People", "HealthCheck"], connection_age=connection_age, grace=grace
        )
        self._identifier = identifier
        self._decider = decider
        self._engine = decider.engine.name
        # What the generated stubs would add, but with :func:`_read`.
        identify = grpc.unary_unary_rpc_method_handler(
            self._identify,
            request_deserializer=_read,
            response_serializer=face_pb2.IdentifyResponse.SerializeToString,
        )
        self.grpc.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("facerecog.Identify", {"Identify": identify}),)
        )
        face_pb2_grpc.add_PeopleServicer_to_server(self, self.grpc)
        face_pb2_grpc.add_HealthCheckServicer_to_server(self, self.grpc)

    async def _identify(
        self, request: IdentificationRequest, context: Context
    ) -> face_pb2.IdentifyResponse:
        async def say_long() -> None:
            await context.send_initial_metadata(((LONG, "1"),))

        with structlog.contextvars.bound_contextvars(**_image_id(context)):
            try:
                answer = await self._identifier.identify(request, on_long=say_long)
            except RejectedError as error:
                log.info("rejected", problem=error.rejection, reason=str(error))
                return face_pb2.IdentifyResponse(
                    image_name=NOT_FOUND,
                    status=face_pb2.Status.Value(f"STATUS_{error.rejection.name}"),
                    engine=self._engine,
                    reason=str(error),
                )
            except (AwayError, RefusedError) as error:
                log.warning("failed", reason=str(error))
                await _abort(context, error)
            response = _response(answer, self._engine)
            log.info("identified", faces=len(response.faces))
            return response

    async def Decide(  # noqa: N802
        self, requests: AsyncIterator[face_pb2.DecideRequest], context: Context
    ) -> AsyncIterator[face_pb2.DecideResponse]:
        """Answer one request after another in one view of the known people."""
        view: View | None = None
        try:
            async for request in requests:
                if self.is_draining:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "it stops: ask another one")
                if view is None:
                    view = await self._decider.view(request.person)
                    yield face_pb2.DecideResponse(known=self._known(view))
                else:
                    yield await self._answer(view, request)
        except (AwayError, RefusedError) as error:
            log.warning("cannot decide", reason=str(error))
            await _abort(context, error)

    def _known(self, view: View) -> face_pb2.PersonKnown:
        return face_pb2.PersonKnown(
            engine=self._engine,
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
                raise RejectedError("neither faces to sift nor pictures to decide on")

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
                    Constraints(picture.given, [face.denied for face in picture.faces]),
                )
                for picture in asked.pictures
            ],
        )

    async def HealthCheck(  # noqa: N802
        self,
        request: face_pb2.Empty,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> face_pb2.HealthCheckResponse:
        """Tell whether requests are served, and by which engine."""
        return face_pb2.HealthCheckResponse(
            ready=self.is_serving,
            engine=self._engine,
            strangers_product=self._decider.strangers.product,
            strangers_decade=self._decider.strangers.decade,
        )


def _image_id(context: Context) -> dict[str, int]:
    """Return the image that the caller asks for, as it stands in the logs."""
    for name, value in context.invocation_metadata() or ():
        if name == IMAGE_ID and re.fullmatch("[0-9]{1,19}", str(value), re.ASCII):
            return {"image_id": int(value)}
    return {}


def _response(answer: Identification, engine: str) -> face_pb2.IdentifyResponse:
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
        **dataclasses.asdict(measured(face)),
        candidates=map(_candidate, named.match.candidates),
        ambiguous=named.match.ambiguous,
        outcome=_outcome(named.match),
        like_person=named.like_person,
        encoding=face.encoding.astype("<f4").tobytes(),
    )


def _candidate(candidate: Likely) -> face_pb2.Candidate:
    return face_pb2.Candidate(
        image_name=candidate.image_name,
        person=candidate.folder,
        distance=candidate.distance,
        likeness=candidate.likeness,
    )


def _decided(match: Match) -> face_pb2.DecidedFace:
    return face_pb2.DecidedFace(
        candidates=map(_candidate, match.candidates), outcome=_outcome(match)
    )


def _outcome(match: Match) -> face_pb2.Outcome.ValueType:
    return face_pb2.Outcome.Value(f"OUTCOME_{match.outcome.name}")
