"""Templates and static files."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup

from services.common.image_states import Status
from services.common.person_names import MAX_NAME_LENGTH
from services.common.picture_formats import ACCEPTED, MAX_PICTURE_BYTES, TITLES
from services.frontend.adapters.receiver.visitor import visitor
from services.frontend.domain.frames import Frame, card_frame, marks, whole_frame
from services.frontend.domain.pictures import STATUS_WORDS, SubmittedPicture
from services.frontend.domain.words import counted, fingerprint, in_words

_FOLDER: Final = Path(__file__).parents[2]
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

CARD_ASPECT: Final = 4 / 3
"""Width to height of a picture in the list, as in the style sheet."""

_SHAPES: Final = {"": 4 / 3, "wide": 16 / 9, "square": 1.0, "upright": 3 / 4}


@dataclass(frozen=True)
class StaticFile:
    """A file that every page may use; ``version`` changes with its content."""

    content: bytes
    media_type: str
    version: str


def static_files() -> dict[str, StaticFile]:
    """Read the files of the folder ``static``, by name."""
    return {
        file.name: StaticFile(file.read_bytes(), _TYPES[file.suffix], fingerprint(file.read_text()))
        for file in (_FOLDER / "static").iterdir()
    }


class Renderer:
    """Renders the templates with what all of them use."""

    def __init__(self, files: dict[str, StaticFile]) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(
            static=lambda name: f"/static/{name}?v={files[name].version}",
            query=query,
            person_address=person_address,
            visitor=visitor,
            csrf=csrf_field,
            may=lambda scope: visitor().may(scope),
            counted=counted,
            card_frame=lambda picture: card_frame(picture, CARD_ASPECT),
            stage=stage,
            marks=marks,
            fingerprint=fingerprint,
            status_words=STATUS_WORDS,
            statuses=list(Status),
            max_bytes=MAX_PICTURE_BYTES,
            max_name=MAX_NAME_LENGTH,
            accepted=ACCEPTED,
            formats=TITLES,
        )
        self._templates.filters["in_words"] = in_words

    def render(self, template: str, **values: Any) -> str:
        """Return the HTML of a template."""
        return self._templates.get_template(template).render(**values)


def csrf_field() -> Markup:
    """Return the field that shows that a form is one of ours, where people log in."""
    token = visitor().csrf
    return Markup('<input type="hidden" name="csrf" value="%s">') % token if token else Markup()


def query(path: str, **values: str | None) -> str:
    """Return a URL with those parameters that are not empty."""
    text = urlencode({name: value for name, value in values.items() if value})
    return f"{path}?{text}" if text else path


def person_address(who: str) -> str:
    """Return the address of the page of whom the receiver knows so."""
    return f"/people/{quote(who, safe='')}"


def stage(picture: SubmittedPicture) -> tuple[str, Frame | None]:
    """Return the CSS class of the detail page's picture area that wastes least, and its frame."""
    if picture.size is None:
        return "", None
    aspect = picture.size[0] / picture.size[1]
    shape = min(_SHAPES, key=lambda name: abs(math.log(_SHAPES[name] / aspect)))
    return shape, whole_frame(picture, _SHAPES[shape])
