"""A real gRPC server in face_recog's place, which answers at once, by a picture's content."""

import asyncio
import dataclasses
import hashlib
import struct
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.channel import MAX_MESSAGE_BYTES
from services.common.faces import Box, Likely, SeenFace, measured
from services.common.quality import Flaw, Quality
from services.face_recog.domain.strangers import DLIB
from services.local.processes import free_port

QUALITY = Quality(0.25, Flaw.BLURRED, 1.0, 0.25, 0.75, 0.5)
ENCODING = struct.pack("<128f", *(number / 128 for number in range(128)))
ADA = Likely("Ada/1.jpg", "Ada", 0.25, 4.5)
FACE = SeenFace(Box(1, 2, 30, 40), 0.5, False, (ADA,), quality=QUALITY, encoding=ENCODING)
TWO_FACES = (FACE, SeenFace(Box(50, 2, 80, 40), 0.75, True, ()))


def encoding_of_box(engine: str, box: face_pb2.Box) -> bytes:
    """Return the encoding of whatever is in a box, another one by each engine."""
    said = hashlib.sha256(f"{engine} {box}".encode()).digest()
    return struct.pack("<128f", *(byte / 256 for byte in said * 4))


class PictureContent:
    """Contents of pictures, named for what comes of them; any other one shows two faces, too."""

    TWO_FACES: Final = b"two faces"
    NO_FACE: Final = b"no face"
    UNREADABLE: Final = b"unreadable"
    UNFINISHED: Final = b"unfinished"
    """Shows two faces, too, but not before the recogniser is told to ``release`` it."""
    UNANSWERED: Final = b"unanswered"
    """Is not answered before the deadline."""
    FOR_A_BUSY_ONE: Final = b"for a busy one"
    """Finds the recogniser's queue full."""
    FATAL: Final = b"fatal"
    """Ends the worker process that looks at it."""


class RecogniserServer(face_pb2_grpc.IdentifyServicer, face_pb2_grpc.HealthCheckServicer):
    """Answers by :class:`PictureContent`; can be stopped and started again on its port."""

    def __init__(self) -> None:
        self.target = f"127.0.0.1:{free_port()}"
        self.engine = "test-1"
        self.image_ids: list[str] = []
        self.encoded: list[int] = []
        self.release = asyncio.Event()
        self._server: Any = None

    async def start(self) -> None:
        self._server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        )
        face_pb2_grpc.add_IdentifyServicer_to_server(self, self._server)
        face_pb2_grpc.add_HealthCheckServicer_to_server(self, self._server)
        checks = health.aio.HealthServicer()
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, self._server)
        self._server.add_insecure_port(self.target)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def Identify(  # noqa: N802
        self, request: face_pb2.IdentifyRequest, context: Any
    ) -> face_pb2.IdentifyResponse:
        """Answer by the picture: two faces, unless it asks for something else."""
        self.image_ids += [
            value for key, value in context.invocation_metadata() if key == "image-id"
        ]
        if request.boxes:
            self.encoded += map(int, self.image_ids[-1:])
        match request.image_data:
            case PictureContent.UNFINISHED:
                await self.release.wait()
            case PictureContent.UNREADABLE:
                return face_pb2.IdentifyResponse(
                    status=face_pb2.STATUS_UNREADABLE, reason="it is no picture"
                )
            case PictureContent.UNANSWERED:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer")
            case PictureContent.FOR_A_BUSY_ONE:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full")
            case PictureContent.FATAL:
                await context.abort(grpc.StatusCode.INTERNAL, "the worker died")
            case PictureContent.NO_FACE:
                return face_pb2.IdentifyResponse(
                    status=face_pb2.STATUS_OK, width=100, height=90, engine=self.engine
                )
        if request.boxes:
            return face_pb2.IdentifyResponse(
                status=face_pb2.STATUS_OK,
                width=100,
                height=90,
                engine=self.engine,
                faces=[
                    face_pb2.Face(box=box, encoding=encoding_of_box(self.engine, box))
                    for box in request.boxes
                ],
            )
        return face_pb2.IdentifyResponse(
            status=face_pb2.STATUS_OK,
            width=100,
            height=90,
            engine=self.engine,
            calibration=3,
            faces=[
                face_pb2.Face(
                    **dataclasses.asdict(measured(face)),
                    ambiguous=face.ambiguous,
                    encoding=face.encoding or b"",
                    candidates=[
                        face_pb2.Candidate(
                            image_name=candidate.image_name,
                            person=candidate.folder,
                            distance=candidate.distance,
                            likeness=candidate.likeness,
                        )
                        for candidate in face.candidates
                    ],
                )
                for face in TWO_FACES
            ],
        )

    async def HealthCheck(  # noqa: N802
        self,
        request: face_pb2.Empty,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> face_pb2.HealthCheckResponse:
        """Tell the engine, and of strangers what is true of dlib's encodings."""
        return face_pb2.HealthCheckResponse(
            ready=True,
            engine=self.engine,
            strangers_product=DLIB.product.pairs.product,
            strangers_decade=DLIB.product.pairs.decade,
        )
