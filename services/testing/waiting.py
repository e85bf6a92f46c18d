"""Waiting for a condition, never for a time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def eventually(
    condition: Callable[[], object | Awaitable[object]], *, seconds: float = 20
) -> None:
    """Return when the condition holds; fail with its last value when it does not in time.

    A condition holds when it returns something true and raises no ``AssertionError``.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: object = None
        try:
            last = condition()
            if inspect.isawaitable(last):
                last = await last
            if last:
                return
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {last!r}")
        await asyncio.sleep(0.02)
