"""Starts a service as the process that it is in production, and ends it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from services.testing.servers import free_port
from services.testing.waiting import eventually


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
            "PORT": str(port),  # where the receiver and the frontend answer probes too
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
