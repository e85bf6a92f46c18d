import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.common.faces import Box
from services.common.orientation import TURNS
from services.common.picture_decoding import PictureError, open_picture
from services.common.picture_formats import format_of
from services.face_recog.adapters import recognition
from services.face_recog.domain.errors import RejectedError
from services.receiver.adapters import decoding
from services.receiver.domain.errors import InvalidError
from services.testing.damaged_pictures import Damaged, damaged_pictures, png, png_chunks, save, tiff
from services.testing.picture_kinds import picture_kinds
from services.testing.samples import sample


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """256 x 256, with one face."""
    return Image.open(sample("astronaut.png")).convert("RGB").resize((256, 256))


NAMES = sorted(damaged_pictures(Image.new("RGB", (64, 64))))


@pytest.fixture(scope="module")
def damaged(photo: Image.Image) -> dict[str, Damaged]:
    return damaged_pictures(photo)


def share_of_rows(image: Image.Image, photo: Image.Image) -> float:
    """The share of the photograph's rows that an image shows."""
    shown, wanted = (np.asarray(one.convert("L")).astype(int) for one in (image, photo))
    rows = np.abs(shown - wanted).mean(axis=1)
    return float((rows < 12).mean())  # a palette and printing colours are less exact


@pytest.mark.parametrize("name", NAMES)
def test_sound_pixels_are_taken_whatever_is_beside_them(
    damaged: dict[str, Damaged], photo: Image.Image, name: str
) -> None:
    one = damaged[name]
    if one.refusal:
        with pytest.raises(PictureError, match=one.refusal):
            open_picture(one.content).decode()
        return
    picture = open_picture(one.content)
    assert picture.file.orientation == one.orientation
    assert picture.size == photo.size
    upright = photo.transpose(TURNS[one.orientation]) if one.orientation in TURNS else photo
    assert share_of_rows(picture.decode().upright(), upright) > 0.9


def takes(content: bytes) -> dict[str, str]:
    """What each service says: an empty reason when it takes the picture."""
    answers = {}
    try:
        recognition._load(content)
        answers["face_recog"] = ""
    except RejectedError as error:
        answers["face_recog"] = str(error)
    try:
        decoding.crops(content, Box(0, 0, 1, 1), (0,))
        answers["receiver"] = ""
    except InvalidError as error:
        answers["receiver"] = str(error)
    try:
        decoding.shrunk(content, 64)
        answers["thumbnail"] = ""
    except InvalidError as error:
        answers["thumbnail"] = str(error)
    return answers


@pytest.mark.parametrize("name", NAMES)
def test_every_service_takes_the_same_files(damaged: dict[str, Damaged], name: str) -> None:
    one = damaged[name]
    answers = takes(one.content)
    assert {bool(reason) for reason in answers.values()} == {bool(one.refusal)}, answers
    if one.refusal:
        assert answers["receiver"] == f"the picture cannot be read: {answers['face_recog']}"


