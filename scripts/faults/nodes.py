"""One process each, started again when it ends, as a cluster would."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.testing.clocks import Clock

START_SECONDS: Final = 300.0
"""A process that does not listen, or is not ready, after so long never will be."""

_STOP_SECONDS: Final = 30.0
_RESTART_SECONDS: Final = 1.0


class NodeError(Exception):
    """A process did not start; the message names its log."""


@dataclass
class Node:
    """A process in a session of its own that listens on ``port``.

    ``complaints`` says when it ended though nobody had ended it, or did not end when it was told.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    port: int
    log: Path
    clock: Clock | None = None
    """None when this process's clock cannot be moved."""
    may_die: bool = False
    """Whether ending by itself is an answer to a fault, as on a full disk; not of our services."""
    complaints: list[str] = field(default_factory=list)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One fault at a time."""
    _process: asyncio.subprocess.Process | None = None
    _keeper: asyncio.Task[None] | None = None
    _wanted: bool = False

    async def start(self) -> None:
        """Start it and return when it listens."""
        await self._spawn()
        self._wanted = True  # not before: one that was told to end has not ended by itself
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        await self._listening()

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the process and its workers."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    async def end(self, signum: signal.Signals) -> None:
        """End it with SIGTERM or SIGKILL, and leave it ended until :meth:`start`."""
        self._wanted = False
        process = self._process
        if process is None:
            return
        if signum is signal.SIGTERM and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                self.complaints.append(
                    f"{self.name} did not end within {_STOP_SECONDS:g} s of SIGTERM"
                )
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it, or workers that it left behind
        await process.wait()
        self._forget_clock(process.pid)

    async def close(self) -> None:
        """End it for good."""
        if self._keeper is not None:
            self._keeper.cancel()
        await self.end(signal.SIGKILL)

    async def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                # It ends with us, however we end.
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *self.command,
                env=self.environment,
                cwd=self.log.parent,  # away from any .env
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            process = self._process
            if not self._wanted or process is None or process.returncode is None:
                continue
            if not self.may_die:
                self.complaints.append(f"{self.name} ended by itself with {process.returncode}")
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._forget_clock(process.pid)
            await asyncio.sleep(_RESTART_SECONDS)
            if self._wanted and self._process is process:  # else a fault has ended and started it
                await self._spawn()

    def _forget_clock(self, pid: int) -> None:
        if self.clock is not None:
            self.clock.forget(pid)

    async def _listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            await asyncio.sleep(0.05)
        raise NodeError(f"{self.name} does not listen after {START_SECONDS:g} s: see {self.log}")
