"""The use case: claim an image, read its picture, have it recognised, store the result.

Rings only say where to look. Whoever wins the claim works, and an answer counts only while the
claim is still its own, so lost and repeated rings, slow workers and several processors change
nothing but latency.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

import structlog

from services.common import metrics
from services.common.errors import (
    DatabaseUnavailableError,
    ObjectNotFoundError,
    ObjectRefusedError,
    ObjectStoreUnavailableError,
    ObjectTooLargeError,
    RecogniserBusyError,
    RecogniserError,
    RecogniserTimeoutError,
    RecogniserUnavailableError,
)
from services.common.images import (
    MAX_PICTURE_BYTES,
    PICTURES,
    InvalidPathError,
    check_path,
)
from services.common.logs import Outage
from services.image_processor.breaker import Breaker, State
from services.image_processor.domain import (
    MAX_LONG,
    Claim,
    Failed,
    Outcome,
    Processed,
    Rejected,
    Released,
    Unanswered,
)
from services.image_processor.metrics import ATTEMPTS, IN_FLIGHT

log = structlog.get_logger(__name__)

AGAIN_SECONDS: Final = 1.0
"""Pause before a picture that the recogniser could not take is offered again."""

_FIRST_REST_SECONDS: Final = 0.25
_MAX_REST_SECONDS: Final = 2.0
_RELEASE_SECONDS: Final = 3.0  # spent at the very end on giving claims back


class Ring(Protocol):
    """One ring of the doorbell; answer it once, with finish or requeue."""

    @property
    def image_id(self) -> int:
        """Return which image to look at."""

    def touch(self) -> None:
        """Say that it is still being worked on."""

    def finish(self) -> None:
        """Say that it is done with."""

    def requeue(self, delay: float) -> None:
        """Ask for it again, after ``delay`` seconds at the earliest."""


class Queue(Protocol):
    """Where rings come from."""

    async def take(self) -> Ring | None:
        """Wait for the next ring; ``None`` after :meth:`stop`."""

    def pause(self) -> None:
        """Hand out nothing, and ask the other side for nothing, until :meth:`resume`."""

    def resume(self) -> None:
        """Go on."""

    def resize(self, in_flight: int) -> None:
        """Expect so many rings to be taken at once."""

    def stop(self) -> None:
        """Hand out nothing any more; rings that were taken can still be answered."""

    async def close(self) -> None:
        """Release connections; rings that were not answered are offered to somebody else."""


class Rows(Protocol):
    """The images. Every call raises ``DatabaseUnavailableError`` when the database is away."""

    async def claim(self, image_id: int) -> Claim | None:
        """Claim the image; ``None`` when it is not to be had."""

    async def renew(self, claim: Claim) -> bool:
        """Prolong the lease; ``False`` when the claim is lost."""

    async def finish(self, claim: Claim, outcome: Outcome) -> str | None:
        """Store the outcome and return the name that metrics give it.

        ``None``, and nothing is changed, when the claim is lost.
        """


class Pictures(Protocol):
    """The object store."""

    async def get_tagged(self, key: str, *, max_bytes: int | None = None) -> tuple[bytes, str]:
        """Return an object and its tag, or raise the errors of ``services.common.objects``."""

    async def tag(self, key: str) -> str | None:
        """Return an object's tag, which changes with it; None when there is none."""

    async def check(self) -> None:
        """Raise ``ObjectStoreUnavailableError`` when the store does not answer."""


class Recogniser(Protocol):
    """face_recog."""

    async def identify(
        self, picture: bytes, image_id: int, on_long: Callable[[], None]
    ) -> Processed | Rejected:
        """Recognise a picture file, or raise a ``RecogniserError``; say when it needs long."""


