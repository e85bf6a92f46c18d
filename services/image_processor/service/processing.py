"""The workers: each takes a ring, claims its image, has it recognised, and answers the ring.

Rings only say where to look. Whoever wins the claim works and holds its lease, and an answer counts
only while the claim is still its own, so lost and repeated rings, slow workers and several
processors change nothing but latency.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from services.common import metrics
from services.common.availability import AvailabilityLog
from services.common.errors import AwayError
from services.image_processor.domain import (
    MAX_LONG,
    Claim,
    Failed,
    Outcome,
    Processed,
    Released,
    Unanswered,
)
from services.image_processor.metrics import ATTEMPTS, IN_FLIGHT
from services.image_processor.ports import ClaimRows, Queue, Ring
from services.image_processor.service.breaker import Breaker, State
from services.image_processor.service.pictures import PictureRecognition

log = structlog.get_logger(__name__)

AGAIN_SECONDS: Final = 1.0
"""Pause before a ring whose image could not be finished is handed out again."""

_FIRST_REST_SECONDS: Final = 0.25
_MAX_REST_SECONDS: Final = 2.0
_RELEASE_SECONDS: Final = 3.0  # spent at the very end on giving claims back


class Processor:
    """Works on up to ``concurrency`` images at once, and on some more when pictures need long.

    Leases are renewed every ``renew_seconds``; ``database`` and ``store`` say when either is away.
    """

    def __init__(
        self,
        *,
        queue: Queue,
        rows: ClaimRows,
        recognition: PictureRecognition,
        breaker: Breaker,
        database: AvailabilityLog,
        store: AvailabilityLog,
        concurrency: int,
        renew_seconds: float,
    ) -> None:
        self._queue = queue
        self._rows = rows
        self._recognition = recognition
        self._breaker = breaker
        self._database = database
        self._store = store
        self._concurrency = concurrency
        self._renew_seconds = renew_seconds
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
        error = None if worker.cancelled() else worker.exception()
        if error and not self._broken.done():
            self._broken.set_exception(error)

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
        rest = _FIRST_REST_SECONDS
        while (ring := await self._queue.take()) is not None:
            with structlog.contextvars.bound_contextvars(image_id=ring.image_id):
                clear = await self._answer(ring)
            if ring in self._long:
                self._long.remove(ring)
                if not self._stopping.is_set():
                    self._resize()
                return  # another one took its place
            if clear:
                rest = _FIRST_REST_SECONDS
                continue
            # Something that every image needs is away: do not run through the queue meanwhile.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), rest)
            rest = min(rest * 2, _MAX_REST_SECONDS)

    async def _answer(self, ring: Ring) -> bool:
        """Look at one image and answer its ring; ``False`` when the next one should wait."""
        try:
            claim = await self._rows.claim(ring.image_id)
            self._database.passed()
            outcome = await self._attempt(ring, claim) if claim else None
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

    async def _attempt(self, ring: Ring, claim: Claim) -> Outcome | None:
        """Return what became of a claimed image; ``None`` when the claim was lost meanwhile."""
        start = time.perf_counter()
        holding = asyncio.create_task(self._hold(claim, ring))
        name: str | None = None
        outcome: Outcome = Released("the process ends")
        try:
            with IN_FLIGHT.track_inprogress():
                attempt = self._recognition.attempt(claim, lambda: self._on_long(ring))
                found = await self._until_lost_or_open(attempt, holding)
                if found is not None:
                    outcome = found
                    name = await self._finish(claim, outcome)
        except asyncio.CancelledError:
            with suppress(AwayError, TimeoutError):
                async with asyncio.timeout(_RELEASE_SECONDS):
                    name = await self._rows.finish(claim, outcome)
            raise
        finally:
            holding.cancel()
            ATTEMPTS.labels(name or "superseded").inc()
            seconds = time.perf_counter() - start
            metrics.record("process", seconds, error=isinstance(outcome, Failed | Unanswered))
            log.info(
                "attempt ended",
                outcome=name or "superseded",
                attempt=claim.attempt,
                seconds=round(seconds, 3),
                reason=None if isinstance(outcome, Processed) else outcome.reason,
            )
        return outcome if name else None

    async def _until_lost_or_open(
        self, attempt: Awaitable[Outcome], holding: asyncio.Task[None]
    ) -> Outcome | None:
        working = asyncio.ensure_future(attempt)
        opened = asyncio.create_task(self._breaker.wait_open())
        try:
            await asyncio.wait({working, holding, opened}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            return None if holding.done() else Released("the recogniser went away")
        finally:
            opened.cancel()
            working.cancel()

    async def _finish(self, claim: Claim, outcome: Outcome) -> str | None:
        # No library's loop: the end of the lease ends it, and another error changes the outcome.
        rest = _FIRST_REST_SECONDS
        while True:
            try:
                name = await self._rows.finish(claim, outcome)
            except AwayError as error:
                # The lease may run out meanwhile; then this changes nothing, and nothing is lost.
                self._database.failed(error)
                await asyncio.sleep(rest)
                rest = min(rest * 2, _MAX_REST_SECONDS)
            except Exception:
                if isinstance(outcome, Failed):
                    raise
                log.exception("the result could not be stored")
                outcome = Failed("the result could not be stored; the log says why")
            else:
                self._database.passed()
                return name

    async def _hold(self, claim: Claim, ring: Ring) -> None:
        """Keep lease and ring alive; return when the claim is lost."""
        while True:
            await asyncio.sleep(self._renew_seconds)
            ring.touch()
            try:
                if not await self._rows.renew(claim):
                    return
            except AwayError as error:
                self._database.failed(error)
            except Exception:
                log.exception("the lease could not be renewed")


def pause_while_open(queue: Queue, gauge: Callable[[float], None]) -> Callable[[State], None]:
    """Return what the breaker calls: it pauses the queue while open, and shows the state."""

    def on_change(state: State) -> None:
        gauge(state.value)
        if state is State.OPEN:
            queue.pause()
        elif state is State.CLOSED:
            queue.resume()

    return on_change
