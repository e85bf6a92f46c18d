"""Services in tests: each the process that it is in production."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self

import httpx
import pytest

from services.local.processes import ServiceProcess, answers, free_port, listens

_SPEAK_HTTP: Final = ("services.receiver", "services.frontend")


class Service(ServiceProcess):
    """A service on free ports; its settings are the environment's, by name in any case.

    A receiver is open to everybody if its settings do not say otherwise.

    It answers probes at ``probe_url`` and others at ``target``; ``url`` and ``port`` are the one of
    both where it speaks HTTP, and with its clients if it does that. As a context it is ready, and
    must end in peace.
    """

    def __init__(self, module: str, log: Path, **settings: object) -> None:
        told = {name.upper(): str(value) for name, value in settings.items()}
        port = told.setdefault("PORT", str(free_port()))
        probe_port = told.setdefault("PROBE_PORT", str(free_port()))
        self.port = int(port if module in _SPEAK_HTTP else probe_port)
        self.target = f"127.0.0.1:{port}"
        self.probe_url = f"http://127.0.0.1:{probe_port}"
        defaults = {**os.environ, "HOST": "127.0.0.1", "ACCESS": "open", "DRAIN_SECONDS": "0"}
        super().__init__(module, {**defaults, **told}, log, f"http://127.0.0.1:{self.port}")

    def start(self) -> Self:
        """Start it and wait until it listens."""
        self.spawn()
        return self.wait_until(lambda: listens(self.port), f"nobody at port {self.port}")

    def wait_alive(self) -> Self:
        """Return when it answers."""
        return self.wait_until(lambda: answers(f"{self.url}/livez"), "no /livez")

    def __enter__(self) -> Self:
        return self.start().wait_ready()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def get(self, path: str) -> httpx.Response:
        """Ask it, where it answers probes."""
        async with httpx.AsyncClient(base_url=self.probe_url, trust_env=False) as client:
            return await client.get(path)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send(signal.SIGTERM)

    async def ended(self, *, seconds: float = 30) -> tuple[int, str]:
        """Wait for its end and return exit status and output."""
        return await asyncio.to_thread(self.wait, seconds), self.log.read_text()

    def stop(self) -> None:
        """Ask it to end unless it has, wait, and fail when it does not end in peace."""
        super().stop()
        if self.code:
            pytest.fail(f"{self.command} ended with {self.code}: {self.log.read_text()[-2000:]}")


@asynccontextmanager
async def running(module: str, **environment: str) -> AsyncIterator[Service]:
    """Run a service and wait until it answers probes; it is killed if it is left running."""
    with TemporaryDirectory() as folder:
        service = Service(module, Path(folder, "log"), **environment)
        try:
            # Whom it asks may be in this event loop.
            service.spawn()  # not in the thread that waits: a process ends with whoever started it
            yield await asyncio.to_thread(service.wait_alive)
        finally:
            service.kill()
