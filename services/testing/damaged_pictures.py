"""Picture files with damage of every kind, made from a sound picture, and what is said of them."""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from services.common.picture_files.heif import prepare_decoders

Chunk = tuple[bytes, bytes] | tuple[bytes, bytes, int]

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_ASCII: Final = 2
_END: Final[list[Chunk]] = [(b"IEND", b"")]
_XMP: Final = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
    b' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
    b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@dataclass(frozen=True)
class Damaged:
    """A file, and what is expected: its orientation when it is taken, else the reason's words."""

    content: bytes
    orientation: int = 1
    refusal: str = ""


def save(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    prepare_decoders()  # Pillow writes HEIC by the same library
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png(chunks: list[Chunk]) -> bytes:
    """A PNG of chunks: kind, body and, when it is not the right one, the checksum."""
    content = _PNG
    for kind, body, *check in chunks:
        sum_ = check[0] if check else zlib.crc32(kind + body)
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", sum_)
    return content


def png_chunks(content: bytes) -> list[Chunk]:
    chunks: list[Chunk] = []
    position = len(_PNG)
    while position < len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        chunks.append((kind, content[position + 8 : position + 8 + size]))
        position += 12 + size
    return chunks


def tiff(
    value: int = 6, kind: int = 3, *, order: str = "<", entries: int = 1, count: int = 1
) -> bytes:
    """An EXIF structure with an orientation."""
    form = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i"}
    number = f"{value}\0".encode() if kind == _ASCII else struct.pack(order + form[kind], value)
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(f"{order}IHHHI", 8, entries, 0x0112, kind, count)
        + number.ljust(4, b"\0")
        + bytes(4)
    )


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    return jpeg[:2] + segment(0xE1, b"Exif\0\0" + exif) + jpeg[2:]


def damaged_pictures(photo: Image.Image) -> dict[str, Damaged]:
    """Return files by what is wrong with each; the picture in them is the photograph."""
    return {
        **_pngs(photo),
        **_jpegs(photo),
        **_orientations(save(photo, quality=92)),
        **_webps(photo),
    }


