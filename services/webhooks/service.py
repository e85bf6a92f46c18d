"""The use cases: make deliveries from what has changed, and try them until they are taken."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from services.common.errors import DatabaseUnavailableError
from services.webhooks.domain import BATCH, Delivery, Endpoint, pause_ms
from services.webhooks.metrics import ATTEMPTS

log = structlog.get_logger(__name__)


class Rows(Protocol):
    """The deliveries; each call raises ``DatabaseUnavailableError`` when the database is away."""

    async def make(self, endpoints: Sequence[Endpoint]) -> bool:
        """Make deliveries of the next changes; tell whether there may be more of them.

        Several replicas may: each change is one delivery to each endpoint that wants it.
        """

    async def take(self, url: str, limit: int) -> Sequence[Delivery]:
        """Take up to so many deliveries to an endpoint that are due, those due longest first."""

    async def data(self, delivery: Delivery) -> Mapping[str, object]:
        """Return what there is to say now of the image or person."""

    async def finish(self, delivery: Delivery, error: str | None, pause: int | None) -> None:
        """Store how an attempt ended, unless it is somebody else's by now.

        With an error it is due again after the pause in ms, or has failed if that is None.
        """

    async def remove_old(self) -> int:
        """Remove up to ``BATCH`` deliveries that are kept long enough; return how many."""


class Sender(Protocol):
    """Makes requests."""

    async def send(
        self, endpoint: Endpoint, delivery: Delivery, data: Mapping[str, object]
    ) -> str | None:
        """Return why the endpoint did not take it, for people; None when it did."""


class Webhooks:
    """Several replicas may; ``endpoints`` returns those of now.

    Each gets ``at_once`` requests at a time.
    """

    def __init__(
        self,
        *,
        rows: Rows,
        sender: Sender,
        endpoints: Callable[[], Sequence[Endpoint]],
        at_once: int,
    ) -> None:
        self._rows = rows
        self._sender = sender
        self._endpoints = endpoints
        self._at_once = at_once
        self._running: dict[str, set[asyncio.Task[None]]] = defaultdict(set)
        self._ending = False

    async def make(self) -> None:
        """Make deliveries of all that has changed."""
        while await self._rows.make(self._endpoints()):
            pass

    async def deliver(self) -> None:
        """Begin what is due, to each endpoint as much as it may have at once."""
        for endpoint in self._endpoints():
            running = self._running[endpoint.url]
            if len(running) == self._at_once:
                continue
            for delivery in await self._rows.take(endpoint.url, self._at_once - len(running)):
                task = asyncio.create_task(self._work(endpoint, delivery))
                running.add(task)
                task.add_done_callback(running.discard)

    async def remove_old(self) -> None:
        """Remove what is kept long enough."""
        while await self._rows.remove_old() == BATCH:
            pass

    async def finish(self) -> None:
        """Begin nothing any more, and return when all attempts have ended."""
        self._ending = True
        await asyncio.gather(*(task for tasks in self._running.values() for task in tasks))

    async def _work(self, endpoint: Endpoint, delivery: Delivery) -> None:
        """Attempt this delivery, and then all others to the endpoint that are due."""
        taken: Sequence[Delivery] = [delivery]
        # Whatever happens here, the attempt is repeated when its lease is over.
        try:
            while taken:
                await self._attempt(endpoint, taken[0])
                if self._ending or endpoint not in self._endpoints():
                    return
                taken = await self._rows.take(endpoint.url, 1)
        except DatabaseUnavailableError as away:
            log.warning("the end of a delivery is not stored", id=delivery.id, error=str(away))
        except Exception:
            log.exception("unexpected error", id=delivery.id)

    async def _attempt(self, endpoint: Endpoint, delivery: Delivery) -> None:
        data = await self._rows.data(delivery)
        error = await self._sender.send(endpoint, delivery, data)
        pause = pause_ms(delivery.attempt, random.random) if error else None
        await self._rows.finish(delivery, error, pause)
        result = "delivered" if error is None else "failed" if pause is None else "retried"
        ATTEMPTS.labels(result).inc()
        if error:
            log.warning(
                "the endpoint did not take it",
                endpoint=endpoint.url,
                id=delivery.id,
                attempt=delivery.attempt,
                error=error,
                given_up=pause is None,
            )
