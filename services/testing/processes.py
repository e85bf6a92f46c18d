"""Starts a service as the process that it is in production, and ends it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from services.testing.servers import free_port
from services.testing.waiting import eventually


class HttpProcess:
    """A running service that has no probe port of its own, for tests without an event loop.

    Settings are the environment's, by name in any case.
    """

    def __init__(self, module: str, log: Path, **settings: object) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        environment = {name.upper(): str(value) for name, value in settings.items()}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                env={**os.environ, **environment, "HOST": "127.0.0.1", "PORT": str(self.port)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 30
        while not self._ready():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").is_success
        except httpx.TransportError:
            return False

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Send SIGTERM unless it has ended, and wait for its end."""
        if self.process.poll() is None:
            self.terminate()
        self.process.wait(30)


class ServiceProcess:
    """One running service with probes."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self._probes = f"http://127.0.0.1:{port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def get(self, path: str) -> httpx.Response:
        """Ask its probe port."""
        async with httpx.AsyncClient(base_url=self._probes) as client:
            return await client.get(path)

    async def alive(self) -> bool:
        """Tell whether it answers."""
        assert self._process.returncode is None
        try:
            return (await self.get("/livez")).is_success
        except httpx.ConnectError:
            return False

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    async def kill(self) -> None:
        """Send SIGKILL, and wait for its end."""
        self._process.kill()
        await self._process.communicate()

    async def ended(self, *, seconds: float = 30) -> tuple[int | None, str]:
        """Wait for its end and return exit status and output."""
        output, _ = await asyncio.wait_for(self._process.communicate(), seconds)
        return self._process.returncode, output.decode()


_PROBED_AT_THEIR_PORT = ("services.receiver", "services.frontend")


@asynccontextmanager
async def running(module: str, **environment: str) -> AsyncIterator[ServiceProcess]:
    """Run ``python -m module`` and wait until it answers; it is killed if it is left running."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        env={
            **os.environ,
            "PROBE_PORT": str(port),
            # The receiver and the frontend answer probes there, too; others at any port.
            "PORT": str(port) if module in _PROBED_AT_THEIR_PORT else "0",
            "HOST": "127.0.0.1",
            "DRAIN_SECONDS": "0",
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    service = ServiceProcess(process, port)
    try:
        await eventually(service.alive)
        yield service
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
