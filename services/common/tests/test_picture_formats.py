"""Pictures as people have them, through the one way in which all services open them."""

import io
import itertools
import json
import os
import re
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from services.common.faces import Box
from services.common.orientation import TURNS
from services.common.picture_decoding import MAX_PIXELS, PictureError, open_picture
from services.common.picture_files.heif import _frame_size
from services.common.picture_formats import ACCEPTED, FORMATS, TITLES
from services.face_recog.adapters import recognition
from services.receiver.adapters import decoding
from services.testing.damaged_pictures import save, tiff
from services.testing.picture_kinds import (
    PROFILED,
    TURNED,
    PictureKind,
    claims,
    long_stream,
    many_tags,
    picture_kinds,
    sequence_header,
    swapping_profile,
)
from services.testing.samples import sample


def photograph() -> Image.Image:
    """128 x 192 of a face and what is around it, without the file's notes."""
    whole = Image.open(sample("astronaut.png")).convert("RGB")
    return Image.fromarray(np.asarray(whole.crop((100, 20, 356, 404)).resize((128, 192))))


NAMES = sorted(picture_kinds(Image.linear_gradient("L").convert("RGB").resize((16, 16))))


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return photograph()


@pytest.fixture(scope="module")
def kinds(photo: Image.Image) -> dict[str, PictureKind]:
    return picture_kinds(photo)


def shown(content: bytes, size: tuple[int, int] | None = None) -> Image.Image:
    return open_picture(content).decode(size).upright(size)


def difference(one: Image.Image, other: Image.Image) -> float:
    assert one.mode == other.mode == "RGB"
    assert one.size == other.size
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).mean())


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_picture_is_shown_as_it_was_meant(
    kinds: dict[str, PictureKind], name: str
) -> None:
    one = kinds[name]
    picture = open_picture(one.content)
    assert picture.file.kind == one.kind
    assert picture.size == one.shows.size
    assert difference(picture.decode().upright(), one.shows) < 5
    small = one.shows.width // 2, one.shows.height // 2
    assert difference(shown(one.content, small), one.shows.resize(small)) < 7
    part = open_picture(one.content).decode().part((-9, 8, 70, 90))
    assert difference(part, one.shows.crop((0, 8, 70, 90))) < 5


def test_there_is_a_picture_of_every_format(kinds: dict[str, PictureKind]) -> None:
    assert {one.kind for one in kinds.values()} == {one.kind for one in FORMATS}
    for one in FORMATS:
        assert one.title in TITLES
        assert one.media_type in ACCEPTED.split(",")


@pytest.mark.parametrize("name", NAMES)
def test_every_service_opens_it(kinds: dict[str, PictureKind], name: str) -> None:
    one = kinds[name]
    _, width, height = recognition._load(one.content)
    assert (width, height) == one.shows.size
    [cut] = decoding.crops(one.content, Box(10, 10, 60, 90), (0,))
    assert Image.open(io.BytesIO(cut)).size == (50, 80)
    small = decoding.shrunk(one.content, 64)
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.height) == ("JPEG", 64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", TURNED)
def test_it_is_turned_once(photo: Image.Image, kind: str, orientation: int) -> None:
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = undo.get(orientation, TURNS.get(orientation))
    stored = photo if turn is None else photo.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_picture(save(stored, kind, exif=exif.tobytes()))
    assert picture.size == photo.size
    assert difference(picture.decode().upright(), photo) < 6
    small = 64, 96
    assert difference(picture.decode(small).upright(small), photo.resize(small)) < 7
    box = 20, 40, 90, 150
    assert difference(picture.decode().part(box), photo.crop(box)) < 7


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("options", [{}, {"order": ">"}, {"kind": 4}])
def test_exif_turns_nothing_that_has_a_header_of_its_own_for_that(
    photo: Image.Image, kind: str, options: dict[str, Any]
) -> None:
    turned = tiff(6, **options)
    other = turned.replace(b"\x12\1", b"\x13\1").replace(b"\1\x12", b"\1\x13")
    content = save(photo, kind, exif=b"Exif\0\0" + other)
    assert content.count(other) == 1
    assert difference(shown(content.replace(other, turned)), photo) < 6


@pytest.mark.parametrize("kind", PROFILED)
def test_colours_follow_the_profile(kind: str) -> None:
    red = Image.new("RGB", (64, 64), (230, 20, 20))
    options = {"quality": 95} if kind != "PNG" else {}
    content = save(red, kind, icc_profile=swapping_profile(), **options)
    green = Image.new("RGB", (64, 64), (20, 230, 20))
    assert difference(shown(content), green) < 12
    assert difference(shown(content, (32, 32)), green.resize((32, 32))) < 12
    assert (
        difference(open_picture(content).decode().part((1, 1, 9, 9)), green.crop((1, 1, 9, 9))) < 12
    )


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *itertools.product(PROFILED, ("RGB", "L")),
        *itertools.product(("PNG", "WEBP", "TIFF", "AVIF", "HEIF"), ("RGBA",)),
        *itertools.product(("JPEG", "TIFF"), ("CMYK",)),
    ],
)
def test_a_profile_that_is_broken_or_of_other_pixels_is_ignored(kind: str, mode: str) -> None:
    image = Image.new("RGB", (64, 64), (180, 90, 60)).convert(mode)
    profiles = [b"junk" * 9, swapping_profile()[:400]]
    if mode in {"L", "CMYK"}:
        profiles.append(swapping_profile())
    for profile in profiles:
        plain, noted = save(image, kind), save(image, kind, icc_profile=profile)
        assert difference(shown(noted), shown(plain)) < 1


