"""Whose faces a picture file says that it shows: the regions in its XMP, read and written.

Read are those of the Metadata Working Group (Guidelines for Handling Image Metadata 2.0, 5.9),
which Lightroom, digiKam, Picasa and Apple write, and Microsoft's where a file has none of them.
Both are shares of the picture as it is stored, not as it is shown.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Final
from xml.etree.ElementTree import Element, ParseError, XMLParser
from xml.sax.saxutils import escape

from services.common.faces import Box
from services.common.orientation import SIDEWAYS, Edges, to_stored, to_upright
from services.common.person_names import InvalidNameError, check_name
from services.common.picture_decoding import Picture, PictureError, open_picture
from services.common.picture_files.xmp import XmpError, check_size, packets, stored_orientation

__all__ = ["Region", "XmpError", "read_regions", "write_sidecar"]

MAX_REGIONS: Final = 1000
"""In one file: more than the faces of any picture that somebody named."""

_MAX_MARKS: Final = 200_000
"""Of ``<`` and of ``=``, so about as many parts as XML may have: what they take, in memory, is a
hundred times their text. Thousands of brush strokes of Lightroom's are fewer."""

_MAX_TAG: Final = 256 * 1024
"""Characters of a start tag with its attributes, all of which are read in one go."""

_PIECE: Final = 64 * 1024

_LONG_NAMESPACE: Final = re.compile("xmlns(?![^\"'<]{0,100}(?:\"[^\"<]{0,300}\"|'[^'<]{0,300}'))")
"""It is read again for each element that has it, however often one that is long."""

_SAME_SHAPE: Final = 0.01
"""By so much the ratio of two pictures' sides may differ when one is the other, resized: sides are
whole pixels, and some phones leave a few lines away."""

_RDF: Final = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_MWG: Final = "{http://www.metadataworkinggroup.com/schemas/regions/}"
_AREA: Final = "{http://ns.adobe.com/xmp/sType/Area#}"
_DIMENSIONS: Final = "{http://ns.adobe.com/xap/1.0/sType/Dimensions#}"
_MICROSOFT: Final = "{http://ns.microsoft.com/photo/1.2/}"
_MICROSOFT_INFO: Final = "{http://ns.microsoft.com/photo/1.2/t/RegionInfo#}"
_MICROSOFT_REGION: Final = "{http://ns.microsoft.com/photo/1.2/t/Region#}"
_CONTAINERS: Final = frozenset({f"{_RDF}Bag", f"{_RDF}Seq", f"{_RDF}Alt"})

_SIDECAR: Final = """\
<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Facestack">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
    xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"
    xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#"
    xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"
    tiff:Orientation="{orientation}">
   <mwg-rs:Regions rdf:parseType="Resource">
    <mwg-rs:AppliedToDimensions stDim:w="{width}" stDim:h="{height}" stDim:unit="pixel"/>
    <mwg-rs:RegionList>
     <rdf:Bag>
{regions}     </rdf:Bag>
    </mwg-rs:RegionList>
   </mwg-rs:Regions>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
_SIDECAR_REGION: Final = """\
      <rdf:li rdf:parseType="Resource">
       <mwg-rs:Name>{name}</mwg-rs:Name>
       <mwg-rs:Type>Face</mwg-rs:Type>
       <mwg-rs:Area stArea:x="{x:.6f}" stArea:y="{y:.6f}" stArea:w="{w:.6f}" stArea:h="{h:.6f}"
         stArea:unit="normalized"/>
      </rdf:li>
