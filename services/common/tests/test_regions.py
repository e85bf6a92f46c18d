import io
import re
import struct
import tracemalloc
import zlib
from dataclasses import astuple
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from services.common.faces import Box
from services.common.person_names import InvalidNameError, check_name
from services.common.regions import MAX_REGIONS, Region, XmpError, read_regions, write_sidecar
from services.testing.damaged_pictures import png, png_chunks, save, segment, tiff
from services.testing.picture_kinds import TURNED

SIZE = (400, 200)
BOX = Box(40, 60, 100, 140)
WHITE = Image.new("RGB", SIZE, "white")
JPEG = save(WHITE)
NAMESPACES = (
    ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    ' xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"'
    ' xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"'
    ' xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#"'
    ' xmlns:MP="http://ns.microsoft.com/photo/1.2/"'
    ' xmlns:MPRI="http://ns.microsoft.com/photo/1.2/t/RegionInfo#"'
    ' xmlns:MPReg="http://ns.microsoft.com/photo/1.2/t/Region#"'
    ' xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
)


def xmp(body: str, about: str = "") -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF{NAMESPACES}>'
        f'<rdf:Description rdf:about=""{about}>{body}</rdf:Description>'
        f'</rdf:RDF></x:xmpmeta>\n{" " * 100}\n<?xpacket end="w"?>'
    ).encode()


def shown(image: Image.Image) -> Box:
    """Where an image is not black."""
    box = image.getbbox()
    assert box
    return Box(*box)


def area(box: Box = BOX, size: tuple[int, int] = SIZE) -> dict[str, float]:
    """A box as the Metadata Working Group has it: where its middle is, and its sides."""
    (left, top, right, bottom), (width, height) = astuple(box), size
    return {
        "x": (left + right) / 2 / width,
        "y": (top + bottom) / 2 / height,
        "w": (right - left) / width,
        "h": (bottom - top) / height,
    }


def of_lightroom(
    *regions: tuple[str, str, dict[str, float]], size: tuple[int, int] | None = SIZE
) -> bytes:
    """Fields are attributes, of descriptions in the items."""
    items = "".join(
        f'<rdf:li><rdf:Description mwg-rs:Rotation="0.0" mwg-rs:Type="{kind}"'
        + (f" mwg-rs:Name={quoteattr(name)}" if name else "")
        + f'><mwg-rs:Area stArea:h="{one["h"]}" stArea:w="{one["w"]}" stArea:x="{one["x"]}"'
        f' stArea:y="{one["y"]}"/></rdf:Description></rdf:li>'
        for name, kind, one in regions
    )
    applied = (
        f'<mwg-rs:AppliedToDimensions stDim:h="{size[1]}" stDim:unit="pixel" stDim:w="{size[0]}"/>'
        if size
        else ""
    )
    return xmp(
        f"<mwg-rs:Regions><rdf:Description>{applied}<mwg-rs:RegionList><rdf:Bag>{items}"
        "</rdf:Bag></mwg-rs:RegionList></rdf:Description></mwg-rs:Regions>"
    )


def of_digikam(name: str, box: Box, other: str | None = None) -> bytes:
    """The same face twice, as Microsoft has it and as the Metadata Working Group does."""
    left, top, right, bottom = astuple(box)
    width, height = SIZE
    rectangle = (
        f"{left / width}, {top / height}, {(right - left) / width}, {(bottom - top) / height}"
    )
    one = area(box)
    mwg = (
        '<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:RegionList><rdf:Seq><rdf:li>'
        f'<rdf:Description mwg-rs:Name={quoteattr(name)} mwg-rs:Type="Face"><mwg-rs:Area'
        f' stArea:x="{one["x"]}" stArea:y="{one["y"]}" stArea:w="{one["w"]}" stArea:h="{one["h"]}"'
        ' stArea:unit="normalized"/></rdf:Description></rdf:li></rdf:Seq></mwg-rs:RegionList>'
        "</mwg-rs:Regions>"
    )
    return xmp(
        '<MP:RegionInfo rdf:parseType="Resource"><MPRI:Regions><rdf:Bag>'
        f"<rdf:li MPReg:PersonDisplayName={quoteattr(other or name)}"
        f' MPReg:Rectangle="{rectangle}"/>'
        "</rdf:Bag></MPRI:Regions></MP:RegionInfo>" + (mwg if other is None else "")
    )


