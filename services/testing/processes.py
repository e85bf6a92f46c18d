"""Starts a service as the process that it is in production, and ends it."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self

import httpx
import pytest

from services.testing.servers import Server, free_port

_PROBED_AT_THEIR_PORT: Final = ("services.receiver", "services.frontend")
_START_SECONDS: Final = 300  # of the service people with a million faces, too


class Service(Server):
    """``python -m module``; its settings are the environment's, by name in any case.

    It answers probes at ``url`` and others at ``target``, which is the same place for the receiver
    and the frontend. As a context it is ready, and must end in peace.
    """

    def __init__(self, module: str, log: Path, **settings: object) -> None:
        told = {name.upper(): str(value) for name, value in settings.items()}
        port = told.setdefault("PORT", str(free_port()))
        probed = port if module in _PROBED_AT_THEIR_PORT else str(free_port())
        probed = told.setdefault("PROBE_PORT", probed)
        super().__init__(
            [sys.executable, "-m", module],
            port=int(probed),
            log=log,
            env={"HOST": "127.0.0.1", "DRAIN_SECONDS": "0", **told},
        )
        self.target = f"127.0.0.1:{port}"
        self.url = f"http://127.0.0.1:{probed}"
        self.log = log

    def start(self) -> Self:
        """Start it and wait until it listens where it will answer probes."""
        try:
            return super().start()
        except BaseException as error:
            error.add_note(self.log.read_text()[-2000:])
            raise

    def wait_alive(self) -> Self:
        """Return when it answers."""
        return self._wait("/livez")

    def wait_ready(self) -> Self:
        """Return when it says that it can serve."""
        return self._wait("/readyz")

    def _wait(self, path: str) -> Self:
        deadline = time.monotonic() + _START_SECONDS
        while not self._says_yes(path):
            if not self.is_running() or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"{self._command}: no {path}: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def _says_yes(self, path: str) -> bool:
        try:
            return httpx.get(f"{self.url}{path}", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def is_running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        return self.start().wait_ready()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def get(self, path: str) -> httpx.Response:
        """Ask it, where it answers probes."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            return await client.get(path)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send(signal.SIGTERM)

    def wait(self, seconds: float = 30) -> int:
        """Wait for its end and return the exit status."""
        assert self._process
        return self._process.wait(seconds)

    async def ended(self, *, seconds: float = 30) -> tuple[int, str]:
        """Wait for its end and return exit status and output."""
        return await asyncio.to_thread(self.wait, seconds), self.log.read_text()

    def stop(self) -> None:
        """Ask it to end unless it has, wait, and fail when it does not end in peace."""
        process = self._process
        super().stop()
        if process is not None and process.returncode:
            pytest.fail(
                f"{self._command} ended with {process.returncode}: {self.log.read_text()[-2000:]}"
            )


@asynccontextmanager
async def running(module: str, **environment: str) -> AsyncIterator[Service]:
    """Run a service and wait until it answers probes; it is killed if it is left running."""
    with TemporaryDirectory() as folder:
        service = Service(module, Path(folder, "log"), **environment)
        try:
            # Whom it asks may be in this event loop.
            yield await asyncio.to_thread(lambda: service.start().wait_alive())
        finally:
            service.kill()
