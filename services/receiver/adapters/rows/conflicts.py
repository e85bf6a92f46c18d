"""Runs transactions again that the database has chosen to end a deadlock."""

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

from services.common.errors import DatabaseConflictError

_P = ParamSpec("_P")
_T = TypeVar("_T")

_RUNS: Final = 4


def again(work: Callable[_P, Awaitable[_T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Return what runs a transaction, and runs it again after a conflict, up to three times."""

    @functools.wraps(work)
    async def repeated(*arguments: _P.args, **named: _P.kwargs) -> _T:
        for _ in range(_RUNS - 1):
            try:
                return await work(*arguments, **named)
            except DatabaseConflictError:
                pass
        return await work(*arguments, **named)

    return repeated