def of_exiftool(name: str, box: Box) -> bytes:
    """Fields are elements; so Apple and Picasa write, too."""
    one = area(box)
    fields = "".join(f"<stArea:{key}>{one[key]:.15f}</stArea:{key}>" for key in "hwxy")
    return xmp(
        "<mwg-rs:Regions rdf:parseType='Resource'><mwg-rs:AppliedToDimensions"
        f" rdf:parseType='Resource'><stDim:h>{SIZE[1]}</stDim:h><stDim:unit>pixel</stDim:unit>"
        f"<stDim:w>{SIZE[0]}</stDim:w></mwg-rs:AppliedToDimensions><mwg-rs:RegionList><rdf:Bag>"
        f"<rdf:li rdf:parseType='Resource'><mwg-rs:Area rdf:parseType='Resource'>{fields}"
        "<stArea:unit>normalized</stArea:unit></mwg-rs:Area><mwg-rs:Name>"
        f"{name}</mwg-rs:Name><mwg-rs:Type>Face</mwg-rs:Type></rdf:li>"
        "</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
    )


GRACE = of_lightroom(("Grace Hopper", "Face", area()))


def with_xmp(image: Image.Image, kind: str, packet: bytes, exif: bytes = b"") -> bytes:
    more = {"exif": exif} if exif else {}
    match kind:
        case "PNG":
            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", packet.decode())
            return save(image, kind, pnginfo=info, **more)
        case "TIFF":
            tags = ImageFileDirectory_v2()
            tags[700] = packet
            if exif:
                tags[0x0112] = struct.unpack_from("<H", exif, 24)[0]
            return save(image, kind, tiffinfo=tags)
    return save(image, kind, xmp=packet, **more)


@pytest.mark.parametrize(
    "packet",
    [
        GRACE,
        of_digikam("Grace Hopper", BOX),
        of_digikam("", BOX, "Grace Hopper"),
        of_exiftool("Grace Hopper", BOX),
        of_lightroom(("Grace Hopper", "Face", area()), size=None),
        GRACE.decode().encode("utf-16"),
        b"\xef\xbb\xbf" + GRACE + b"\0",
    ],
)
def test_what_programs_write_is_read(packet: bytes) -> None:
    expected = [Region("Grace Hopper", BOX, None)]
    assert read_regions(JPEG, packet) == expected
    if packet.startswith(b"<?xpacket"):
        assert read_regions(with_xmp(WHITE, "JPEG", packet)) == expected


