"""The circuit breaker around the recogniser.

closed     calls go through; so many faults in a row open it
open       nothing is sent until the cool-down is over
half-open  one health ping is on its way: it closes the breaker, or opens it with twice the
           cool-down

The cool-down starts small again only when a real call succeeds. So a recogniser that answers
pings and nothing else is asked less and less often.

By hand: purgatory, aiobreaker and pybreaker follow the wall clock and cool down for a fixed time,
then try a real call; none pings, nor tells those that wait for an answer when it opens.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Final

import structlog

from services.image_processor.domain import BreakerLimits
from services.image_processor.ports import Time

log = structlog.get_logger(__name__)

_JITTER: Final = 0.2


class State(IntEnum):
    """The numbers are the values of the metric ``facestack_breaker_state``."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Counts faults and finds out when the recogniser is back.

    ``ping`` tells whether it is; ``on_change`` is called with each new state; ``random`` returns
    a number in [0, 1).
    """

    def __init__(
        self,
        ping: Callable[[], Awaitable[bool]],
        *,
        on_change: Callable[[State], None],
        time: Time,
        random: Callable[[], float],
        limits: BreakerLimits = BreakerLimits(),  # noqa: B008, it is frozen
    ) -> None:
        self._ping = ping
        self._on_change = on_change
        self._time = time
        self._random = random
        self._limits = limits
        self._faults = 0
        self._cool_down = limits.first_cool_down
        self._opened = asyncio.Event()
        self._recovery: asyncio.Task[None] | None = None
        self.state = State.CLOSED

    def success(self) -> None:
        """Count a call that was answered."""
        # An answer to a call that began before it opened says nothing about now.
        if self.state is State.CLOSED:
            self._faults = 0
            self._cool_down = self._limits.first_cool_down

    def fault(self) -> None:
        """Count a call that nobody answered."""
        if self.state is not State.CLOSED:
            return
        self._faults += 1
        if self._faults >= self._limits.faults:
            log.warning("recogniser is away, pausing", faults=self._faults)
            self._enter(State.OPEN)
            self._recovery = asyncio.create_task(self._recover())

    async def wait_open(self) -> None:
        """Return when it is not closed."""
        await self._opened.wait()

    async def answers(self) -> bool:
        """Ping the recogniser; whatever goes wrong is a no."""
        try:
            return await self._ping()
        except Exception:
            log.exception("the ping failed")
            return False

    async def close(self) -> None:
        """Stop waiting for the recogniser; the state stays what it is."""
        if self._recovery:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)

    async def _recover(self) -> None:
        opened_at = self._time.monotonic()
        longest = self._limits.longest_cool_down
        while True:
            spread = 1 + _JITTER * (2 * self._random() - 1)
            await self._time.sleep(min(self._cool_down * spread, longest))
            self._cool_down = min(self._cool_down * 2, longest)
            self._enter(State.HALF_OPEN)
            if await self.answers():
                break
            self._enter(State.OPEN)
        self._faults = 0
        log.info("recogniser is back", seconds=round(self._time.monotonic() - opened_at, 1))
        self._enter(State.CLOSED)

    def _enter(self, state: State) -> None:
        self.state = state
        if state is State.CLOSED:
            self._opened.clear()
        else:
            self._opened.set()
        self._on_change(state)
