"""The use cases: make deliveries from what has changed, and try them until they are taken."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

import structlog

from services.common.errors import AwayError
from services.webhooks.domain import BATCH, Attempt, Endpoint, pause_ms
from services.webhooks.metrics import ATTEMPTS
from services.webhooks.ports import Sender, WebhookDeliveries

log = structlog.get_logger(__name__)


class Webhooks:
    """Tells endpoints; several replicas may. ``endpoints`` returns those of now.

    Each gets ``at_once`` requests at a time.
    """

    def __init__(
        self,
        *,
        deliveries: WebhookDeliveries,
        sender: Sender,
        endpoints: Callable[[], Sequence[Endpoint]],
        at_once: int,
    ) -> None:
        self._deliveries = deliveries
        self._sender = sender
        self._endpoints = endpoints
        self._at_once = at_once
        self._running: dict[str, set[asyncio.Task[None]]] = defaultdict(set)
        self._ending = False

    async def make(self) -> None:
        """Make deliveries of all that has changed."""
        while await self._deliveries.make(self._endpoints()):
            pass

    async def deliver(self) -> None:
        """Begin what is due, to each endpoint as much as it may have at once."""
        for endpoint in self._endpoints():
            running = self._running[endpoint.url]
            if len(running) == self._at_once:
                continue
            for attempt in await self._deliveries.take(endpoint.url, self._at_once - len(running)):
                task = asyncio.create_task(self._work(endpoint, attempt))
                running.add(task)
                task.add_done_callback(running.discard)

    async def remove_old(self) -> None:
        """Remove what is kept long enough."""
        while await self._deliveries.remove_old() == BATCH:
            pass

    async def finish(self) -> None:
        """Begin nothing any more, and return when all attempts have ended."""
        self._ending = True
        await asyncio.gather(*(task for tasks in self._running.values() for task in tasks))

    async def _work(self, endpoint: Endpoint, attempt: Attempt) -> None:
        """Make this attempt, and then all others to the endpoint that are due."""
        # Whatever happens here, the attempt is repeated when its lease is over.
        try:
            taken: Sequence[Attempt] = [attempt]
            while taken:
                [attempt] = taken
                await self._make_attempt(endpoint, attempt)
                if self._ending or endpoint not in self._endpoints():
                    return
                taken = await self._deliveries.take(endpoint.url, 1)
        except AwayError as error:
            log.warning("the end of a delivery is not stored", id=attempt.id, error=str(error))
        except Exception:
            log.exception("unexpected error", id=attempt.id)

    async def _make_attempt(self, endpoint: Endpoint, attempt: Attempt) -> None:
        data = await self._deliveries.data(attempt)
        error = await self._sender.send(endpoint, attempt, data)
        pause = pause_ms(attempt.number, random.random) if error else None
        await self._deliveries.finish(attempt, error, pause)
        result = "delivered" if error is None else "failed" if pause is None else "retried"
        ATTEMPTS.labels(result).inc()
        if error:
            log.warning(
                "the endpoint did not take it",
                endpoint=endpoint.url,
                id=attempt.id,
                attempt=attempt.number,
                error=error,
                given_up=pause is None,
            )