def test_a_profile_of_srgb_changes_no_pixel() -> None:
    noise = Image.merge("RGB", [Image.effect_noise((64, 64), 90) for _ in range(3)])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(shown(save(noise, "PNG", icc_profile=profile)), noise) == 0
    named = swapping_profile("sRGB")  # taken at its word, for it is what nearly every profile is
    assert difference(shown(save(noise, "PNG", icc_profile=named)), noise) == 0


@pytest.mark.parametrize("wide", [-32768, 0, 32767])
def test_sixteen_bits_are_scaled_in_one_way(wide: int) -> None:
    for kind in ("PNG", "TIFF"):
        deep = Image.new("I;16", (8, 8), 32768 + wide)
        assert shown(save(deep, kind)).getpixel((3, 3)) == ((32768 + wide) >> 8,) * 3


def test_what_has_32_bits_a_colour_is_refused() -> None:
    for mode in ("I", "F"):
        with pytest.raises(PictureError, match="32 bits a colour"):
            open_picture(save(Image.new(mode, (8, 8)), "TIFF")).decode()


def test_a_gif_whose_first_picture_is_smaller_or_beside_its_screen() -> None:
    content = bytearray(save(Image.new("P", (40, 30), 1), "GIF"))
    at = content.index(b",", 13 + (3 << (content[10] & 7) + 1 if content[10] & 128 else 0))
    content[6:10] = struct.pack("<HH", 20, 60)
    content[at + 1 : at + 5] = struct.pack("<HH", 10, 5)
    assert open_picture(bytes(content)).size == (50, 60)
    assert shown(bytes(content)).size == (50, 60)


# Limits


@pytest.mark.parametrize("kind", [one.kind for one in FORMATS])
def test_more_pixels_than_the_limit_are_refused_from_the_header(
    photo: Image.Image, kind: str
) -> None:
    limit = {"JPEG": 200_000_000, "WEBP": 50_000_000, "AVIF": 50_000_000}.get(kind, 64_000_000)
    height = limit // 16_000
    with pytest.raises(PictureError, match=f"16000 x {height + 1} pixels, .* {limit:,}") as error:
        open_picture(claims(photo, kind, 16_000, height + 1))
    assert error.value.too_large
    with suppress(PictureError):  # what is not there is missed after the size is read
        assert open_picture(claims(photo, kind, 16_000, height)).size == (16_000, height)


