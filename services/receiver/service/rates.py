"""How often somebody may have something done."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_MINUTE: Final = 60.0

_CALLERS: Final = 100_000
"""Callers remembered, about 20 MB; who was longest away is forgotten first, and may begin anew."""


class Rate:
    """So much a minute of every caller; after a quiet minute all of it at once.

    What is done is paid with time, and nobody may be more than a minute ahead: the generic cell
    rate algorithm (ITU-T I.371), which keeps one number of a caller. What turns out to be larger
    than was known before it was done is paid afterwards, by a longer wait.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._cost = _MINUTE / per_minute
        self._clock = clock
        self._paid_until: OrderedDict[str, float] = OrderedDict()

    def wait_seconds(self, caller: str) -> float:
        """Return after how long the caller may come again; 0: now."""
        ahead = self._paid_until.get(caller, 0.0) - self._clock()
        return max(0.0, ahead + self._cost - _MINUTE)

    def spend(self, caller: str, count: int = 1) -> None:
        """Note that so much is done for the caller."""
        paid_until = max(self._paid_until.get(caller, 0.0), self._clock())
        self._paid_until[caller] = paid_until + count * self._cost
        self._paid_until.move_to_end(caller)
        if len(self._paid_until) > _CALLERS:
            self._paid_until.popitem(last=False)
