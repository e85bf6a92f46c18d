import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from services.common.faces import Box
from services.common.orientation import TURNS
from services.face_recog.adapters import recognition
from services.face_recog.adapters.classic import Classic
from services.face_recog.adapters.models import load_models
from services.face_recog.adapters.worker import NUMBER, Steps, answer
from services.face_recog.domain.errors import RejectedError, Rejection
from services.face_recog.domain.faces import Encoding, Recognition
from services.testing.damaged_pictures import Damaged, damaged_pictures, save


def recognise(content: bytes, max_faces: int) -> Recognition:
    """Do all steps, each face in one of its own."""
    models = load_models("classic")
    steps = Steps(models.engine, content, max_faces, 0)
    while True:
        if found := steps.take(answer(steps.request[NUMBER.size :], models)[NUMBER.size :]):
            return found


def is_same_person(one: Encoding, other: Encoding) -> bool:
    return float(np.linalg.norm(one - other)) < 0.4


def assert_near(box: Box, other: Box, *, pixels: int) -> None:
    for side in ("left", "top", "right", "bottom"):
        assert abs(getattr(box, side) - getattr(other, side)) <= pixels, (box, other)


def big_png(width: int, height: int, depth: int = 1) -> bytes:
    """A black picture that is small as a file, made without its pixels in memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    packer = zlib.compressobj(9)
    row = bytes(1 + (width * depth + 7) // 8)
    content = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def library() -> Any:
    """The package whose answers must be equalled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports pkg_resources
        import face_recognition  # noqa: PLC0415
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # it switches that on
    return face_recognition


@pytest.mark.parametrize(
    ("width", "kind"), [(2048, "JPEG"), (1024, "PNG"), (700, "JPEG"), (512, "PNG"), (256, "JPEG")]
)
def test_up_to_3_megapixels_equal_the_library(
    library: Any, astronaut: Image.Image, hopper: Image.Image, width: int, kind: str
) -> None:
    both = Image.new("RGB", (1024, 600), "gray")
    both.paste(astronaut, (0, 44))
    both.paste(hopper, (512, 0))
    content = save(both.resize((width, width * 600 // 1024)), kind)
    pixels = library.load_image_file(io.BytesIO(content))
    rectangles = library.api.face_detector(pixels, 1)
    _, scores, _ = library.api.face_detector.run(pixels, 1, 0.0)
    expected = [
        (box, encoding)
        for box, encoding, score in zip(
            library.face_locations(pixels), library.face_encodings(pixels), scores, strict=True
        )
        if score >= 0.4
    ]
    assert len(rectangles) >= len(expected) == (1 if width == 256 else 2)
    found = {
        (face.box.top, face.box.right, face.box.bottom, face.box.left): face.encoding
        for face in recognise(content, 0).faces
    }
    assert found.keys() == {box for box, _ in expected}
    for box, encoding in expected:
        assert np.array_equal(found[box], encoding)


def test_truncated_pictures_stay_refused_whatever_others_switch_on() -> None:
    script = """
import face_recognition
from PIL import ImageFile
assert ImageFile.LOAD_TRUNCATED_IMAGES
from services.face_recog.adapters.models import load_models
load_models("classic")
assert ImageFile.LOAD_TRUNCATED_IMAGES is False
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env=child_env())


def child_env() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "OPENBLAS_NUM_THREADS": "1",
    }


def test_a_huge_png_is_refused_from_its_header() -> None:
    content = big_png(13000, 13000)
    assert len(content) < 21_000
    script = """
import json, sys
from PIL import ImageFile
from services.face_recog.adapters.models import load_models
from services.face_recog.adapters.recognition import find
from services.face_recog.domain.errors import RejectedError
def peak():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1])
content = sys.stdin.buffer.read()
loads = []
ImageFile.ImageFile.load = lambda self: loads.append(self)
models = load_models("classic")
before = peak()
try:
    find(models, content, 0)
except RejectedError as error:
    print(json.dumps([error.rejection, str(error), peak() - before, len(loads)]))
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        input=content,
        check=True,
        stdout=subprocess.PIPE,
        env=child_env(),
    )
    rejection, reason, kilobytes, loads = json.loads(result.stdout)
    assert rejection == "too_large"
    assert "13000 x 13000" in reason
    assert kilobytes < 50_000
    assert loads == 0