def in_two_scans(photo: Image.Image) -> bytes:
    """A JPEG that is not progressive, and says that its first scan holds one of three colours."""
    content = bytearray(save(photo, quality=92))
    content[content.index(b"\xff\xda") + 4] = 1
    return bytes(content)


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_several_scans_is_held_to_the_limit_of_the_others(
    photo: Image.Image, progressive: bool
) -> None:
    """Decoders keep all of it, however small it is wanted."""
    content = save(photo, progressive=True) if progressive else in_two_scans(photo)
    at = re.search(rb"\xff[\xc0\xc2]\0", content)
    assert at
    for height, taken in ((MAX_PIXELS // 16_000, True), (MAX_PIXELS // 16_000 + 1, False)):
        size = struct.pack(">HH", height, 16_000)
        claim = content[: at.start() + 5] + size + content[at.start() + 9 :]
        if taken:
            assert open_picture(claim).size == (16_000, height)
        else:
            with pytest.raises(PictureError, match="progressive picture has 16000") as error:
                open_picture(claim)
            assert error.value.too_large


def test_of_a_jpeg_with_too_many_pixels_fewer_are_decoded(photo: Image.Image) -> None:
    large = photo.resize((8_200, 12_300))
    content = save(large, quality=50)
    picture = open_picture(content)
    pixels = picture.decode()
    assert (picture.size, pixels.stored.size) == ((8_200, 12_300), (4_100, 6_150))
    assert difference(pixels.part((1_000, 2_000, 5_001, 8_001)), _part(large)) < 5
    assert picture.decode((9_000, 14_000)).stored.size == (4_100, 6_150)
    assert picture.decode((300, 400)).stored.size == (1_025, 1_538)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = open_picture(save(large.transpose(Image.Transpose.ROTATE_90), quality=50, exif=exif))
    assert turned.size == (8_200, 12_300)
    assert difference(turned.decode().part((1_000, 2_000, 5_001, 8_001)), _part(large)) < 5


def _part(large: Image.Image) -> Image.Image:
    return large.crop((1_000, 2_000, 5_002, 8_002)).resize((2_001, 3_001))


def test_the_decoder_of_tiff_writes_nothing_on_standard_error(photo: Image.Image) -> None:
    script = """
import random, sys
from services.common.picture_decoding import PictureError, open_picture
content, chance = sys.stdin.buffer.read(), random.Random(1)
refused = 0
for _ in range(60):
    broken = bytearray(content)
    for _ in range(4):
        broken[chance.randrange(8, len(broken))] ^= 1 << chance.randrange(8)
    try:
        open_picture(bytes(broken)).decode()
    except PictureError:
        refused += 1
print(refused)
"""
    grey = photo.convert("L")
    for image, packing in ((grey, "tiff_adobe_deflate"), (grey.convert("1"), "group4")):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],  # Python's own warnings are others
            input=save(image, "TIFF", compression=packing),
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        assert int(done.stdout) > 0
        assert done.stderr == b""


def test_tiles_and_streams_larger_than_the_limit_are_refused_too(
    photo: Image.Image, kinds: dict[str, PictureKind]
) -> None:
    grid = kinds["HEIF in tiles"].content
    size = struct.pack(">HH", *photo.size)
    large = grid.replace(b"\0\0\2\1" + size, b"\0\0\2\1" + struct.pack(">HH", 60_000, 60_000))
    tile = bytearray(kinds["TIFF in tiles"].content)
    at = tile.index(struct.pack(">HHI", 322, 4, 1)) + 8
    tile[at : at + 4] = struct.pack(">I", 4_000_000)
    assert large != grid
    for content in (large, bytes(tile), long_stream(photo)):
        with pytest.raises(PictureError) as error:
            open_picture(content)
        assert error.value.too_large


def test_the_size_of_a_stream_is_read_from_it(kinds: dict[str, PictureKind]) -> None:
    assert _frame_size(sequence_header(640, 480)) == (640, 480)
    content = kinds["AVIF"].content
    assert _frame_size(content[content.rindex(b"mdat") + 4 :]) == kinds["AVIF"].shows.size
    moving = kinds["AVIF moving"].content
    assert open_picture(moving).size == kinds["AVIF moving"].shows.size


def memory_of(content: bytes) -> int:
    """MiB that a process grows by when it opens and shows a picture, whatever comes of it."""
    script = """
import sys
from services.common.picture_decoding import PictureError, open_picture
from services.testing.memory import peak_kib
content = sys.stdin.buffer.read()
before = peak_kib()
try:
    open_picture(content).decode((64, 64)).upright((64, 64))
except PictureError as error:
    assert str(error)
print((peak_kib() - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=content,
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    return int(json.loads(done.stdout))


def test_small_files_take_little_memory_whatever_they_say(photo: Image.Image) -> None:
    lying = bytearray(
        save(Image.new("RGB", (4000, 3000)), "HEIF", enc_params={"preset": "ultrafast"})
    )
    at = lying.index(b"ispe") + 8
    lying[at : at + 8] = struct.pack(">II", 64, 64)
    for content in (many_tags(), bytes(lying), claims(photo, "AVIF", 64, 64)):
        assert memory_of(content) < 40


def test_a_lack_of_memory_is_no_damage() -> None:
    script = """
import sys
from services.common.picture_decoding import open_picture
from services.face_recog.adapters.worker import _limit_growth
picture = open_picture(sys.stdin.buffer.read())
_limit_growth(45 * 1024**2)
try:
    picture.decode()
except MemoryError:
    print("no memory")
"""
    large = Image.new("RGB", (4000, 3000))
    for content in (save(large, "AVIF", speed=10), save(large, "PNG")):
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=content,
            check=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        assert done.stdout == b"no memory\n"


# Damage


WHOLE_IN_A_HALF = {"GIF moving", "JPEG progressive", "JPEG several", "TIFF of several pages"}
"""Of which the first half shows the first picture, or all of it less sharply."""


@pytest.mark.parametrize("name", sorted({*NAMES} - WHOLE_IN_A_HALF))
def test_half_a_file_is_refused_as_cut_off(kinds: dict[str, PictureKind], name: str) -> None:
    content = kinds[name].content
    with pytest.raises(PictureError, match="cut off"):
        shown(content[: len(content) // 2])


@pytest.mark.parametrize("name", NAMES)
def test_junk_behind_the_end_is_no_damage(kinds: dict[str, PictureKind], name: str) -> None:
    one = kinds[name]
    assert difference(shown(one.content + b"junk" * 99), one.shows) < 5


def test_notes_that_are_broken_are_no_damage(photo: Image.Image) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):  # Pillow writes no such notes into others
        for exif in (b"Exif\0\0" + b"II*\0\xff", b"Exif\0\0" + tiff()[:17], b"Exif\0\0junk"):
            content = save(photo, kind, exif=exif)
            assert difference(shown(content), photo) < 6, kind
    comment = save(photo.quantize(), "GIF", comment=b"x" * 999)
    assert difference(shown(comment), photo) < 6


def test_a_film_beside_the_still_picture_is_never_looked_at(kinds: dict[str, PictureKind]) -> None:
    one = kinds["AVIF moving"]
    at = one.content.index(b"moov") + 4
    assert (
        difference(shown(one.content[:at] + b"\xff" * 99 + one.content[at + 99 :]), one.shows) < 5
    )


@pytest.mark.parametrize("name", ["BMP run lengths", "BMP run lengths, 4 bits"])
def test_blank_rows_take_the_place_of_few_run_lengths(
    kinds: dict[str, PictureKind], name: str
) -> None:
    content = kinds[name].content
    whole = shown(content)
    rows = 0, whole.height // 4, *whole.size
    for size in range(len(content) * 97 // 100, len(content), 13):  # whatever run is cut
        assert difference(shown(content[:size]).crop(rows), whole.crop(rows)) == 0


def test_blank_rows_take_the_place_of_few_that_are_missing(photo: Image.Image) -> None:
    whole = save(photo, "BMP")
    cut = shown(whole[: len(whole) * 95 // 100])
    assert difference(cut.crop((0, 10, *photo.size)), photo.crop((0, 10, *photo.size))) == 0
    assert cut.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "cut off"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\x08moov", "this is a video"),
        (b"II+\0\x08\0\0\0", "this is BigTIFF"),
        (b"II*\0\x10\0\0\0", "cut off"),
        (b"GIF89a", "cut off"),
        (b"BM\0\0\0\0\0\0\0\0", "cut off"),
    ],
)
def test_what_holds_no_picture_is_refused_with_the_reason(content: bytes, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        open_picture(content)


def test_a_camera_s_raw_file_is_not_its_small_copy(photo: Image.Image) -> None:
    for tag, value in ((254, 1), (50706, 0x01040000)):
        content = save(photo, "TIFF", tiffinfo={tag: value})
        with pytest.raises(PictureError, match="raw format"):
            open_picture(content)
