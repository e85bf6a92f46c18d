"""Clocks that only tests move: the database's, and the one that services wait on."""

import asyncio

import sqlalchemy as sa


class DatabaseClock:
    """Milliseconds since the epoch."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now

    def in_database(self) -> sa.ColumnElement[int]:
        return sa.literal(self.now, sa.BigInteger())

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


class VirtualTime:
    """A monotonic clock whose sleepers wake when a test advances it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, sleeper))
        await sleeper

    async def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that it brings about."""
        await _settle()
        end = self.now + seconds
        while due := [entry for entry in self._sleepers if entry[0] <= end]:
            first = min(due, key=lambda entry: entry[0])
            self._sleepers.remove(first)
            self.now, sleeper = first
            if not sleeper.done():
                sleeper.set_result(None)
            await _settle()
        self.now = end


async def _settle() -> None:
    """Run everything that can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)
