"""Giving stored faces an encoding of the engine in use, while there is nothing else to do.

Faces that were stored before there were encodings have none, and after a change of the engine all
of them lack the new one's. They are encoded in their boxes, from pictures that are still the same;
names and boxes stay as they are. It is done in the order of ids, as many pictures at once as of new
ones, by one process at a time, and goes on where it was whenever that one ends. New pictures always
come first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from services.common.availability import AvailabilityLog
from services.common.errors import AwayError, ClaimLostError
from services.image_processor.domain import (
    RENEW_SECONDS,
    Encoded,
    EncodingProgress,
    FacesToEncode,
    Postponed,
    Skipped,
)
from services.image_processor.metrics import ENCODING_LEFT, ENCODING_SKIPPED, FACES_ENCODED
from services.image_processor.ports import EncodingRows, Time
from services.image_processor.service.breaker import Breaker, State
from services.image_processor.service.pictures import StoredPictures

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0
"""Pause before looking again whether there is nothing else to do."""

ENGINE_SECONDS: Final = 30.0
"""How often face_recog is asked for its engine, and the pause after an unexpected error."""

SETTLE_SECONDS: Final = 60.0
"""A new engine must have answered alone for so long: in a rollout old replicas answer, too."""

RANGE: Final = 5000
"""Ids of images that one statement looks at."""

REMOVED: Final = 500
"""Ids of images of which one transaction removes encodings."""

_LOG_SECONDS: Final = 60.0
_RELEASE_SECONDS: Final = 3.0
_CHANGED: Final = Skipped("changed", "its result is another one by now")


class Encoder:
    """Works while nobody waits and ``breaker`` is closed, on ``concurrency`` pictures at once.

    ``engine`` returns the one that answers, None when nobody says; ``database`` says when rows are
    away.
    """

    def __init__(
        self,
        *,
        rows: EncodingRows,
        stored_pictures: StoredPictures,
        engine: Callable[[], Awaitable[str | None]],
        breaker: Breaker,
        database: AvailabilityLog,
        time: Time,
        concurrency: int,
    ) -> None:
        self._rows = rows
        self._stored_pictures = stored_pictures
        self._ask_engine = engine
        self._breaker = breaker
        self._database = database
        self._time = time
        self._concurrency = self._at_once = concurrency
        self._engine: str | None = None
        self._asked_at = self._settled_at = self._logged_at = float("-inf")
        self._looked_to = self._seen = self._removed_to = 0

    async def run(self, told_to_stop: Awaitable[None]) -> None:
        """Work until told to stop; what is not finished then is left to others at once."""
        working = asyncio.create_task(self._work())
        told = asyncio.ensure_future(told_to_stop)
        try:
            await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            # The driver of MariaDB waits by asyncio.wait_for, which in Python 3.11 loses what comes
            # at the moment of an answer (https://github.com/python/cpython/issues/86296).
            while not working.done():
                working.cancel()
                await asyncio.wait({working}, timeout=1.0)
            await asyncio.gather(working, return_exceptions=True)
        with suppress(AwayError, TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._rows.release()

    async def _work(self) -> None:
        while True:
            rest = POLL_SECONDS
            try:
                rest = await self.turn()
                self._database.passed()
            except AwayError as error:
                self._database.failed(error)
            except Exception:
                log.exception("stored faces could not be encoded")
                rest = ENGINE_SECONDS
            if rest:
                await self._time.sleep(rest)

    async def turn(self) -> float:
        """Do one thing, if there is any; return the seconds until the next look."""
        progress = await self._rows.read()
        ENCODING_LEFT.set(progress.images_left)
        if progress.halted or self._breaker.state is not State.CLOSED:
            return POLL_SECONDS
        engine = await self._ask()
        if engine is None:
            return POLL_SECONDS
        try:
            if engine != progress.engine:
                return await self._change(progress.engine, engine)
            return await self._go_on(progress, engine)
        except ClaimLostError:
            return POLL_SECONDS

    async def _go_on(self, progress: EncodingProgress, engine: str) -> float:
        # What is begun again later, perhaps after somebody else did it, begins from the start.
        if not progress.to_count:
            self._looked_to = self._seen = 0
        if not progress.removal_due:
            self._removed_to = 0
        todo = progress.to_count or progress.to_walk or progress.removal_due or progress.to_decide
        if not (todo and await self._rows.claim()):
            return POLL_SECONDS
        if progress.to_walk:
            return await self._walk(progress, engine)
        if progress.to_count:
            await self._count(progress, engine)
        elif progress.removal_due:
            await self._remove(progress, engine)
        elif not await self._rows.decide_again():
            return POLL_SECONDS
        return 0

    async def _ask(self) -> str | None:
        if self._time.monotonic() - self._asked_at >= ENGINE_SECONDS:
            engine = await self._ask_engine()
            if engine is None:
                return None
            self._note(engine)
        return self._engine

    def _note(self, engine: str) -> None:
        self._asked_at = self._time.monotonic()
        if engine != self._engine:
            self._engine = engine
            self._settled_at = self._asked_at + SETTLE_SECONDS

    async def _change(self, before: str | None, engine: str) -> float:
        if before is not None:
            await self._rows.keep_others()
            if self._time.monotonic() < self._settled_at:
                return ENGINE_SECONDS
        if not await self._rows.claim():
            return POLL_SECONDS
        await self._rows.begin(engine)
        log.info("stored faces are encoded by another engine", engine=engine, before=before)
        return 0

    async def _count(self, progress: EncodingProgress, engine: str) -> None:
        """Count what there is to do in one more range of ids."""
        until = self._looked_to + RANGE
        self._seen += await self._rows.count(engine, self._looked_to, until)
        self._looked_to = until
        if until >= progress.last_image_id:
            if self._seen:
                log.info("stored faces lack an encoding", engine=engine, images=self._seen)
            await self._rows.begin_walk(self._seen)

    async def _walk(self, progress: EncodingProgress, engine: str) -> float:
        until = progress.after + RANGE
        image_ids = await self._rows.next(engine, progress.after, until, self._at_once)
        if not image_ids and until < progress.last_image_id:
            await self._rows.go_to(until)
        elif not image_ids:
            await self._rows.end_walk()
            log.info("stored faces have their encodings", engine=engine)
        else:
            if self._time.monotonic() - self._logged_at >= _LOG_SECONDS:
                self._logged_at = self._time.monotonic()
                log.info("stored faces are being encoded", images_left=progress.images_left)
            return await self._encode(image_ids, engine)
        return 0

    async def _remove(self, progress: EncodingProgress, engine: str) -> None:
        until = self._removed_to + REMOVED
        await self._rows.remove_others(engine, self._removed_to, until)
        self._removed_to = until
        if until >= progress.last_image_id:
            await self._rows.end_removal()
            log.info("encodings of other engines are removed", engine=engine)

    async def _encode(self, image_ids: Sequence[int], engine: str) -> float:
        """Encode these at once, then store in order what came of them, up to one for later."""
        holding = asyncio.create_task(self._hold())
        try:
            looking = (self._look(image_id, engine) for image_id in image_ids)
            found = await asyncio.gather(*looking, return_exceptions=True)
            for image_id, answer in zip(image_ids, found, strict=True):
                if isinstance(answer, BaseException):
                    raise answer
                with structlog.contextvars.bound_contextvars(image_id=image_id):
                    match answer:
                        case _, Postponed():
                            # The others of many may have taken all places before it, and would
                            # again.
                            self._at_once = 1
                            return POLL_SECONDS
                        case _, Skipped() as skipped:
                            await self._skip(image_id, skipped)
                        case _, Encoded() as encoded if encoded.engine != engine:
                            self._note(encoded.engine)
                            return 0
                        case faces, Encoded() as encoded:
                            await self._store(faces, encoded)
                        case None:
                            await self._skip(image_id, _CHANGED)
        finally:
            holding.cancel()
        self._at_once = self._concurrency
        return 0

    async def _look(
        self, image_id: int, engine: str
    ) -> tuple[FacesToEncode, Encoded | Skipped | Postponed] | None:
        with structlog.contextvars.bound_contextvars(image_id=image_id):
            faces = await self._rows.faces(image_id, engine)
            return (faces, await self._stored_pictures.encode(faces)) if faces else None

    async def _store(self, faces: FacesToEncode, encoded: Encoded) -> None:
        stored = await self._rows.store(faces, encoded)
        if stored is None:
            await self._skip(faces.image_id, _CHANGED)
        else:
            FACES_ENCODED.inc(stored)

    async def _skip(self, image_id: int, skipped: Skipped) -> None:
        await self._rows.skip(image_id)
        ENCODING_SKIPPED.labels(skipped.reason).inc()
        log.warning("stored faces are not encoded", reason=f"{skipped.reason}: {skipped.detail}")

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with suppress(AwayError):
                await self._rows.claim()
