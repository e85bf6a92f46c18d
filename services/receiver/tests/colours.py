"""Pictures of coloured squares, each of which a fake recogniser takes for a face."""

import asyncio
import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from services.common.facerecog import face_pb2
from services.testing.recogniser import RecogniserServer

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def draw(*squares: tuple[str, tuple[int, int, int, int]], size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, "white")
    for colour, box in squares:
        image.paste(COLOURS[colour], box)
    return image


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def count_colours(content: bytes) -> int:
    """Count the colours of which a picture has at least ten pixels, as JPEG blurs them."""
    pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    return sum(
        int((abs(pixels - colour).max(axis=2) < 60).sum()) >= 10 for colour in COLOURS.values()
    )


class FakeRecogniser(RecogniserServer):
    """A recogniser for which each colour in a picture is such a ``face``."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.engine = "fake"
        self.persons: list[str] = []
        self.face = face_pb2.Face()  # as an older face_recog answers
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def Identify(self, request: Any, context: Any) -> face_pb2.IdentifyResponse:  # noqa: N802
        self.asked += 1
        self.persons.append(request.person)
        self.was_asked.set()
        await self.may_answer.wait()
        try:
            faces = count_colours(request.image_data)
        except (UnidentifiedImageError, OSError):
            return face_pb2.IdentifyResponse(
                status=face_pb2.STATUS_UNREADABLE, reason="this is no picture"
            )
        found = [self.face] * faces
        if request.boxes:
            found = [face_pb2.Face(box=box) for box in request.boxes]
            for one in found:
                one.MergeFrom(self.face)
        return face_pb2.IdentifyResponse(status=face_pb2.STATUS_OK, faces=found, engine=self.engine)

    async def HealthCheck(  # noqa: N802
        self,
        request: face_pb2.Empty,
        context: Any,
    ) -> face_pb2.HealthCheckResponse:
        return face_pb2.HealthCheckResponse(
            ready=True, engine=self.engine, strangers_product=0.9, strangers_decade=0.02
        )