@pytest.mark.parametrize("kind", TURNED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_region_is_where_the_upright_picture_shows_it(kind: str, orientation: int) -> None:
    """What is drawn is found again by its colour, turned as Pillow turns."""
    stored = WHITE.copy()
    stored.paste("black", astuple(BOX))
    marked = Image.open(io.BytesIO(save(stored, "PNG", exif=b"Exif\0\0" + tiff(orientation))))
    upright = ImageOps.invert(ImageOps.exif_transpose(marked).convert("L"))
    content = with_xmp(stored, kind, GRACE, b"Exif\0\0" + tiff(orientation))
    assert read_regions(content) == [Region("Grace Hopper", shown(upright), None)]


@pytest.mark.parametrize("kind", ["JPEG", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_written_is_where_others_look_for_it(kind: str, orientation: int) -> None:
    stored = WHITE.copy()
    stored.paste("black", astuple(BOX))
    content = save(stored, kind, exif=b"Exif\0\0" + tiff(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("L")
    seen = shown(ImageOps.invert(upright.point(lambda level: 255 if level > 128 else 0)))
    text = write_sidecar(content, [("Grace Hopper", seen)]).decode()
    found = {key: float(value) for key, value in re.findall(r'stArea:([xywh])="([\d.]+)"', text)}
    assert found == pytest.approx(area(), abs=1e-6)
    assert re.findall(r'stDim:[wh]="(\d+)"', text) == ["400", "200"]
    assert f'tiff:Orientation="{orientation}"' in text


def test_a_size_tells_what_a_region_was_drawn_on() -> None:
    one = ("Grace", "Face", area())
    smaller = save(WHITE.resize((201, 100)))
    assert read_regions(smaller, of_lightroom(one))[0].box == Box(20, 30, 50, 70)
    cropped = save(WHITE.crop((0, 0, 300, 200)))
    reason = "the picture has been cropped since: it had 400 x 200 pixels"
    assert read_regions(cropped, of_lightroom(one)) == [Region("Grace", None, reason)]
    for size in ((0, 0), (-400, 200), ("nan", "nan"), ("x", "")):
        packet = of_lightroom(one, size=size)  # type: ignore[arg-type]
        assert read_regions(JPEG, packet)[0].box == BOX, "as if it were not said"
    # Some say the size of the upright picture, and mean places in that.
    sideways = save(WHITE, exif=b"Exif\0\0" + tiff(6))
    box = Box(60, 40, 140, 100)
    packet = of_lightroom(("Grace", "Face", area(box, (200, 400))), size=(200, 400))
    assert read_regions(sideways, packet)[0].box == box


def test_one_wrong_region_costs_no_other() -> None:
    good = ("Ada", "Face", area())
    packet = of_lightroom(
        ("a/b", "Face", area()),
        ("x" * 101, "Face", area()),
        ("Pet", "Pet", area()),
        ("", "Focus", area()),
        ("Bar", "BarCode", area()),
        ("", "Face", area()),
        (" ", "Face", {**area(), "x": 3.0}),
        ("Nowhere", "Face", {**area(), "x": 3.0}),
        ("Flat", "Face", {**area(), "w": 0.0}),
        ("Nan", "Face", {**area(), "h": float("nan")}),
        ("Vast", "Face", {"x": 0.5, "y": 0.5, "w": 1e300, "h": 1e300}),
        good,
    )
    nowhere = "its area is no part of the picture"
    assert read_regions(JPEG, packet) == [
        Region(None, BOX, "a person's name must not contain /, got 'a/b'"),
        Region(
            None,
            BOX,
            f"a person's name has at most 100 characters, this has 101, got {'x' * 100!r}",
        ),
        Region(None, BOX, None),
        Region("Nowhere", None, nowhere),
        Region("Flat", None, nowhere),
        Region("Nan", None, nowhere),
        Region("Vast", Box(0, 0, *SIZE), None),
        Region("Ada", BOX, None),
    ]
    by_pixels = GRACE.replace(b"<mwg-rs:Area", b'<mwg-rs:Area stArea:unit="pixel"')
    assert read_regions(JPEG, by_pixels) == [Region("Grace Hopper", None, nowhere)]
    for rectangle in (b"", b"1, 2, 3", b"0.1, 0.2, 0.3, 0.4, 0.5", b"a, b, c, d"):
        packet = re.sub(rb'Rectangle="[^"]*"', b'Rectangle="' + rectangle + b'"', MICROSOFTS)
        assert read_regions(JPEG, packet) == [Region("Grace Hopper", None, nowhere)]


MICROSOFTS = of_digikam("", BOX, "Grace Hopper")


def extended(main: bytes, parts: list[tuple[int, bytes]], size: int, guid: bytes) -> bytes:
    """A JPEG whose XMP goes on in more segments."""
    content = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + main)
    for offset, part in parts:
        head = b"http://ns.adobe.com/xmp/extension/\0" + guid + struct.pack(">II", size, offset)
        content += segment(0xE1, head + part)
    return JPEG[:2] + content + JPEG[2:]


def test_xmp_that_takes_several_segments_is_read() -> None:
    guid = b"0123456789ABCDEF0123456789ABCDEF"
    rest = GRACE.replace(b"<mwg-rs:Regions>", b"<!-- " + b"-x" * 50_000 + b"--><mwg-rs:Regions>")
    pieces = [(at, rest[at : at + 60_000]) for at in range(0, len(rest), 60_000)]
    main = xmp("", f' xmpNote:HasExtendedXMP="{guid.decode()}"')
    assert len(pieces) == 2
    expected = [Region("Grace Hopper", BOX, None)]
    for parts in (pieces, pieces[::-1], pieces * 2):
        assert read_regions(extended(main, parts, len(rest), guid)) == expected
    elements = xmp(f"<xmpNote:HasExtendedXMP>{guid.decode()}</xmpNote:HasExtendedXMP>")
    assert read_regions(extended(elements, pieces, len(rest), guid)) == expected
    # What another program has left there, of another picture, is not read.
    assert read_regions(extended(xmp(""), pieces, len(rest), guid)) == []
    for parts, size in ((pieces[:1], len(rest)), (pieces[1:], len(rest)), (pieces, 2**32 - 1)):
        with pytest.raises(XmpError, match="a part of the extended XMP is missing"):
            read_regions(extended(main, parts, size, guid))
        both = GRACE.replace(b'rdf:about=""', f'xmpNote:HasExtendedXMP="{guid.decode()}"'.encode())
        assert read_regions(extended(both, parts, size, guid)) == expected


def test_xmp_of_a_png_is_read_wherever_and_however_it_is_written() -> None:
    expected = [Region("Grace Hopper", BOX, None)]
    head, *pixels = png_chunks(save(WHITE, "PNG"))
    key = b"XML:com.adobe.xmp\0"
    plain = (b"iTXt", key + b"\0\0\0\0" + GRACE)
    packed = (b"iTXt", key + b"\1\0en\0XMP\0" + zlib.compress(GRACE))
    for chunk in (plain, packed):
        assert read_regions(png([head, chunk, *pixels])) == expected
        assert read_regions(png([head, *pixels[:-1], chunk, pixels[-1]])) == expected
    for body in (key, key + b"\0", key + b"\1\0\0\0no stream", key + b"\0\0no end"):
        with pytest.raises(XmpError, match="is damaged"):
            read_regions(png([head, (b"iTXt", body), *pixels]))
    bomb = zlib.compress(bytes(200 * 2**20))
    content = png([head, (b"iTXt", key + b"\1\0\0\0" + bomb), *pixels])
    tracemalloc.start()
    with pytest.raises(XmpError, match="the XMP has more than 8 MiB"):
        read_regions(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "GIF", "BMP"])
def test_a_picture_without_xmp_has_no_regions(kind: str) -> None:
    assert read_regions(save(WHITE, kind)) == []


LAUGHS = (
    "<!DOCTYPE x [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY a{n} '{'&a' + str(n - 1) * (n > 1) + ';'}'>" for n in range(1, 20))
    + "]><x>&a19;</x>"
)
ITEM = '<rdf:li mwg-rs:Name="Ada" mwg-rs:Type="Face"/>'
LIST = (
    f"<mwg-rs:Regions{NAMESPACES}><mwg-rs:RegionList><rdf:Bag>%s</rdf:Bag></mwg-rs:RegionList>"
    "</mwg-rs:Regions>"
)


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (LAUGHS, "the XMP declares a document type, which no XMP has"),
        ("<!DOCTYPE x SYSTEM 'file:///etc/passwd'><x/>", "the XMP declares a document type"),
        (LIST % (ITEM * 1_000_000), "the XMP has more than 8 MiB"),
        (LIST % ("<rdf:li/>" * 250_000), "the XMP has more than 200,000 parts"),
        (LIST % (ITEM * 1001), "the XMP has 1001 regions, the limit is 1,000"),
        ((LIST % (ITEM * 501)).join(("<x>", "")) + LIST % (ITEM * 501) + "</x>", "1002 regions"),
        ("<a>" * 100_000, "the XMP is damaged: no element found"),
        ("<a " + " ".join(f"b{n}=''" for n in range(200_001)) + "/>", "more than 200,000 parts"),
        ("<a " + " ".join(f"b{n}=''" for n in range(40_000)) + "/>", "a tag of more than 262,144"),
        (f"<x xmlns:a='{'n' * 1000}'>{'<a:b/>' * 100_000}</x>", "a namespace that is no address"),
        ("<x>&undeclared;</x>", "the XMP is damaged: undefined entity"),
        ("<x", "the XMP is damaged"),
        ("", "the XMP is damaged: no element found"),
        ("<x a='1' a='2'/>", "the XMP is damaged: duplicate attribute"),
        ("<a:b/>", "the XMP is damaged: unbound prefix"),
        ("<x>\0</x>", "the XMP is damaged"),
    ],
)
def test_xmp_that_is_damaged_or_too_much_is_refused(packet: str, words: str) -> None:
    with pytest.raises(XmpError, match=words):
        read_regions(JPEG, packet.encode())
    if "8 MiB" not in words:
        with pytest.raises(XmpError, match=words):
            read_regions(JPEG, packet.encode("utf-16"))


