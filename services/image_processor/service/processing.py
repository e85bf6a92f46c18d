"""The workers: each takes a ring, has its image worked on, and answers the ring.

Rings only say where to look. Whoever wins the claim works, and an answer counts only while the
claim is still its own, so lost and repeated rings, slow workers and several processors change
nothing but latency.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from services.common.errors import AwayError
from services.common.logs import Outage
from services.image_processor.domain import MAX_LONG, Released, Unanswered
from services.image_processor.ports import Queue, Ring
from services.image_processor.service.breaker import State
from services.image_processor.service.claiming import (
    FIRST_REST_SECONDS,
    MAX_REST_SECONDS,
    Claimant,
)

log = structlog.get_logger(__name__)

AGAIN_SECONDS: Final = 1.0
"""Pause before a ring whose image could not be finished is handed out again."""


class Processor:
    """Works on up to ``concurrency`` images at once, and on some more when pictures need long.

    ``database`` and ``store`` say when either is away.
    """

    def __init__(
        self,
        *,
        claimant: Claimant,
        queue: Queue,
        database: Outage,
        store: Outage,
        concurrency: int,
    ) -> None:
        self._claimant = claimant
        self._queue = queue
        self._database = database
        self._store = store
        self._concurrency = concurrency
        self._workers: set[asyncio.Task[None]] = set()
        self._long: set[Ring] = set()
        self._broken: asyncio.Future[None] = asyncio.Future()
        self._stopping = asyncio.Event()

    async def run(self, told_to_stop: Awaitable[None], *, grace_seconds: float) -> None:
        """Work until told to stop; then finish what is in flight.

        What is not finished within the grace is given back. The queue is left open, so that its
        owner closes it after the last answer.
        """
        for _ in range(self._concurrency):
            self._add_worker()
        told = asyncio.ensure_future(told_to_stop)
        await asyncio.wait({told, self._broken}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        self._stopping.set()
        self._queue.stop()
        workers = list(self._workers)
        if workers:
            await asyncio.wait(workers, timeout=grace_seconds)
        late = [worker for worker in workers if not worker.done()]
        if late:
            log.warning("giving back what is in flight", images=len(late))
        for worker in late:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        if self._broken.done():
            self._broken.result()

    def _add_worker(self) -> None:
        worker = asyncio.create_task(self._work())
        self._workers.add(worker)
        worker.add_done_callback(self._on_end)

    def _on_end(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and worker.exception() and not self._broken.done():
            self._broken.set_exception(worker.exception() or AssertionError)

    def _on_long(self, ring: Ring) -> None:
        """Have another image worked on meanwhile, so that a picture that needs long stops none."""
        if len(self._long) < MAX_LONG and not self._stopping.is_set():
            self._long.add(ring)
            self._resize()

    def _resize(self) -> None:
        wanted = self._concurrency + len(self._long)
        while len(self._workers) < wanted:
            self._add_worker()
        self._queue.resize(wanted)

    async def _work(self) -> None:
        rest = FIRST_REST_SECONDS
        while (ring := await self._queue.take()) is not None:
            with structlog.contextvars.bound_contextvars(image_id=ring.image_id):
                clear = await self._answer(ring)
            if ring in self._long:
                self._long.remove(ring)
                if not self._stopping.is_set():
                    self._resize()
                return  # another one took its place
            if clear:
                rest = FIRST_REST_SECONDS
                continue
            # Something that every image needs is away: do not run through the queue meanwhile.
            await self._rest(rest)
            rest = min(rest * 2, MAX_REST_SECONDS)

    async def _answer(self, ring: Ring) -> bool:
        """Look at one image and answer its ring; ``False`` when the next one should wait."""
        try:
            outcome = await self._claimant.work_on(ring, lambda: self._on_long(ring))
        except asyncio.CancelledError:
            ring.requeue(0)
            raise
        except AwayError as error:
            self._database.failed(error)
            ring.requeue(AGAIN_SECONDS)
            return False
        except Exception:
            # The lease ends and the redeemer takes the image from there.
            log.exception("the image could not be looked at")
            ring.finish()
            return False
        match outcome:
            case Unanswered():
                ring.requeue(AGAIN_SECONDS)
            case Released():
                ring.requeue(AGAIN_SECONDS)
                return False
            case _:
                ring.finish()
        return not self._store.away

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def pause_while_open(queue: Queue, gauge: Callable[[float], None]) -> Callable[[State], None]:
    """Return what the breaker calls: it pauses the queue while open, and shows the state."""

    def on_change(state: State) -> None:
        gauge(state.value)
        if state is State.OPEN:
            queue.pause()
        elif state is State.CLOSED:
            queue.resume()

    return on_change
