"""Sound pictures of every format and every kind of pixel, made from one photograph."""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from services.testing.damaged_pictures import png, png_chunks, save


@dataclass(frozen=True)
class PictureKind:
    """A file, its format as Pillow calls it, and what it shows when it is not the photograph."""

    content: bytes
    kind: str
    shows: Image.Image


def picture_kinds(photo: Image.Image) -> dict[str, PictureKind]:
    """Return files by what is special about each; ``photo`` is RGB, its sides are even."""
    veil = Image.linear_gradient("L").resize(photo.size)
    veiled = photo.copy()
    veiled.putalpha(veil)
    on_white = Image.new("RGB", photo.size, "white")
    on_white.paste(photo, mask=veil)
    grey = photo.convert("L")
    levels = np.asarray(grey).astype("<u2") * 257
    deep = Image.fromarray(levels)
    palette = photo.quantize(256, dither=Image.Dither.NONE)
    few = photo.quantize(16, dither=Image.Dither.NONE)
    holed = palette.copy()
    hole = holed.getpixel((photo.width // 2, photo.height // 2))
    assert isinstance(hole, int)
    seen = Image.fromarray(np.where(np.asarray(palette) == hole, 0, 255).astype(np.uint8))
    with_hole = Image.new("RGB", photo.size, "white")
    with_hole.paste(palette.convert("RGB"), mask=seen)
    black = photo.convert("1", dither=Image.Dither.NONE)
    other = photo.transpose(Image.Transpose.ROTATE_180)
    more: dict[str, Any] = {"save_all": True, "append_images": [other]}
    lab = ImageCms.profileToProfile(
        photo, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    files: dict[str, tuple[bytes, Image.Image]] = {
        "JPEG": (save(photo, quality=92), photo),
        "JPEG grey": (save(grey, quality=92), grey),
        "JPEG of a printer": (save(photo.convert("CMYK"), quality=92), photo),
        "JPEG progressive": (save(photo, quality=92, progressive=True), photo),
        "JPEG several": (save(photo, "MPO", quality=92, **more), photo),
        "PNG": (save(photo, "PNG"), photo),
        "PNG grey": (save(grey, "PNG"), grey),
        "PNG grey, alpha": (save(_la(grey, veil), "PNG"), on_white.convert("L")),
        "PNG alpha": (save(veiled, "PNG"), on_white),
        "PNG palette": (save(palette, "PNG"), photo),
        "PNG palette, alpha": (save(palette, "PNG", transparency=hole), with_hole),
        "PNG black and white": (save(black, "PNG"), black),
        "PNG 16 bits, grey": (save(deep, "PNG"), grey),
        "PNG 16 bits": (_deep_png(photo), photo),
        "WEBP": (save(photo, "WEBP", quality=92), photo),
        "WEBP lossless": (save(photo, "WEBP", lossless=True), photo),
        "WEBP alpha": (save(veiled, "WEBP", quality=92), on_white),
        "WEBP moving": (save(photo, "WEBP", quality=92, **more), photo),
        "GIF": (save(palette, "GIF"), photo),
        "GIF grey": (save(grey, "GIF"), grey),
        "GIF alpha": (save(palette, "GIF", transparency=hole), with_hole),
        "GIF interlaced": (save(palette, "GIF", interlace=1), photo),
        "GIF moving": (save(palette, "GIF", **more), photo),
        "BMP": (save(photo, "BMP"), photo),
        "BMP palette": (save(palette, "BMP"), photo),
        "BMP grey": (save(grey, "BMP"), grey),
        "BMP black and white": (save(black, "BMP"), black),
        "BMP from its top": (_top_down_bmp(photo), photo),
        "BMP run lengths": (_run_length_bmp(palette, 8), photo),
        "BMP run lengths, 4 bits": (_run_length_bmp(few, 4), few),
        "TIFF": (save(photo, "TIFF"), photo),
        "TIFF LZW": (save(photo, "TIFF", compression="tiff_lzw"), photo),
        "TIFF deflate": (save(photo, "TIFF", compression="tiff_adobe_deflate"), photo),
        "TIFF JPEG": (save(photo, "TIFF", compression="jpeg", quality=92), photo),
        "TIFF grey": (save(grey, "TIFF"), grey),
        "TIFF alpha": (save(veiled, "TIFF", compression="tiff_lzw"), on_white),
        "TIFF palette": (save(palette, "TIFF"), photo),
        "TIFF of a printer": (save(photo.convert("CMYK"), "TIFF"), photo),
        "TIFF Lab": (save(lab, "TIFF"), photo),
        "TIFF of a fax": (save(black, "TIFF", compression="group4"), black),
        "TIFF 16 bits, grey": (save(deep, "TIFF"), grey),
        "TIFF 16 bits": (_plain_tiff(photo, 16), photo),
        "TIFF in tiles": (_plain_tiff(photo, 8, tile=64), photo),
        "TIFF of several pages": (
            save(photo.copy(), "TIFF", save_all=True, append_images=[other.copy()]),
            photo,
        ),
        "AVIF": (save(photo, "AVIF", quality=90), photo),
        "AVIF grey": (save(grey, "AVIF", quality=90), grey),
        "AVIF alpha": (save(veiled, "AVIF", quality=90), on_white),
        "AVIF moving": (save(photo, "AVIF", quality=90, **more), photo),
        "HEIF": (save(photo, "HEIF", quality=90), photo),
        "HEIF grey": (save(grey, "HEIF", quality=90), grey),
        "HEIF alpha": (save(veiled, "HEIF", quality=90), on_white),
        "HEIF 10 bits": (_deep_heif(photo), photo),
        "HEIF in tiles": (save(photo, "HEIF", quality=90, tile_size=64), photo),
        "HEIF several": (save(photo, "HEIF", quality=90, **more, primary_index=0), photo),
    }
    return {
        name: PictureKind(content, name.partition(" ")[0], shows.convert("RGB"))
        for name, (content, shows) in files.items()
    }


PROFILED: Final = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")
"""The formats of which embedded colour profiles are read."""

TURNED: Final = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")
"""The formats that tell how they are to be turned."""


def swapping_profile(name: str = "Odd!") -> bytes:
    """A colour profile in which red is green and green is red."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for one, other in ((b"rXYZ", b"xxxx"), (b"gXYZ", b"rXYZ"), (b"xxxx", b"gXYZ")):
        profile = profile.replace(one, other)
    return profile.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))


def claims(photo: Image.Image, kind: str, width: int, height: int) -> bytes:
    """A small file that says to be so large."""
    content = bytearray(save(photo.quantize() if kind == "GIF" else photo, kind))
    both = struct.pack(">II", width, height)
    match kind:
        case "JPEG":
            at = content.index(b"\xff\xc0") + 5
            content[at : at + 4] = struct.pack(">HH", height, width)
        case "GIF":
            content[6:10] = struct.pack("<HH", width, height)
        case "BMP":
            content[18:26] = struct.pack("<II", width, height)
        case "TIFF":
            for tag, number in ((256, width), (257, height)):
                at = content.index(struct.pack("<H", tag), 8)
                content[at : at + 12] = struct.pack("<HHII", tag, 4, 1, number)
        case "PNG":
            chunks = png_chunks(bytes(content))
            return png([(b"IHDR", both + chunks[0][1][8:]), *chunks[1:]])
        case "WEBP":
            at = content.index(b"VP8 ") + 14
            content[at : at + 4] = struct.pack("<HH", width, height)
        case _:
            at = content.index(b"ispe") + 8
            content[at : at + 8] = both
    return bytes(content)


def long_stream(photo: Image.Image) -> bytes:
    """An AVIF whose boxes say what is right, and whose stream begins as one of 65,536 x 65,536."""
    content = bytearray(save(photo, "AVIF"))
    at = content.rindex(b"mdat") + 4
    content[at : at + 10] = sequence_header(65_536, 65_536)
    return bytes(content)


def sequence_header(width: int, height: int) -> bytes:
    """The head of an AV1 stream of a single picture."""
    bits = f"000{1:b}{1:b}{0:05b}{15:04b}{15:04b}{width - 1:016b}{height - 1:016b}".ljust(64, "0")
    return b"\x0a\x08" + int(bits, 2).to_bytes(8, "big")


def many_tags() -> bytes:
    """A TIFF of 400 notes, each of which is the whole file of 4 MB."""
    tags = b"".join(struct.pack("<HHII", tag, 1, 4_000_000, 8) for tag in range(1000, 1400))
    content = b"II*\0" + struct.pack("<I", 4_000_008) + bytes(4_000_000)
    return content + struct.pack("<H", 400) + tags + bytes(4)


def _la(grey: Image.Image, veil: Image.Image) -> Image.Image:
    both = grey.convert("LA")
    both.putalpha(veil)
    return both


def _deep_png(photo: Image.Image) -> bytes:
    pixels = (np.asarray(photo).astype("<u2") * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", *photo.size, 16, 2, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")])


def _top_down_bmp(photo: Image.Image) -> bytes:
    upside_down = photo.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    content = bytearray(save(upside_down, "BMP"))
    content[22:26] = struct.pack("<i", -photo.height)
    return bytes(content)


def _run_length_bmp(palette: Image.Image, depth: int) -> bytes:
    """A BMP packed by run lengths, which Pillow does not write: runs, plain pixels and steps."""
    pixels = np.asarray(palette)[::-1]  # from the bottom
    packed = b""
    for row in pixels:
        for start in range(0, len(row), 6):
            six = row[start : start + 6]
            if len(set(six.tolist())) == 1:
                packed += bytes([len(six), six[0] * (17 if depth == 4 else 1)])  # noqa: PLR2004
            elif len(six) < 3 or start % 12:  # noqa: PLR2004
                for pixel in six:
                    packed += bytes([1, pixel << 4 if depth == 4 else pixel])  # noqa: PLR2004
            else:
                plain = six.tobytes()
                if depth == 4:  # noqa: PLR2004
                    pairs = np.append(six, [0] * (len(six) % 2)).reshape(-1, 2)
                    plain = bytes(int(one) << 4 | int(other) for one, other in pairs)
                packed += bytes([0, len(six)]) + plain + bytes(len(plain) % 2)
        packed += b"\0\0"
    packed += b"\0\1"
    colours = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)[: 1 << depth, ::-1]
    table = b"".join(colour.tobytes() + b"\0" for colour in colours).ljust(4 << depth, b"\0")
    start = 54 + len(table)
    packing = 1 if depth == 8 else 2  # noqa: PLR2004
    return (
        b"BM"
        + struct.pack("<IIIIii", start + len(packed), 0, start, 40, *palette.size)
        + struct.pack("<HHIIiiII", 1, depth, packing, len(packed), 0, 0, 1 << depth, 0)
        + table
        + packed
    )


def _plain_tiff(photo: Image.Image, depth: int, tile: int = 0) -> bytes:
    """A big-endian TIFF as other programs write it."""
    pixels = np.asarray(photo)
    if depth == 16:  # noqa: PLR2004
        pixels = (pixels.astype("<u2") * 257).astype(">u2")
    width, height = photo.size
    if tile:
        parts = [
            pixels[top : top + tile, left : left + tile].tobytes()
            for top in range(0, height, tile)
            for left in range(0, width, tile)
        ]
    else:
        parts = [pixels.tobytes()]
    start = 8
    offsets = [start + sum(len(part) for part in parts[:index]) for index in range(len(parts))]
    end = start + sum(len(part) for part in parts)
    tags: list[tuple[int, int, list[int]]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [depth] * 3),
        (259, 3, [1]),
        (262, 3, [2]),
        (277, 3, [3]),
    ]
    lengths = [len(part) for part in parts]
    if tile:
        tags += [(322, 4, [tile]), (323, 4, [tile]), (324, 4, offsets), (325, 4, lengths)]
    else:
        tags += [(273, 4, offsets), (278, 4, [height]), (279, 4, lengths)]
    directory, behind = b"", b""
    values_at = end + 2 + 12 * len(tags) + 4
    for tag, kind, numbers in sorted(tags):
        value = struct.pack(f">{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)  # noqa: PLR2004
        if len(value) > 4:  # noqa: PLR2004
            behind, value = behind + value, struct.pack(">I", values_at + len(behind))
        directory += struct.pack(">HHI", tag, kind, len(numbers)) + value.ljust(4, b"\0")
    return (
        b"MM\0*"
        + struct.pack(">I", end)
        + b"".join(parts)
        + struct.pack(">H", len(tags))
        + directory
        + bytes(4)
        + behind
    )


def _deep_heif(photo: Image.Image) -> bytes:
    pixels = np.asarray(photo).astype("<u2") * 257
    output = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", photo.size, pixels.tobytes()).save(output, quality=90)
    return output.getvalue()