def test_deep_and_many_are_read_within_the_limits() -> None:
    assert read_regions(JPEG, ("<a>" * 99_000 + "</a>" * 99_000).encode()) == []
    deep = "<mwg-rs:Regions>" * 90_000 + "</mwg-rs:Regions>" * 90_000
    assert read_regions(JPEG, f"<x{NAMESPACES}>{deep}</x>".encode()) == []
    assert len(read_regions(JPEG, (LIST % (ITEM * MAX_REGIONS)).encode())) == MAX_REGIONS
    with pytest.raises(XmpError, match="'utf-8' codec can't decode"):
        read_regions(JPEG, b"<x>\xff</x>")


def test_what_is_no_picture_has_no_regions() -> None:
    for read in (read_regions, lambda content: write_sidecar(content, [])):
        with pytest.raises(XmpError, match="this is no picture; send JPEG"):
            read(b"hello")


EMBEDDED = [
    *(with_xmp(WHITE.resize((40, 20)), kind, GRACE) for kind in TURNED),
    with_xmp(WHITE.resize((40, 20)), "JPEG", of_digikam("Ada", BOX)),
    extended(xmp("", f' xmpNote:HasExtendedXMP="{"A" * 32}"'), [(0, GRACE)], len(GRACE), b"A" * 32),
]


