"""What programs share that run once and end: patience with what is not there yet, and SIGTERM."""

import signal
import sys
import time
from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from services.common.errors import AwayError

log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS: Final = 0.5
_MAX_PAUSE_SECONDS: Final = 5.0

T = TypeVar("T")


class NotYetError(AwayError):
    """It cannot be done now, but may be later; the message says why."""


def persist(
    action: Callable[[], T],
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Repeat an action that raises :class:`NotYetError`, for so many seconds, and say why.

    By hand: a library for these ten lines would be one more package in the images of two jobs.
    """
    deadline = clock() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except NotYetError as error:
            left = deadline - clock()
            if left <= 0:
                raise
            log.warning("waiting", reason=str(error), seconds_left=round(left))
        sleep(min(pause, left))
        pause = min(pause * 2, _MAX_PAUSE_SECONDS)


def end_on_sigterm() -> None:
    """End as other programs do; the first process of a container has no such default."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
