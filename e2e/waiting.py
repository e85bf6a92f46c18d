"""Waiting for a condition, the only kind of waiting that these tests do."""

import time
from collections.abc import Callable
from subprocess import SubprocessError
from typing import Final, TypeVar

import httpx

T = TypeVar("T")

# What a system that is not there yet answers with. Any other exception is a bug in the test.
_NOT_YET: Final = (AssertionError, LookupError, OSError, SubprocessError, httpx.HTTPError)


def wait_until(condition: Callable[[], T], seconds: float, what: str) -> T:
    """Return the condition's first true value; say what was waited for when none comes in time."""
    deadline = time.monotonic() + seconds
    while True:
        problem: Exception | None = None
        last: object = None
        try:
            value = condition()
        except _NOT_YET as error:
            problem = error
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= deadline:
            seen = f"{type(problem).__name__}: {problem}" if problem else f"last seen: {last!r}"
            raise AssertionError(f"waited {seconds:g} s in vain for {what}; {seen}") from problem
        time.sleep(0.5)