def _pngs(photo: Image.Image) -> dict[str, Damaged]:
    whole = save(photo, "PNG")
    chunks = png_chunks(whole)
    head = chunks[:1]
    pixels = b"".join(chunk[1] for chunk in chunks if chunk[0] == b"IDAT")
    rest: list[Chunk] = [(b"IDAT", pixels), *_END]
    bomb = zlib.compress(bytes(64_000_000), 9)
    parts: list[Chunk] = [
        (b"IDAT", pixels[start : start + 999]) for start in range(0, len(pixels), 999)
    ]
    wrong: list[Chunk] = [*parts]
    wrong[len(parts) // 2] = (b"IDAT", parts[len(parts) // 2][1], 1)
    raw_exif = b"\nexif\n      38\n" + (b"Exif\0\0" + tiff()).hex().encode()
    palette = png_chunks(
        save(Image.frombytes("RGB", photo.size, photo.tobytes()).convert("P"), "PNG")
    )
    cut = "picture is cut off: its last "
    notes: dict[str, Chunk] = {
        "long compressed note": (b"zTXt", b"Comment\0\0" + bomb),
        "compressed note that is none": (b"zTXt", b"Comment\0\0nothing"),
        "long note": (b"tEXt", b"Comment\0" + bytes(3_000_000)),
        "international note cut": (b"iTXt", b"Comment\0\1"),
        "huge profile": (b"iCCP", b"profile\0\0" + bomb),
        "broken profile": (b"iCCP", b"profile\0\0nothing"),
        "wrong checksum of a note": (b"tEXt", b"Comment\0hello", 1),
        "wrong checksum of a profile": (b"iCCP", b"profile\0\0" + bomb, 1),
        "wrong checksum of the orientation": (b"eXIf", tiff(), 1),
        "broken orientation": (b"eXIf", b"II*\0\xff"),
        "unknown note": (b"abCd", b"hello"),
        "gamma that is none": (b"gAMA", b""),
        "physical size that is none": (b"pHYs", b"1"),
        "animation without pictures": (b"acTL", struct.pack(">II", 3, 0)),
        "transparency that does not fit": (b"tRNS", b"1"),
    }
    return {
        **{f"PNG: {name}": Damaged(png([*head, chunk, *rest])) for name, chunk in notes.items()},
        "PNG: note after the pixels cut": Damaged(whole[:-12] + b"\0\0\1\0tEXtComment"),
        "PNG: junk behind the end": Damaged(whole + b"junk"),
        "PNG: without its end": Damaged(png([*head, rest[0]])),
        "PNG: wrong checksum of its end": Damaged(png([*head, rest[0], (b"IEND", b"", 1)])),
        "PNG: without the checksum of the pixels": Damaged(png([*head, rest[0]])[:-4]),
        "PNG: without the inner checksum": Damaged(png([*head, rest[0]])[:-8]),
        "PNG: wrong checksum of the pixels": Damaged(png([*head, (b"IDAT", pixels, 1), *_END])),
        "PNG: wrong checksum of a part": Damaged(png([*head, *wrong, *_END])),
        "PNG: wrong inner checksum": Damaged(png([*head, (b"IDAT", pixels[:-4] + b"none"), *_END])),
        "PNG: parts of no bytes": Damaged(
            png([*head, (b"IDAT", b""), *parts, (b"IDAT", b""), *_END])
        ),
        "PNG: note between the parts": Damaged(
            png([*head, parts[0], (b"tEXt", b"a\0b"), *parts[1:], *_END])
        ),
        "PNG: last twentieth missing": Damaged(whole[: len(whole) * 95 // 100]),
        "PNG: last half missing": Damaged(whole[: len(whole) // 2], refusal=cut),
        "PNG: header alone": Damaged(whole[:40], refusal="cut off before its pixels"),
        "PNG: signature alone": Damaged(whole[:8], refusal="cut off before its pixels"),
        "PNG: wrong checksum of the header": Damaged(
            png([(*head[0][:2], 1), *rest]), refusal="header"
        ),
        "PNG: pixels that are none": Damaged(
            png([*head, (b"IDAT", b"x" * 999), *_END]), refusal=cut
        ),
        "PNG: palette with a broken transparency": Damaged(
            png([*palette[:2], (b"tRNS", bytes(99), 1), *palette[2:]])
        ),
        "PNG: palette with too long a transparency": Damaged(
            png([*palette[:2], (b"tRNS", b"\xff" * 600), *palette[2:]])
        ),
        "PNG: palette without colours": Damaged(png([palette[0], *palette[2:]]), refusal="palette"),
        "PNG: turned": Damaged(png([*head, (b"eXIf", tiff()), *rest]), 6),
        "PNG: turned, behind the pixels": Damaged(
            png([*head, rest[0], (b"eXIf", tiff()), *_END]), 6
        ),
        "PNG: turned, in a text": Damaged(
            png([*head, (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_exif)), *rest]),
            6,
        ),
        "PNG: turned, in a text that is none": Damaged(
            png([*head, (b"tEXt", b"Raw profile type exif\0\nexif\n 9\nxyz"), *rest])
        ),
        "PNG: turned, in a huge text": Damaged(
            png([*head, (b"zTXt", b"Raw profile type exif\0\0" + bomb), *rest])
        ),
        "PNG: turned, in XMP alone": Damaged(
            png([*head, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP), *rest])
        ),
    }


def _jpegs(photo: Image.Image) -> dict[str, Damaged]:
    whole = save(photo, quality=92)
    progressive = save(photo, quality=92, progressive=True)
    scan = whole.index(b"\xff\xda")
    frame = whole.index(b"\xff\xc0")

    def before(inserted: bytes) -> Damaged:
        return Damaged(whole[:2] + inserted + whole[2:])

    def marked(marker: int, depth: int, refusal: str) -> Damaged:
        changed = whole[:frame] + bytes([0xFF, marker, 0, 17, depth]) + whole[frame + 5 :]
        return Damaged(changed, refusal=refusal)

    several = save(
        photo, "MPO", save_all=True, append_images=[photo.transpose(Image.Transpose.ROTATE_180)]
    )
    result = {
        "without its end": Damaged(whole[:-2]),
        "with half of its end": Damaged(whole[:-1]),
        "last 15 bytes missing": Damaged(whole[:-15]),
        "last twentieth missing": Damaged(whole[: len(whole) * 95 // 100]),
        "last half missing": Damaged(whole[: len(whole) // 2], refusal="cut off: its last "),
        "junk behind the end": Damaged(whole + b"junk" * 9),
        "junk instead of the end": Damaged(whole[:-2] + b"junk" * 9),
        "progressive without its end": Damaged(progressive[:-2]),
        "progressive, last fifth missing": Damaged(progressive[: len(progressive) * 4 // 5]),
        "progressive, cut in a table": Damaged(progressive[: progressive.rindex(b"\xff\xc4") + 9]),
        "progressive, cut in a scan's header": Damaged(
            progressive[: progressive.rindex(b"\xff\xda") + 5]
        ),
        "progressive, nearly all missing": Damaged(
            progressive[: progressive.index(b"\xff\xda") + 400], refusal="cut off: its last "
        ),
        "cut before its pixels": Damaged(whole[:scan], refusal="cut off before its pixels"),
        "cut in the first scan's header": Damaged(whole[: scan + 5], refusal="picture is"),
        "fill before a segment": before(b"\xff\xff\xff"),
        "profile that is none": before(segment(0xE2, b"ICC_PROFILE\0\5\2junk")),
        "several pictures, broken": before(segment(0xE2, b"MPF\0junk")),
        "several pictures": Damaged(several),
        "several pictures, the second cut": Damaged(several[:-900]),
        "EXIF of too short a length": before(b"\xff\xe1\0\x08Exif\0\0" + tiff()),
        "EXIF of no length": before(b"\xff\xe1\0\0"),
        "EXIF of the length 1": before(b"\xff\xe1\0\1"),
        "Photoshop notes broken": before(
            segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\xff\xff\xff\xff")
        ),
        "markers in a note": before(segment(0xFE, b"\xff\xd9\xff\xda\xff\xd8" * 9)),
        "JFIF cut": Damaged(whole[:2] + segment(0xE0, b"JFIF\0") + whole[20:]),
        "without JFIF": Damaged(whole[:2] + whole[20:]),
        "Adobe's note cut": before(segment(0xEE, b"Adobe")),
        "printing colours": Damaged(save(photo.convert("CMYK"), quality=92)),
        "grey, without its end": Damaged(save(photo.convert("L"), quality=92)[:-2]),
        "12 bits": marked(0xC1, 12, "12 bits"),
        "lossless": marked(0xC3, 8, "lossless"),
        "turned, in XMP alone": before(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _XMP)),
    }
    return {f"JPEG: {name}": damaged for name, damaged in result.items()}


def _orientations(jpeg: bytes) -> dict[str, Damaged]:
    exif = {
        "as it should be": (tiff(), 6),
        "in the other order": (tiff(order=">"), 6),
        "as a byte": (tiff(kind=1), 6),
        "as a text": (tiff(kind=2), 6),
        "as a long": (tiff(kind=4), 6),
        "as a long, in the other order": (tiff(kind=4, order=">"), 6),
        "as a byte, in the other order": (tiff(kind=1, order=">"), 6),
        "as a signed number": (tiff(kind=8), 6),
        "0": (tiff(0), 1),
        "9": (tiff(9), 1),
        "65535": (tiff(65535), 1),
        "negative": (tiff(-6, kind=9), 1),
        "of no numbers": (tiff(count=0), 6),
        "of very many numbers": (tiff(count=2**32 - 1), 6),
        "with more entries than there are": (tiff(entries=500), 6),
        "with the end cut": (tiff()[:20], 6),
        "cut": (tiff()[:17], 1),
        "nowhere": (tiff()[:4] + b"\xff\xff\0\0" + tiff()[8:], 1),
        "of an unknown order": (b"XX" + tiff()[2:], 1),
        "of no bytes": (b"", 1),
    }
    several = {
        "twice": with_exif(with_exif(jpeg, tiff(3)), tiff(6)),
        "behind a broken one": with_exif(with_exif(jpeg, tiff(6)), b""),
    }
    return {
        **{
            f"orientation {name}": Damaged(with_exif(jpeg, content), expected)
            for name, (content, expected) in exif.items()
        },
        **{f"orientation {name}": Damaged(content, 6) for name, content in several.items()},
    }


def _webps(photo: Image.Image) -> dict[str, Damaged]:
    plain = save(photo, "WEBP", quality=92)
    lossless = save(photo, "WEBP", lossless=True)
    noted = save(photo, "WEBP", quality=92, exif=tiff(), icc_profile=b"junk" * 9, xmp=_XMP)
    moving = save(photo, "WEBP", quality=92, save_all=True, append_images=[photo.rotate(90)])
    size = noted.index(b"EXIF") + 4
    result = {
        "junk behind the end": Damaged(plain + b"junk"),
        "too large a length": Damaged(plain[:4] + b"\xff\xff\xff\x7f" + plain[8:]),
        "too small a length": Damaged(plain[:4] + b"\x14\0\0\0" + plain[8:]),
        "cut in its notes": Damaged(noted[:-20], 6),
        "cut before its notes": Damaged(noted[: size - 4]),
        "notes of too large a length": Damaged(
            noted[:size] + b"\xff\xff\xff\x7f" + noted[size + 4 :]
        ),
        "moving, the last picture cut": Damaged(moving[:-99]),
        "last byte missing": Damaged(plain[:-1], refusal="cut off: its last 1%"),
        "lossless, last half missing": Damaged(lossless[: len(lossless) // 2], refusal="cut off"),
        "header alone": Damaged(plain[:12], refusal="picture is"),
    }
    return {f"WebP: {name}": damaged for name, damaged in result.items()}
