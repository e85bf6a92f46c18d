"""The life of a process: ready, draining on SIGTERM, stopping, so that no request is lost.

Draining has three steps. Readiness fails and every response that a :class:`Door` lets out says
``Connection: close``, so load balancers and keep-alive clients go elsewhere; requests are still
served for ``drain_seconds``; then the listener closes and what is in flight is finished.
"""

import asyncio
import signal
from collections.abc import Mapping

import structlog

from services.common.health import Check, failed_checks

log = structlog.get_logger(__name__)


class Lifecycle:
    """Whether the process is ready, draining or to stop.

    ``checks`` are the dependencies without which the process cannot begin to serve, each an
    awaitable that raises when it is away. A process that was ready once stays ready until it
    drains: were all replicas to leave the load balancer when the database goes, clients would be
    refused a connection instead of told what is away.
    """

    def __init__(self, checks: Mapping[str, Check], *, drain_seconds: float) -> None:
        self._checks = checks
        self._drain_seconds = drain_seconds
        self._draining = asyncio.Event()
        self._stopping = asyncio.Event()
        self._was_ready = False

    @property
    def draining(self) -> bool:
        """Whether the process was told to stop."""
        return self._draining.is_set()

    def install_signal_handlers(self) -> None:
        """Drain on SIGTERM and SIGINT; a second one stops at once."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.drain)

    def drain(self) -> None:
        """Start to drain; called again, skip the rest of the drain time."""
        if self.draining:
            self._stopping.set()
            return
        log.info("draining", seconds=self._drain_seconds)
        self._draining.set()
        asyncio.get_running_loop().call_later(self._drain_seconds, self._stopping.set)

    async def wait_draining(self) -> None:
        """Return when new work should no longer be taken."""
        await self._draining.wait()

    async def wait_stopping(self) -> None:
        """Return when the drain time is over."""
        await self._stopping.wait()

    async def readiness(self) -> tuple[bool, dict[str, str]]:
        """Return whether requests should be sent here, and what is away, by dependency."""
        if self.draining:
            return False, {"process": "draining"}
        problems = await failed_checks(self._checks)
        self._was_ready = self._was_ready or not problems
        return self._was_ready, problems
