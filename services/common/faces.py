"""What every service knows of a face: who may say whose it is, and how its encoding is kept."""

import math
import struct
from enum import StrEnum
from typing import Final

MAX_NUMBERS: Final = 4096
"""In the largest encoding that an engine may make."""


MOST_FACES: Final = 1000
"""Of one picture, the largest; as they are cut out they take 70 MB. With those that people draw."""

MIN_SIDE: Final = 8
"""Pixels on a side of a box that somebody asks for. Those that are found have more, also where the
picture's edge leaves half of the smallest."""

MAX_FACES: Final = 4096
"""In a request to decide on them: with 100,000 people their comparison takes some seconds."""


class DecidedBy(StrEnum):
    """Who said whose face it is, or that it is nobody's who is known."""

    MACHINE = "machine"
    HAND = "hand"


def check_encoding(content: object) -> bytes:
    """Return a face's encoding: float32, little-endian, at most :data:`MAX_NUMBERS`.

    Raises ``ValueError`` for what cannot be compared: what is no such bytes, has a number that is
    not finite, or nothing but 0, which has no direction. The message shows no number.
    """
    if not isinstance(content, bytes):
        raise ValueError(f"an encoding is not {type(content).__name__}")  # noqa: TRY004, as others
    if not content or len(content) % 4 or len(content) > 4 * MAX_NUMBERS:
        raise ValueError(f"{len(content)} bytes are no encoding")
    numbers = struct.unpack(f"<{len(content) // 4}f", content)
    if not all(map(math.isfinite, numbers)) or not any(numbers):
        raise ValueError("an encoding with numbers that are not finite, or with nothing but 0")
    return content
