"""The demo's pictures: variants of two photographs, made by code, and what must come of each."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from PIL import Image, ImageDraw, ImageOps

from services.local.errors import LocalError

EILEEN: Final = "Eileen Collins"
GRACE: Final = "Grace Hopper"

KNOWN: Final = {EILEEN: "astronaut.png", GRACE: "grace_hopper.jpg"}
"""Each person's one known picture, as it was published."""

Endpoint = Literal["POST /image/post", "POST /images/post", "POST /images"]
Photos = Mapping[str, Image.Image]


@dataclass(frozen=True)
class Sample:
    """A picture to submit and what must come of it.

    ``make`` returns the file, or is None when there is none. ``error`` is a word of the reason.
    ``same_as`` is the name of an earlier sample whose id must come back.
    """

    name: str
    endpoint: Endpoint
    make: Callable[[Photos], bytes] | None
    status: Literal["processed", "rejected"]
    people: tuple[str, ...] = ()
    error: str = ""
    same_as: str | None = None


def load_photos(folder: Path) -> dict[str, Image.Image]:
    """Read each known person's photograph, or raise :class:`LocalError`."""
    photos = {}
    for person, name in KNOWN.items():
        try:
            with Image.open(folder / name) as photo:
                photos[person] = photo.convert("RGB")
        except OSError:
            raise LocalError(
                f"the sample picture {folder / name} is missing or damaged: run 'make samples'"
            ) from None
    return photos


def _jpeg(picture: Image.Image, quality: int = 90, exif: Image.Exif | None = None) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, exif=exif or Image.Exif())
    return file.getvalue()


def _scaled(person: str) -> Callable[[Photos], bytes]:
    return lambda photos: _jpeg(ImageOps.scale(photos[person], 0.7))


def _recompressed(person: str) -> Callable[[Photos], bytes]:
    return lambda photos: _jpeg(photos[person], quality=35)


def _flipped(person: str) -> Callable[[Photos], bytes]:
    return lambda photos: _jpeg(ImageOps.mirror(photos[person]))


def _side_by_side(photos: Photos) -> bytes:
    both = Image.new("RGB", (4000, 2400), "white")
    for position, person in enumerate(KNOWN):
        half = ImageOps.contain(photos[person], (2000, 2400))
        both.paste(half, (position * 2000 + (2000 - half.width) // 2, (2400 - half.height) // 2))
    return _jpeg(both)


def _phone_photo(photos: Photos) -> bytes:
    # A phone held upright stores the picture lying down and says so: 6 is "turn right to view".
    exif = Image.Exif()
    exif[0x0112] = 6
    return _jpeg(photos[GRACE].transpose(Image.Transpose.ROTATE_90), exif=exif)


def _landscape(_: Photos) -> bytes:
    picture = Image.new("RGB", (800, 600), "skyblue")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((620, 60, 720, 160), fill="gold")
    draw.polygon([(0, 600), (0, 420), (300, 250), (520, 430), (800, 300), (800, 600)], fill="green")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _text(_: Photos) -> bytes:
    return b"This is a shopping list: bread, butter, milk.\n"


SAMPLES: Final = (
    Sample("eileen-scaled.jpg", "POST /image/post", _scaled(EILEEN), "processed", (EILEEN,)),
    Sample("grace-scaled.jpg", "POST /image/post", _scaled(GRACE), "processed", (GRACE,)),
    Sample("landscape.png", "POST /image/post", _landscape, "processed"),
    Sample("does-not-exist.jpg", "POST /image/post", None, "rejected", error="there is no picture"),
    Sample("eileen-flipped.jpg", "POST /images/post", _flipped(EILEEN), "processed", (EILEEN,)),
    Sample("grace-flipped.jpg", "POST /images/post", _flipped(GRACE), "processed", (GRACE,)),
    Sample("phone-photo.jpg", "POST /images/post", _phone_photo, "processed", (GRACE,)),
    Sample(
        "eileen-scaled.jpg",
        "POST /images/post",
        _scaled(EILEEN),
        "processed",
        (EILEEN,),
        same_as="eileen-scaled.jpg",
    ),
    Sample("eileen-quality35.jpg", "POST /images", _recompressed(EILEEN), "processed", (EILEEN,)),
    Sample("grace-quality35.jpg", "POST /images", _recompressed(GRACE), "processed", (GRACE,)),
    Sample("both-4000-pixels.jpg", "POST /images", _side_by_side, "processed", (EILEEN, GRACE)),
    Sample("no-image.jpg", "POST /images", _text, "rejected", error="no picture"),
    Sample(
        "grace-again.jpg",
        "POST /images",
        _recompressed(GRACE),
        "processed",
        (GRACE,),
        same_as="grace-quality35.jpg",
    ),
)
"""In the order in which they are submitted; one request for each row of neighbours in bulk."""