"""


@dataclass(frozen=True)
class Region:
    """A face of a file's notes.

    ``name`` is in the form in which names are kept, None without one. ``box`` is None where the
    picture has no such place. ``problem`` tells people why something is None that should not be.
    """

    name: str | None
    box: Box | None
    problem: str | None


@dataclass(frozen=True)
class _Found:
    """A region as it is written: name, shares of the picture, the size that it was drawn on."""

    name: str
    edges: Edges | None
    drawn_on: tuple[float, float] | None


def read_regions(content: bytes, sidecar: bytes | None = None) -> list[Region]:
    """Return the regions of a picture file that are faces, in their order.

    With a ``sidecar``, the content of an XMP file beside it, those of that. Raises
    :class:`XmpError` when the file is no picture or what it has as XMP is damaged or too much.
    """
    picture = _open(content)
    try:
        found = _first(packets(content, picture.file) if sidecar is None else iter([sidecar]))
        orientation = stored_orientation(picture.file)
    except (XmpError, MemoryError):
        raise
    except (ParseError, UnicodeDecodeError) as error:
        raise XmpError(f"the XMP is damaged: {error}") from None
    except (struct.error, zlib.error, ValueError, LookupError, OSError, RuntimeError):
        raise XmpError("the file is damaged where its XMP should be") from None
    regions = ((region, _region(region, picture.size, orientation)) for region in found)
    # Without a name and a place it says nothing.
    return [region for one, region in regions if one.name.strip() or region.box]


def write_sidecar(content: bytes, faces: Iterable[tuple[str, Box]]) -> bytes:
    """Return an XMP file to lie beside a picture file, with named faces of it as regions.

    Raises :class:`XmpError` when the content is no picture.
    """
    picture = _open(content)
    orientation = stored_orientation(picture.file)
    upright = picture.size
    stored = upright[::-1] if orientation in SIDEWAYS else upright
    regions = []
    for name, box in faces:
        left, top, right, bottom = to_stored(astuple(box), orientation, stored)
        regions.append(
            _SIDECAR_REGION.format(
                name=escape(name),
                x=(left + right) / 2 / stored[0],
                y=(top + bottom) / 2 / stored[1],
                w=(right - left) / stored[0],
                h=(bottom - top) / stored[1],
            )
        )
    return _SIDECAR.format(
        orientation=orientation, width=stored[0], height=stored[1], regions="".join(regions)
    ).encode()


def _open(content: bytes) -> Picture:
    try:
        return open_picture(content)
    except PictureError as error:
        raise XmpError(str(error)) from None


def _first(of_file: Iterator[bytes]) -> list[_Found]:
    """Return the regions of the first packet that has any."""
    for packet in of_file:
        root = _parse(packet)
        found = [*_of_mwg(root)] or [*_of_microsoft(root)]
        if len(found) > MAX_REGIONS:
            raise XmpError(f"the XMP has {len(found)} regions, the limit is {MAX_REGIONS:,}")
        if found:
            return found
    return []


def _parse(packet: bytes) -> Element:
    check_size(len(packet))
    is_wide = packet.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = packet.decode("utf-16" if is_wide else "utf-8-sig").strip("\0\t\n\r ")
    # Without a document type there are no entities, so nothing grows beyond its text.
    if "<!DOCTYPE" in text:
        raise XmpError("the XMP declares a document type, which no XMP has")
    if max(text.count("<"), text.count("=")) > _MAX_MARKS:
        raise XmpError(f"the XMP has more than {_MAX_MARKS:,} parts")
    if _LONG_NAMESPACE.search(text):
        raise XmpError("the XMP has a namespace that is no address")
    if any(len(part.partition(">")[0]) > _MAX_TAG for part in text.split("<")[1:]):
        raise XmpError(f"the XMP has a tag of more than {_MAX_TAG:,} characters")
    # In pieces, because the parser keeps other threads from the interpreter while it has one.
    parser = XMLParser()  # noqa: S314, see above
    for start in range(0, len(text), _PIECE):
        parser.feed(text[start : start + _PIECE])
    root: Element = parser.close()
    return root


def _of_mwg(root: Element) -> Iterator[_Found]:
    for info in root.iter(f"{_MWG}Regions"):
        fields = _fields(info)
        size = _fields(fields.get(f"{_MWG}AppliedToDimensions"))
        sides = [_number(size.get(f"{_DIMENSIONS}{side}")) for side in "wh"]
        drawn_on = (sides[0], sides[1]) if all(side > 0 for side in sides) else None
        for item in _items(fields.get(f"{_MWG}RegionList")):
            region = _fields(item)
            if _text(region.get(f"{_MWG}Type")) == "Face":
                area = _fields(region.get(f"{_MWG}Area"))
                x, y, w, h = (_number(area.get(f"{_AREA}{key}")) for key in "xywh")
                is_share = _text(area.get(f"{_AREA}unit")) in {"", "normalized"}
                yield _Found(
                    _text(region.get(f"{_MWG}Name")),
                    _edges(x - w / 2, y - h / 2, w, h) if is_share else None,
                    drawn_on,
                )


def _of_microsoft(root: Element) -> Iterator[_Found]:
    for info in root.iter(f"{_MICROSOFT}RegionInfo"):
        for item in _items(_fields(info).get(f"{_MICROSOFT_INFO}Regions")):
            region = _fields(item)
            numbers = _text(region.get(f"{_MICROSOFT_REGION}Rectangle")).split(",", 4)
            sides = [_number(number) for number in numbers]
            yield _Found(
                _text(region.get(f"{_MICROSOFT_REGION}PersonDisplayName")),
                _edges(*sides) if len(sides) == 4 else None,  # noqa: PLR2004
                None,
            )


def _fields(struct_: Element | str | None) -> dict[str, Element | str]:
    """Return a structure's fields: attributes or elements, its own or of a description in it."""
    found: dict[str, Element | str] = {}
    if isinstance(struct_, Element):
        for node in (struct_, *struct_.iterfind(f"{_RDF}Description")):
            found |= node.attrib
            found |= {child.tag: child for child in node}
    return found


