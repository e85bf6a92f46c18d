"""Runs transactions again that the database has chosen to end a deadlock.

By hand: the rows are free at once, so there is nothing to wait for, and a retry library is there
for the waiting.
"""

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

from services.common.errors import DatabaseConflictError

_P = ParamSpec("_P")
_T = TypeVar("_T")

_RUNS: Final = 4


def retry_on_conflict(
    transaction: Callable[_P, Awaitable[_T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Return what runs a transaction, and runs it again after a conflict, up to three times."""

    @functools.wraps(transaction)
    async def retried(*arguments: _P.args, **named: _P.kwargs) -> _T:
        for _ in range(_RUNS - 1):
            try:
                return await transaction(*arguments, **named)
            except DatabaseConflictError:
                pass
        return await transaction(*arguments, **named)

    return retried