@st.composite
def damaged(draw: st.DrawFn, sound: list[bytes]) -> bytes:
    """A sound file after bytes were changed, lost, added or doubled, or its end cut."""
    content = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        match draw(st.integers(0, 4)):
            case 0 if at < len(content):
                content[at] = draw(st.integers(0, 255))
            case 1:
                content[at:at] = draw(st.binary(max_size=20))
            case 2:
                del content[at : at + draw(st.integers(1, 200))]
            case 3:
                content[at:at] = content[at : at + 200]
            case 4:
                del content[at:]
    return bytes(content)


PACKETS = [GRACE, of_digikam("Ada", BOX), of_exiftool("Ada", BOX), LAUGHS.encode()]


@settings(max_examples=400, deadline=None)
@given(damaged(EMBEDDED) | st.binary(), damaged(PACKETS) | st.binary() | st.none())
def test_any_damage_is_read_or_refused(content: bytes, sidecar: bytes | None) -> None:
    for picture, beside in ((content, None), (JPEG, sidecar)):
        try:
            found = read_regions(picture, beside)
        except XmpError:
            continue
        for region in found:
            assert region.name is None or check_name(region.name) == region.name
            assert region.box is None or region.box.left < region.box.right


def names() -> st.SearchStrategy[str]:
    """Names of any script, with what XML has a meaning for."""

    def kept(name: str) -> str | None:
        try:
            return check_name(name)
        except InvalidNameError:
            return None

    text = st.text(min_size=1, max_size=40) | st.text("<>&\"' ]é日अك😀", min_size=1)
    return text.map(kept).filter(bool)  # type: ignore[return-value]


@st.composite
def boxes(draw: st.DrawFn, size: tuple[int, int]) -> Box:
    left, right = sorted(draw(st.sets(st.integers(0, size[0]), min_size=2, max_size=2)))
    top, bottom = sorted(draw(st.sets(st.integers(0, size[1]), min_size=2, max_size=2)))
    return Box(left, top, right, bottom)


SIDES = (65_000, 40)
WIDE = {n: save(Image.new("L", SIDES), exif=b"Exif\0\0" + tiff(n)) for n in range(1, 9)}


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 8))
def test_what_is_written_is_read_again(data: st.DataObject, orientation: int) -> None:
    size = SIDES if orientation < 5 else SIDES[::-1]
    faces = data.draw(st.lists(st.tuples(names(), boxes(size)), max_size=5))
    sidecar = write_sidecar(WIDE[orientation], faces)
    assert read_regions(WIDE[orientation], sidecar) == [Region(*face, None) for face in faces]
