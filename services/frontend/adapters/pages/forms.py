"""What requests hold: parameters of addresses, and the fields of forms.

What a person has to mend is raised as :class:`RequestRefusedError`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Query, Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from services.common import bodies
from services.common.bodies import FilePart
from services.common.faces import Box
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.spools import Spools
from services.frontend.domain.errors import RequestRefusedError

Filter = Annotated[str | None, Query(max_length=200)]
Cursor = Annotated[str | None, Query(max_length=1000)]

_MAX_FORM_BYTES: Final = 64 * 1024
"""Of a form without files."""

_SIDES: Final = ("left", "top", "right", "bottom")
_MOST_DIGITS: Final = 9

_PICTURE_ERRORS: Final = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        f"The picture is larger than {MAX_PICTURE_BYTES // 2**20} MB."
    ),
    HTTPStatus.UNPROCESSABLE_ENTITY: "Choose one picture.",
}


async def form_of(request: Request, *, max_fields: int = 6) -> FormData:
    """Return the fields of a form without files."""
    small = bodies.limited(request, _MAX_FORM_BYTES)
    async with small.form(max_files=0, max_fields=max_fields) as form:
        return form


@asynccontextmanager
async def picture_form(request: Request, spools: Spools) -> AsyncIterator[FormData]:
    """Hold a form with one picture in its field ``file`` until the end of the block."""
    try:
        async with bodies.multipart(
            request,
            spools,
            max_files=1,
            max_bytes=MAX_PICTURE_BYTES + bodies.MULTIPART_OVERHEAD,
        ) as form:
            yield form
    except HTTPException as error:
        message = _PICTURE_ERRORS.get(HTTPStatus(error.status_code))
        if message is None:
            raise
        raise RequestRefusedError(message, error.status_code) from None


def text_of(form: FormData, field: str) -> str:
    """Return a field without spaces around it; empty when the form has none."""
    return str(form.get(field, "")).strip()


def picture_of(form: FormData) -> tuple[AsyncIterator[bytes], int]:
    """Return the pieces of the picture in a form, and how many bytes it has."""
    file = form.get("file")
    if not isinstance(file, FilePart) or not file.size:
        raise RequestRefusedError("Choose a picture.")
    return file.pieces(), file.size


def box_of(form: FormData) -> Box:
    """Return the box that a form's numbers say."""
    sides = [text_of(form, side) for side in _SIDES]
    if not all(sides):
        raise RequestRefusedError("Draw a box around the face first.")
    if not all(side.isascii() and side.isdigit() and len(side) <= _MOST_DIGITS for side in sides):
        raise RequestRefusedError("A box has four whole numbers, in pixels of the picture.")
    return Box(*map(int, sides))
