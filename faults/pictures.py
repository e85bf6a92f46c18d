"""Small pictures whose answer is known, as many different ones as are asked for."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps

from faults.accounting import Answer
from services.common.image_states import Status
from services.local.samples import EILEEN, GRACE, load_photos

_FACES: Final = {EILEEN: (175, 76, 265, 166), GRACE: (180, 139, 366, 325)}
"""Left, top, right, bottom in the sample photographs."""

_SMALL: Final = 112  # pixels; found in 10 ms, encoded in 100 ms


@dataclass(frozen=True)
class Picture:
    """A file and what must come of it."""

    content: bytes
    answer: Answer


class Pictures:
    """Takes turns between a face, another one, both, none, and what is no picture."""

    def __init__(self, samples: Path) -> None:
        photos = load_photos(samples)
        small = {
            person: ImageOps.contain(_around(photos[person], person, 0.4), (_SMALL, _SMALL))
            for person in _FACES
        }
        both = Image.new("RGB", (2 * _SMALL, _SMALL))
        for index, face in enumerate(small.values()):
            both.paste(face, (index * _SMALL, 0))
        landscape = Image.linear_gradient("L").resize((_SMALL, _SMALL)).convert("RGB")
        one = [
            Picture(_jpeg(face), Answer(Status.PROCESSED, (name,))) for name, face in small.items()
        ]
        self._kinds: Final = (
            *one,
            Picture(_jpeg(landscape), Answer(Status.PROCESSED)),
            *one,
            Picture(_jpeg(both), Answer(Status.PROCESSED, (EILEEN, GRACE))),
            Picture(b"This is no picture.", Answer(Status.REJECTED)),
        )
        self.known = {person: _jpeg(_around(photos[person], person, 0.6)) for person in _FACES}
        """A known picture of each person."""

    def kind(self, number: int) -> Picture:
        """Return one of the kinds; the same content may be returned again."""
        return self._kinds[number % len(self._kinds)]

    def unique(self, number: int) -> Picture:
        """Return one of the kinds with content of its own: what follows a picture is not read."""
        kind = self.kind(number)
        mark = hashlib.sha256(number.to_bytes(8, "big")).digest()
        return Picture(kind.content + mark, kind.answer)


def _around(photo: Image.Image, person: str, margin: float) -> Image.Image:
    left, top, right, bottom = _FACES[person]
    room = margin * (bottom - top)
    box = (
        max(0, round(left - room)),
        max(0, round(top - room)),
        min(photo.width, round(right + room)),
        min(photo.height, round(bottom + room)),
    )
    return photo.crop(box)


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