class Processor:
    """Works on up to ``concurrency`` images at once, and on some more when pictures need long.

    ``database`` says when the rows are away. Leases are renewed every ``renew_seconds``.
    """

    def __init__(
        self,
        *,
        rows: Rows,
        pictures: Pictures,
        recogniser: Recogniser,
        queue: Queue,
        breaker: Breaker,
        database: Outage,
        concurrency: int,
        renew_seconds: float,
    ) -> None:
        self._rows = rows
        self._pictures = pictures
        self._recogniser = recogniser
        self._queue = queue
        self._breaker = breaker
        self._concurrency = concurrency
        self._renew_seconds = renew_seconds
        self._workers: set[asyncio.Task[None]] = set()
        self._long: set[Ring] = set()
        self._broken: asyncio.Future[None] = asyncio.Future()
        self._stopping = asyncio.Event()
        self._database = database
        self._store = Outage("object store")

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
            await self._rest(rest)
            rest = min(rest * 2, _MAX_REST_SECONDS)

    async def _answer(self, ring: Ring) -> bool:
        """Look at one image and answer its ring; ``False`` when the next one should wait."""
        try:
            claim = await self._rows.claim(ring.image_id)
            self._database.passed()
            outcome = await self._process(claim, ring) if claim else None
        except asyncio.CancelledError:
            ring.requeue(0)
            raise
        except DatabaseUnavailableError as error:
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

    async def _process(self, claim: Claim, ring: Ring) -> Outcome | None:
        """Return what became of the claim, or ``None`` when it was lost."""
        start = time.perf_counter()
        holding = asyncio.create_task(self._hold(claim, ring))
        name: str | None = None
        outcome: Outcome = Released("the process ends")
        try:
            with IN_FLIGHT.track_inprogress():
                found = await self._until_lost_or_open(self._attempt(claim, ring), holding)
                if found is None:
                    return None
                outcome = found
                name = await self._finish(claim, outcome)
        except asyncio.CancelledError:
            with suppress(DatabaseUnavailableError, TimeoutError):
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
                reason=_reason(outcome),
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

    async def _attempt(  # noqa: PLR0911, one for each way to end
        self, claim: Claim, ring: Ring
    ) -> Outcome:
        try:
            key = PICTURES + check_path(claim.path)
            picture, tag = await self._pictures.get_tagged(key, max_bytes=MAX_PICTURE_BYTES)
            self._store.passed()
            if not picture:
                return Rejected("the picture is empty")
            result: Outcome = await self._recogniser.identify(
                picture, claim.image_id, lambda: self._on_long(ring)
            )
            if await self._pictures.tag(key) != tag:
                # Whoever replaced it and submitted it again was told that it is being looked at.
                result = Unanswered("the picture was replaced while it was looked at")
            elif isinstance(result, Processed):
                result = replace(result, object_tag=tag)
        except RecogniserError as error:
            return await self._unanswered(error)
        except ObjectNotFoundError:
            return Rejected(f"there is no picture {claim.path}")
        except (InvalidPathError, ObjectRefusedError, ObjectTooLargeError) as error:
            return Rejected(str(error))
        except ObjectStoreUnavailableError as error:
            return await self._unread(error)
        except Exception as error:
            log.exception("unexpected error")
            return Failed(f"unexpected error: {type(error).__name__}; the log says more")
        self._breaker.success()
        return result

    async def _unread(self, error: ObjectStoreUnavailableError) -> Outcome:
        try:
            await self._pictures.check()
        except ObjectStoreUnavailableError:
            # An outage of the whole store uses up no attempt.
            self._store.failed(error)
            return Released(str(error))
        return Failed(str(error))

    async def _unanswered(self, error: RecogniserError) -> Outcome:
        match error:
            case RecogniserUnavailableError() | RecogniserTimeoutError():
                there = await self._breaker.answers()
                if not (there and isinstance(error, RecogniserTimeoutError)):
                    self._breaker.fault()  # who answers pings is busy with it, not away
                if not there:
                    # An outage of the recogniser uses up no attempt.
                    return Released(str(error))
                # It works, so it may be this picture that is too slow or took it down for a moment.
                return Unanswered(str(error))
            case RecogniserBusyError():
                return Released(str(error))
            case _:
                self._breaker.success()  # it answered, if only with an error
                return Failed(str(error))

    async def _finish(self, claim: Claim, outcome: Outcome) -> str | None:
        rest = _FIRST_REST_SECONDS
        while True:
            try:
                name = await self._rows.finish(claim, outcome)
            except DatabaseUnavailableError as error:
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
            except DatabaseUnavailableError as error:
                self._database.failed(error)
            except Exception:
                log.exception("the lease could not be renewed")

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


def _reason(outcome: Outcome) -> str | None:
    match outcome:
        case Rejected(text) | Failed(text) | Unanswered(text) | Released(text):
            return text
        case _:
            return None