def test_the_limit_of_a_png_is_64_megapixels() -> None:
    with pytest.raises(RejectedError) as error:
        recognise(big_png(10_000, 6_401), 0)
    assert error.value.rejection == Rejection.TOO_LARGE
    found = recognise(big_png(10_000, 6_400), 0)
    assert (found.width, found.height, found.faces) == (10_000, 6_400, [])


def test_a_webp_that_claims_to_be_huge_is_refused() -> None:
    content = bytearray(save(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    size = content.index(b"VP8L") + 9
    content[size : size + 4] = struct.pack("<I", 16382 | 16382 << 14)
    with pytest.raises(RejectedError) as error:
        recognise(bytes(content), 0)
    assert error.value.rejection == Rejection.TOO_LARGE


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(hopper: Image.Image, orientation: int, kind: str) -> None:
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = hopper
    if orientation > 1:
        turn = undo.get(orientation, TURNS.get(orientation))
        assert turn is not None
        stored = hopper.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind != "PNG" else {}
    content = save(stored, kind, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert upright.size == hopper.size  # Pillow reads the file as it was meant
    expected = recognise(save(hopper, "PNG"), 0)
    found = recognise(content, 0)
    assert (found.width, found.height) == (512, 600)
    [face] = found.faces
    assert_near(face.box, expected.faces[0].box, pixels=0 if kind == "PNG" else 8)
    assert is_same_person(face.encoding, expected.faces[0].encoding)


def test_a_large_turned_phone_photo(hopper: Image.Image) -> None:
    photo = Image.new("RGB", (3000, 4000), "gray")
    photo.paste(hopper.resize((2560, 3000)), (200, 800))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = recognise(save(photo.transpose(Image.Transpose.ROTATE_90), exif=exif), 0)
    assert (found.width, found.height) == (3000, 4000)
    [face] = found.faces
    assert_near(face.box, Box(1100, 1495, 2030, 2425), pixels=110)


def test_both_people_side_by_side_in_a_large_picture(
    astronaut: Image.Image, hopper: Image.Image
) -> None:
    both = Image.new("RGB", (4000, 2343), "gray")
    both.paste(astronaut.resize((2000, 2000)), (0, 0))
    both.paste(hopper.resize((2000, 2343)), (2000, 0))
    found = recognise(save(both), 0)
    assert [face.detection_score >= 0.4 for face in found.faces] == [True, True]
    left = recognise(save(astronaut, "PNG"), 0).faces[0].encoding
    right = recognise(save(hopper, "PNG"), 0).faces[0].encoding
    larger, smaller = found.faces
    assert is_same_person(larger.encoding, right)
    assert is_same_person(smaller.encoding, left)
    assert_near(smaller.box, Box(684, 297, 1035, 648), pixels=60)
    assert len(recognise(save(both), 1).faces) == 1


def test_a_small_face_in_a_large_picture_is_found_by_upsampling(hopper: Image.Image) -> None:
    crowd = Image.new("RGB", (2048, 2048), "gray")
    crowd.paste(hopper.resize((140, 164)), (900, 900))  # a face of about 50 pixels
    content = save(crowd, quality=95)
    assert not Classic().search(recognition._load(content)[0], upsample=0)
    [face] = recognise(content, 0).faces
    assert_near(face.box, Box(949, 938, 1000, 989), pixels=9)


def test_low_scores_are_dropped(library: Any, astronaut: Image.Image) -> None:
    # The library takes a part of the space suit for a second face.
    assert len(library.face_locations(np.array(astronaut))) == 2
    assert len(recognise(save(astronaut, "PNG"), 0).faces) == 1


def test_a_box_is_clipped_to_the_picture(hopper: Image.Image) -> None:
    found = recognise(save(hopper.crop((190, 145, 360, 330)), "PNG"), 0)
    assert found.faces
    for face in found.faces:
        assert 0 <= face.box.left < face.box.right <= found.width
        assert 0 <= face.box.top < face.box.bottom <= found.height


def variants(image: Image.Image) -> dict[str, bytes]:
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    alpha = image.convert("RGBA")
    alpha.putalpha(200)
    palette = image.convert("P")
    palette.info["transparency"] = bytes(range(256))
    return {
        "16-bit grey PNG": save(Image.fromarray(grey * 257), "PNG"),
        "16-bit grey PNG with dark levels": save(Image.fromarray(grey * 128), "PNG"),
        "grey JPEG": save(image.convert("L")),
        "grey and alpha PNG": save(alpha.convert("LA"), "PNG"),
        "palette PNG": save(image.convert("P"), "PNG"),
        "palette PNG with transparency": save(
            palette, "PNG", transparency=bytes([255] * 255 + [0])
        ),
        "CMYK JPEG": save(image.convert("CMYK")),
        "alpha PNG": save(alpha, "PNG"),
        "alpha WebP": save(alpha, "WEBP"),
        "WebP": save(image, "WEBP"),
        "progressive JPEG": save(image, progressive=True),
        "several frames in a JPEG": save(image, "MPO", save_all=True, append_images=[image]),
        "GIF": save(image.quantize(), "GIF"),
        "BMP": save(image, "BMP"),
        "TIFF": save(image, "TIFF", compression="tiff_lzw"),
        "AVIF": save(image, "AVIF"),
        "HEIC": save(image, "HEIF"),
    }


def test_every_kind_of_pixel_gives_the_same_person(hopper: Image.Image) -> None:
    expected = recognise(save(hopper, "PNG"), 0).faces[0]
    for size in ((512, 600), (1280, 1500)):
        for name, content in variants(hopper.resize(size)).items():
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = recognise(content, 0)
            assert (found.width, found.height) == size, name
            [face] = found.faces
            assert is_same_person(face.encoding, expected.encoding), name


def test_a_16_bit_colour_png(hopper: Image.Image) -> None:
    pixels = np.asarray(hopper).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 512, 600, 16, 2, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body
        content += struct.pack(">I", zlib.crc32(kind + body))
    [face] = recognise(content, 0).faces
    assert face.box == Box(180, 139, 366, 325)


@pytest.mark.parametrize("kind", ["ICO", "JPEG2000", "TGA"])
def test_other_formats_are_refused(astronaut: Image.Image, kind: str) -> None:
    with pytest.raises(RejectedError, match="send JPEG, PNG, WebP, AVIF, HEIC") as error:
        recognise(save(astronaut, kind), 0)
    assert error.value.rejection == Rejection.UNREADABLE


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"<svg/>"]
)
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(RejectedError) as error:
        recognise(content, 0)
    assert error.value.rejection == Rejection.UNREADABLE


@pytest.fixture(scope="module")
def damaged(astronaut: Image.Image) -> dict[int, dict[str, Damaged]]:
    """Damaged files of her, small and so large that it is decoded smaller, by side in pixels."""
    return {size: damaged_pictures(astronaut.resize((size, size))) for size in (512, 1400)}


@pytest.mark.parametrize(
    "name",
    [
        "PNG: long compressed note",
        "PNG: huge profile",
        "PNG: wrong checksum of a note",
        "PNG: last twentieth missing",
        "JPEG: without its end",
        "JPEG: progressive without its end",
        "JPEG: several pictures, broken",
        "WebP: cut in its notes",
        "orientation as a long",
    ],
)
def test_a_face_is_found_whatever_is_damaged_beside_the_pixels(
    astronaut: Image.Image, damaged: dict[int, dict[str, Damaged]], name: str
) -> None:
    for size, pictures in damaged.items():
        photo = astronaut.resize((size, size))
        picture = pictures[name]
        upright = photo.rotate(-90) if picture.orientation == 6 else photo
        expected = [face.box for face in recognise(save(upright, "PNG"), 0).faces]
        found = [face.box for face in recognise(picture.content, 0).faces]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other, pixels=size // 50)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [512, 1400])
def test_half_a_picture_is_refused(astronaut: Image.Image, kind: str, size: int) -> None:
    load_models("classic")
    content = save(astronaut.resize((size, size)), kind)
    with pytest.raises(RejectedError) as error:
        recognise(content[: len(content) // 2], 0)
    assert error.value.rejection == Rejection.UNREADABLE


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, 2), (1, 5000), (5000, 1), (2, 60_000)])
def test_odd_sizes_show_no_face(size: tuple[int, int]) -> None:
    found = recognise(save(Image.new("RGB", size), "PNG"), 0)
    assert (found.width, found.height) == size
    assert not found.faces
