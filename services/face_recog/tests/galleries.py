"""A gallery whose recogniser costs nothing, and the pictures that it knows."""

import asyncio
import hashlib
from typing import Any, Final

import numpy as np

from services.common.errors import RecogniserFailedError
from services.common.faces import Box
from services.common.quality import FIT, Flaw, Quality
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import RejectedError, Rejection
from services.face_recog.domain.faces import DetectedFace, Encoding, Recognition
from services.face_recog.domain.strangers import DLIB
from services.face_recog.service.gallery import Gallery
from services.testing.recogniser import PictureContent

ENGINE: Final = Engine("dlib-1+rules-1", 128)


def showing(*people: object) -> bytes:
    """The content of a picture in which :class:`FakeRecogniser` finds their faces."""
    return " and ".join(f"face of {person}" for person in people).encode() or b"nobody"


BLURRED: Final = showing("somebody who moved")


class FakeRecogniser:
    """Finds whom a picture is :func:`showing`; some :class:`PictureContent` make it fail."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.running = 0
        self.most = 0

    async def recognise(
        self,
        picture: bytes,
        *,
        max_faces: int = 0,
        boxes: Any = (),
        urgent: bool = False,
        on_long: Any = None,
    ) -> Recognition:
        assert urgent
        self.seen.append(picture)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if picture == PictureContent.UNREADABLE:
            raise RejectedError("not a picture", Rejection.UNREADABLE)
        if picture == PictureContent.FATAL:
            raise RecogniserFailedError("the worker process died")
        score = 0.25 if picture == BLURRED else 1.0
        quality = Quality(score, Flaw.BLURRED if score < FIT else None, 1.0, score, 1.0, 1.0)
        face = DetectedFace(Box(0, 0, 1, 1), 1.0, encoding_of(picture), quality=quality)
        return Recognition(1, 1, [face] * picture.count(b"face of"))


def encoding_of(picture: bytes) -> Encoding:
    """The encoding of each face in it."""
    seed = int.from_bytes(hashlib.sha256(picture).digest()[:4])
    return np.random.default_rng(seed).normal(size=128) / 8


def new_gallery(store: Any, recogniser: FakeRecogniser) -> Gallery:
    return Gallery(
        store,
        recogniser,
        engine=ENGINE,
        parallel=3,
        tails=DLIB,
        false_names=0.01,
    )


def names(gallery: Gallery, picture: bytes) -> list[str]:
    """The known pictures that are this very one."""
    nearest = gallery.people.nearest(encoding_of(picture), 10)
    return [likely.image_name for likely in nearest if likely.distance < 0.001]