SMALL = Image.effect_noise((61, 47), 90).convert("RGB")
TURNED = b"Exif\0\0" + tiff()
SOUND = [
    save(SMALL, "PNG"),
    save(SMALL.convert("RGBA"), "PNG"),
    save(SMALL.convert("P"), "PNG", transparency=bytes(range(256))),
    save(SMALL.convert("LA"), "PNG"),
    save(SMALL.convert("1"), "PNG", transparency=0),
    save(SMALL.convert("L").convert("I;16"), "PNG"),
    save(SMALL, "PNG", transparency=(1, 2, 3), exif=TURNED),
    save(SMALL, exif=TURNED),
    save(SMALL, progressive=True),
    save(SMALL, restart_marker_blocks=2),
    save(SMALL.convert("CMYK")),
    save(SMALL.convert("L")),
    save(SMALL, "MPO", save_all=True, append_images=[SMALL.rotate(90)]),
    save(SMALL, "WEBP", exif=TURNED),
    save(SMALL, "WEBP", lossless=True),
    save(SMALL.convert("RGBA"), "WEBP"),
    save(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(90)]),
    *(one.content for one in picture_kinds(SMALL.resize((24, 16))).values()),
]


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A sound file after bits were flipped, bytes changed, lost or added, or its end cut."""
    content = bytearray(draw(st.sampled_from(SOUND)))
    is_png = content.startswith(b"\x89PNG")
    for _ in range(draw(st.integers(1, 4))):
        # Mostly headers: what is behind them is the decoders' everyday life.
        at = draw(st.integers(0, 500) | st.integers(0, len(content)))
        match draw(st.integers(0, 5)):
            case 0 if at < len(content):
                content[at] ^= 1 << draw(st.integers(0, 7))
            case 1 if at < len(content):
                content[at] = draw(st.integers(0, 255))
            case 2:
                content[at:at] = draw(st.binary(max_size=20))
            case 3:
                del content[at : at + draw(st.integers(1, 20))]
            case 4:
                del content[len(content) - draw(st.integers(0, len(content))) :]
            case 5:  # a length, a place, a number of pixels
                content[at : at + 4] = struct.pack(">I", draw(st.integers(0, 2**32 - 1)))
    if is_png and draw(st.booleans()):
        try:
            return png(png_chunks(bytes(content)))  # with checksums that are right
        except struct.error:
            pass
    return bytes(content)


def agree(content: bytes) -> None:
    answers = takes(content)
    assert len({bool(reason) for reason in answers.values()}) == 1, answers
    reason = answers["face_recog"]
    if format_of(content):
        assert "; send JPEG, " not in reason, "nobody is told to send what was sent"
    assert "<" not in reason, "no object of a library is shown to people"


@settings(max_examples=300)
@given(mutations())
def test_all_agree_on_any_damage_and_nothing_but_a_refusal_is_raised(content: bytes) -> None:
    agree(content)


@pytest.mark.long
@settings(max_examples=20_000)
@given(mutations() | st.binary() | st.binary().map(lambda end: b"\xff\xd8\xff" + end))
def test_all_agree_on_very_much_damage(content: bytes) -> None:
    agree(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"hello", "this is no picture; send JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF"),
        (bytes(1000), "this is no picture"),
        (save(SMALL, "ICO"), "this is an icon"),
        (save(SMALL, "JPEG2000"), "this is JPEG 2000"),
        (b"\0\0\0\x18ftypmp42", "this is a video"),
        (b" <svg xmlns='http://www.w3.org/2000/svg'/>", "this is SVG"),
        (b"<?xml version='1.0'?><svg/>", "this is SVG"),
        (b"<!DOCTYPE html><html>", "this is a web page"),
        (b"%PDF-1.7", "this is PDF"),
        (b"PK\3\4", "this is a ZIP archive"),
        (b"8BPS", "this is a Photoshop file"),
        (b"\n" + save(SMALL), "this is no picture"),
        (b"\xff\xd8\xff\xd9", "it has no pixels"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_the_reason_says_what_the_file_is(content: bytes, words: str) -> None:
    with pytest.raises(PictureError) as error:
        open_picture(content)
    assert str(error.value).startswith(words) or words in str(error.value)


def test_a_grey_end_is_no_missing_end() -> None:
    """Decoders leave what is missing grey, as some pictures are."""
    for background in ("gray", "black", "white"):
        canvas = Image.new("RGB", (400, 400), background)
        canvas.paste(SMALL, (20, 20))
        for options in ({}, {"progressive": True}, {"restart_marker_blocks": 3}):
            content = save(canvas, **options)
            picture = open_picture(content[:-2]).decode().stored
            assert np.array_equal(np.asarray(picture), np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("share", "taken"), [(0.97, True), (0.92, True), (0.85, False), (0.3, False)]
)
def test_a_tenth_may_be_missing(share: float, taken: bool, interlaced: bool) -> None:
    noise = Image.effect_noise((300, 300), 90)
    content = interlace(noise) if interlaced else save(noise, "PNG")
    for cut in (content[: int(len(content) * share)], save(noise)[: int(len(save(noise)) * share)]):
        picture = open_picture(cut)
        if taken:
            assert picture.decode().stored.size == (300, 300)
        else:
            with pytest.raises(PictureError, match=r"its last \d\d% are missing"):
                picture.decode()


def interlace(image: Image.Image) -> bytes:
    """A grey PNG whose rows come in Adam7's seven passes, which Pillow does not write."""
    pixels = np.asarray(image)
    rows = b""
    for left, top, across, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        for row in pixels[top::down, left::across]:
            rows += b"\0" + row.tobytes() if row.size else b""
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 0, 0, 0, 1)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 1), (1, 9), (33, 17)])
def test_an_interlaced_picture_that_lacks_its_end_is_the_same(size: tuple[int, int]) -> None:
    noise = Image.effect_noise(size, 90)
    content = interlace(noise)
    assert np.array_equal(np.asarray(open_picture(content).decode().stored), np.asarray(noise))
    cut = open_picture(content[:-20])  # the end, and checksums of the pixels
    assert np.array_equal(np.asarray(cut.decode().stored), np.asarray(noise))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_turns_are_those_of_the_standard(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG", "WEBP"):
        assert open_picture(save(SMALL, kind, exif=exif)).file.orientation == orientation
    assert (orientation in TURNS) == (orientation > 1)


def test_notes_that_unpack_to_much_take_no_memory() -> None:
    script = """
import json, sys, time
from services.common.picture_formats import format_of
from services.common.picture_decoding import open_picture
from services.testing.memory import peak_kib
content = sys.stdin.buffer.read()
before = peak_kib()
start = time.process_time()
open_picture(content).decode()
print(json.dumps([peak_kib() - before, time.process_time() - start]))
"""
    bomb = zlib.compress(bytes(400_000_000), 9)
    chunks = png_chunks(save(SMALL, "PNG"))
    for kind, head in (
        (b"zTXt", b"a\0\0"),
        (b"iTXt", b"a\0\1\0\0\0"),
        (b"iCCP", b"a\0\0"),
        (b"zTXt", b"Raw profile type exif\0\0"),
    ):
        content = png([chunks[0], (kind, head + bomb), *chunks[1:]])
        result = subprocess.run(
            [sys.executable, "-c", script],
            input=content,
            check=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        kilobytes, _ = json.loads(result.stdout)
        assert kilobytes < 20_000