def _items(array: Element | str | None) -> list[Element]:
    nodes = array if isinstance(array, Element) else ()
    return [item for node in nodes if node.tag in _CONTAINERS for item in node]


def _text(value: Element | str | None) -> str:
    return (value.text if isinstance(value, Element) else value) or ""


def _number(value: Element | str | None) -> float:
    """Return the number, nan when it is none."""
    try:
        return float(_text(value))
    except ValueError:
        return math.nan


def _edges(left: float, top: float, width: float, height: float) -> Edges | None:
    edges = left, top, left + width, top + height
    return edges if all(map(math.isfinite, edges)) else None


def _region(found: _Found, size: tuple[int, int], orientation: int) -> Region:
    """Return a region as people see it; ``size`` is that of the upright picture."""
    name, problem = None, None
    if found.name.strip():
        try:
            name = check_name(found.name)
        except InvalidNameError as error:
            problem = f"{error}, got {found.name[:100]!r}"
    turn = _turn(found.drawn_on, size, orientation)
    if turn is None:
        was = "{:g} x {:g}".format(*found.drawn_on or ())
        reason = f"the picture has been cropped since: it had {was} pixels"
        return Region(name, None, problem or reason)
    box = _box(found.edges, size, turn) if found.edges else None
    return Region(name, box, problem or (None if box else "its area is no part of the picture"))


def _turn(
    drawn_on: tuple[float, float] | None, size: tuple[int, int], orientation: int
) -> int | None:
    """Return by which orientation a region is to be turned, None where it fits no more."""
    stored = size[::-1] if orientation in SIDEWAYS else size
    if drawn_on is None or _have_one_shape(drawn_on, stored):
        return orientation
    # Some programs draw on the upright picture, and say so by its size.
    return 1 if _have_one_shape(drawn_on, size) else None


def _have_one_shape(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return math.isclose(one[0] * other[1], one[1] * other[0], rel_tol=_SAME_SHAPE)


def _box(edges: Edges, size: tuple[int, int], turn: int) -> Box | None:
    left, top, right, bottom = (
        min(max(edge, 0.0), 1.0) for edge in to_upright(edges, turn, (1, 1))
    )
    width, height = size
    box = Box(*map(round, (left * width, top * height, right * width, bottom * height)))
    return box if box.left < box.right and box.top < box.bottom else None
