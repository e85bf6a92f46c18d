"""One process each, started again when it ends, as a cluster would."""

import asyncio
import signal
import subprocess
from dataclasses import dataclass, field
from typing import Final

from services.local.errors import LocalError
from services.local.processes import START_SECONDS, Process, listens
from services.testing.clocks import Clock

_RESTART_SECONDS: Final = 1.0


@dataclass
class Node:
    """A process that listens on ``port``.

    ``complaints`` says when it ended though nobody had ended it, or did not end when it was told.
    """

    name: str
    process: Process
    port: int
    clock: Clock | None = None
    """None when this process's clock cannot be moved."""
    may_die: bool = False
    """Whether ending by itself is an answer to a fault, as on a full disk; not of our services."""
    complaints: list[str] = field(default_factory=list)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One fault at a time."""
    _keeper: asyncio.Task[None] | None = None
    _wanted: bool = False

    def __post_init__(self) -> None:
        """Have it end at once with the campaign, also while a fault has stopped it."""
        self.process.ends_by = signal.SIGKILL

    async def start(self) -> None:
        """Start it and return when it listens, or raise ``LocalError``."""
        self.process.spawn()
        self._wanted = True  # not before: one that was told to end has not ended by itself
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        try:
            async with asyncio.timeout(START_SECONDS):  # it may be started again meanwhile
                while True:
                    if listens(self.port):
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise LocalError(
                f"{self.name} does not listen after {START_SECONDS:g} s: see {self.process.log}"
            ) from None

    async def end(self, signum: signal.Signals) -> None:
        """End it with SIGTERM or SIGKILL, and leave it ended until :meth:`start`."""
        self._wanted = False
        if not self.process.is_running() and self.process.code is None:
            return  # it was not started, or has been ended
        if signum is signal.SIGTERM and self.process.is_running():
            self.process.send(signum)
            try:
                await asyncio.to_thread(self.process.wait)
            except subprocess.TimeoutExpired as late:
                self.complaints.append(
                    f"{self.name} did not end within {late.timeout:g} s of SIGTERM"
                )
        self._end_all()
        await asyncio.to_thread(self.process.kill)

    async def close(self) -> None:
        """End it for good."""
        if self._keeper is not None:
            self._keeper.cancel()
        await self.end(signal.SIGKILL)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            code = self.process.code
            if not self._wanted or code is None:
                continue
            if not self.may_die:
                self.complaints.append(f"{self.name} ended by itself with {code}")
            self._end_all()
            await asyncio.sleep(_RESTART_SECONDS)
            if self._wanted and self.process.code is not None:  # else a fault has started it
                self.process.spawn()

    def _end_all(self) -> None:
        """End it, or workers that it has left behind."""
        self.process.send_all(signal.SIGKILL)
        if self.clock is not None:
            self.clock.forget(self.process.pid)
