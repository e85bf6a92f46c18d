"""What requests hold: parameters of addresses, and the fields of forms.

Whatever reads a form also checks that it is one of ours, as :func:`check_csrf` says. What a person
has to mend is raised as :class:`RequestRefusedError`.
"""

import re
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
from services.common.spools import Spool, Spools
from services.frontend.adapters.browser import CSRF_FIELD, CSRF_HEADER, check_csrf
from services.frontend.domain.errors import RequestRefusedError
from services.frontend.domain.groups import FACES_ON_A_PAGE

Filter = Annotated[str | None, Query(max_length=200)]
Cursor = Annotated[str | None, Query(max_length=1000)]

_MAX_FORM_BYTES: Final = 64 * 1024
"""Of a form without files."""

_MAX_FIELDS: Final = FACES_ON_A_PAGE + 9
"""Of the form with most: the faces of a group that are ticked, and what else it says."""

_FIRST_FIELD: Final = re.compile(
    rb'--[^\r\n]+\r\nContent-Disposition: form-data; name="%s"\r\n\r\n(\w+)\r\n--'
    % CSRF_FIELD.encode()
)
_FIRST_FIELD_BYTES: Final = 1024

_SIDES: Final = ("left", "top", "right", "bottom")
_MOST_DIGITS: Final = 9

_PICTURE_ERRORS: Final = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        f"The picture is larger than {MAX_PICTURE_BYTES // 2**20} MB."
    ),
    HTTPStatus.UNPROCESSABLE_ENTITY: "Choose one picture.",
}


async def form_of(request: Request) -> FormData:
    """Return the fields of a form without files; read once, however often it is asked for."""
    if not hasattr(request.state, "form"):
        small = bodies.limited(request, _MAX_FORM_BYTES)
        async with small.form(max_files=0, max_fields=_MAX_FIELDS) as form:
            _check(request, text_of(form, CSRF_FIELD))
            request.state.form = form
    fields: FormData = request.state.form
    return fields


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
            _check(request, text_of(form, CSRF_FIELD))
            yield form
    except HTTPException as error:
        message = _PICTURE_ERRORS.get(HTTPStatus(error.status_code))
        if message is None:
            raise
        raise RequestRefusedError(message, error.status_code) from None


async def upload_of(request: Request, spool: Spool, *, max_bytes: int) -> None:
    """Write the form of an upload, which is passed on as it is, into a spool.

    Its first field is the token, if no header shows it.
    """
    await bodies.receive(request, spool, max_bytes=max_bytes)
    first = _FIRST_FIELD.match(await spool.read(0, _FIRST_FIELD_BYTES))
    _check(request, first[1].decode() if first else "")


def _check(request: Request, field: str) -> None:
    check_csrf(request.headers.get(CSRF_HEADER, field))


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
