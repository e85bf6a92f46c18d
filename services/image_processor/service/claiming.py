"""Claiming an image, holding the lease while its picture is looked at, and storing the outcome."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from services.common import metrics
from services.common.errors import AwayError
from services.common.logs import Outage
from services.image_processor.domain import (
    Claim,
    Failed,
    Outcome,
    Rejected,
    Released,
    Unanswered,
)
from services.image_processor.metrics import ATTEMPTS, IN_FLIGHT
from services.image_processor.ports import ClaimRows, Ring
from services.image_processor.service.breaker import Breaker
from services.image_processor.service.recognising import PictureRecognition

log = structlog.get_logger(__name__)

FIRST_REST_SECONDS: Final = 0.25
MAX_REST_SECONDS: Final = 2.0
_RELEASE_SECONDS: Final = 3.0  # spent at the very end on giving claims back


class Claimant:
    """Claims images, one call for each; leases are renewed every ``renew_seconds``.

    ``database`` says when the rows are away.
    """

    def __init__(
        self,
        *,
        rows: ClaimRows,
        recognition: PictureRecognition,
        breaker: Breaker,
        database: Outage,
        renew_seconds: float,
    ) -> None:
        self._rows = rows
        self._recognition = recognition
        self._breaker = breaker
        self._database = database
        self._renew_seconds = renew_seconds

    async def work_on(self, ring: Ring, on_long: Callable[[], None]) -> Outcome | None:
        """Return what became of an image; ``None`` when it was not to be had, or lost meanwhile.

        ``on_long`` is called when it needs long. Raises ``DatabaseUnavailableError`` before it is
        claimed.
        """
        claim = await self._rows.claim(ring.image_id)
        self._database.passed()
        return await self._work_on(claim, ring, on_long) if claim else None

    async def _work_on(
        self, claim: Claim, ring: Ring, on_long: Callable[[], None]
    ) -> Outcome | None:
        start = time.perf_counter()
        holding = asyncio.create_task(self._hold(claim, ring))
        name: str | None = None
        outcome: Outcome = Released("the process ends")
        try:
            with IN_FLIGHT.track_inprogress():
                attempt = self._recognition.attempt(claim, on_long)
                found = await self._until_lost_or_open(attempt, holding)
                if found is None:
                    return None
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

    async def _finish(self, claim: Claim, outcome: Outcome) -> str | None:
        # No library's loop: the end of the lease ends it, and another error changes the outcome.
        rest = FIRST_REST_SECONDS
        while True:
            try:
                name = await self._rows.finish(claim, outcome)
            except AwayError as error:
                # The lease may run out meanwhile; then this changes nothing, and nothing is lost.
                self._database.failed(error)
                await asyncio.sleep(rest)
                rest = min(rest * 2, MAX_REST_SECONDS)
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


def _reason(outcome: Outcome) -> str | None:
    match outcome:
        case Rejected(text) | Failed(text) | Unanswered(text) | Released(text):
            return text
        case _:
            return None
