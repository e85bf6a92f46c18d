"""What comes of calls of the receiver, where a page is to show something all the same."""

from collections.abc import Awaitable
from http import HTTPStatus
from typing import TypeVar

from services.frontend.domain.errors import NotDoneError, RequestRefusedError

T = TypeVar("T")


async def or_error(call: Awaitable[T]) -> T | NotDoneError:
    """Return what a call returns, or why there is nothing."""
    try:
        return await call
    except NotDoneError as error:
        return error


async def or_none(call: Awaitable[T]) -> T | None:
    """Return what a call returns, if anything."""
    result = await or_error(call)
    return None if isinstance(result, NotDoneError) else result


async def gone(deletion: Awaitable[None]) -> None:
    """Delete what may be gone already: somebody else was faster, and that is all right."""
    try:
        await deletion
    except RequestRefusedError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
