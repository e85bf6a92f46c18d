"""The use cases: follow what faces are stored, and decide again after a change of a person.

A change is a row. Whoever has claimed it writes faces and how far it came in one transaction, which
a lost claim ends: so whoever is killed, or too slow, is followed by another where it stopped.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from services.common.errors import (
    ClaimLostError,
    DatabaseConflictError,
    DatabaseUnavailableError,
    OtherEngineError,
    RecogniserError,
)
from services.common.events import PAGE, EventKind, Position
from services.common.faces import Says, check_encoding, says_of
from services.common.logs import Outage
from services.people.domain import (
    AGAIN_MS,
    LATER_MS,
    RENEW_SECONDS,
    Answer,
    Face,
    Found,
    Picture,
    Work,
    differ,
    without,
)
from services.people.metrics import DECIDED, STORED_FACES, WAITING
from services.people.ports import (
    FaceRows,
    Index,
    Recogniser,
    RowsChangedError,
    View,
    WorkRows,
)

log = structlog.get_logger(__name__)

BATCH: Final = 200
"""Images that are decided on, and written, at a time."""

_LOADED: Final = 2_000
"""Images whose encodings are loaded at a time: with two faces each, 2 MB."""

_RELOAD_SECONDS: Final = 1_800.0
"""All is loaded anew so often: services of before note no events."""

_PATIENCE_SECONDS: Final = 6.0
"""A known picture that is to be removed is, within a few seconds; and one that is lacking for so
long is not in the store: whoever put it there had done so before its row."""

_PAUSE_SECONDS: Final = 0.5
_TRIES: Final = 5


_STEADY_SECONDS: Final = 10.0
"""Whose encodings are looked for alone for so long is the engine in use; in a rollout of another
one, some of either may come."""

_OF_IMAGES: Final = frozenset({EventKind.IMAGE, EventKind.ENCODED})


class NotLoadedError(Exception):
    """The stored faces are not all in memory yet."""


class StoredFaces:
    """The encodings of one engine in memory, as the database has them.

    Events say what has changed. Whoever compares need not wait while all is loaded anew.
    """

    def __init__(
        self, rows: FaceRows, index: Index, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rows = rows
        self._index = index
        self._clock = clock
        self._loading = asyncio.Lock()
        self._turn = asyncio.Lock()  # for the index, and the position that it is of
        self._engine: str | None = None
        self._other: tuple[str, float] | None = None  # that was looked for, and since when
        self._loaded_at: float | None = None
        self._position: Position | None = None

    async def check(self) -> None:
        """Raise unless all were loaded once."""
        if self._loaded_at is None:
            raise NotLoadedError("the stored faces are still being loaded")

    async def follow(self, engine: str | None = None) -> None:
        """Bring memory up to date; with those of an engine, when one is named."""
        if not (self._loading.locked() and await self._is_whole(engine or self._wanted())):
            async with self._loading:
                wanted = engine or self._wanted() or await self._rows.newest_engine()
                if not await self._is_whole(wanted) or self._is_old():
                    await self._load(wanted)
        async with self._turn:
            await self._take_events()
        STORED_FACES.set(len(self._index))

    async def _is_whole(self, engine: str | None) -> bool:
        """Tell whether all of an engine's are here but for what events tell."""
        return (
            self._loaded_at is not None
            and engine == self._engine
            and self._position is not None
            and not await self._rows.lost(self._position)
        )

    def _wanted(self) -> str | None:
        if self._other and self._clock() - self._other[1] >= _STEADY_SECONDS:
            return self._other[0]
        return self._engine

    def _is_old(self) -> bool:
        return self._clock() - (self._loaded_at or 0.0) > _RELOAD_SECONDS

    @property
    def size(self) -> int:
        """Return the bytes of an encoding; 0 when there was none yet."""
        return self._index.size

    async def nearer(
        self, mean: NDArray[np.float32], least: float
    ) -> tuple[NDArray[np.int64], Sequence[bytes]]:
        """Return the images and encodings of faces whose product with a mean is at least so."""
        async with self._turn:
            return await asyncio.to_thread(self._index.nearer, mean, least)

    async def nearest(self, engine: str, encoding: bytes, most: int) -> Sequence[Found]:
        """Return so many stored faces at most, those nearest to an encoding, nearest first.

        Raises :class:`NotLoadedError`, :class:`OtherEngineError`, then those of the other one are
        loaded soon; and ``ValueError`` for an encoding that cannot be compared.
        """
        wanted = np.frombuffer(check_encoding(encoding), "<f4")
        await self.check()
        async with self._turn:
            if self._engine is None:
                return []
            if engine != self._engine:
                if self._other is None or self._other[0] != engine:
                    self._other = (engine, self._clock())
                raise OtherEngineError(f"stored faces are of {self._engine!r}, not of {engine!r}")
            self._other = None
            if self.size not in (0, wanted.nbytes):
                raise ValueError(f"{len(wanted)} numbers, where stored ones have {self.size // 4}")
            return await asyncio.to_thread(self._index.nearest, wanted, most)

    async def _load(self, engine: str | None) -> None:
        """Load all that is there now; what comes meanwhile, events tell."""
        start = self._clock()
        async with self._turn:
            if self._position is None or await self._rows.lost(self._position):
                self._loaded_at = None
                self._position = await self._rows.latest()
            self._other = None
            if engine != self._engine:
                self._index.clear()
                self._engine, self._loaded_at = engine, None
            # Those of images that are gone are over all that there are, too.
            end = max(await self._rows.last_image_id(), self._index_end())
        for low in range(0, end, _LOADED):
            high = low + _LOADED
            async with self._turn:
                await self._rows.adopt_between(low, high)
                rows = await self._rows.encodings_between(low, high, engine) if engine else []
                gone = self._index.images_between(low, high)
                await asyncio.to_thread(self._index.replace, gone, rows)
        self._loaded_at = start
        log.info("stored faces are loaded", faces=len(self._index), engine=engine)

    def _index_end(self) -> int:
        known = self._index.images_between(0, np.iinfo(np.int64).max)
        return int(known[-1]) if len(known) else 0

    async def _take_events(self) -> None:
        """Read again what events tell of, until there is no new one."""
        while self._position is not None:
            found, position = await self._rows.after(self._position)
            image_ids = sorted({one.subject_id for one in found if one.kind in _OF_IMAGES})
            if image_ids:
                await self._rows.adopt_of(image_ids)
                rows = (
                    await self._rows.encodings_of(image_ids, self._engine) if self._engine else []
                )
                await asyncio.to_thread(self._index.replace, image_ids, rows)
            self._position = position  # only now: what has failed is read again
            if len(found) < PAGE:
                return


class Worker:
    """Takes up changes of people, one at a time; several replicas may."""

    def __init__(
        self,
        rows: WorkRows,
        faces: StoredFaces,
        recogniser: Recogniser,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        stops: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rows = rows
        self._faces = faces
        self._recogniser = recogniser
        self._clock = clock
        self._sleep = sleep
        self._stops = stops
        self._away = Outage("face_recog's way to decide")

    async def count(self) -> None:
        """Set the gauge of what waits."""
        WAITING.set(await self._rows.waiting())

    async def step(self) -> bool:
        """Work on a change that is due; return whether there was one.

        Raises ``DatabaseUnavailableError``: then somebody takes it up soon, or when the lease is
        over.
        """
        work = await self._rows.claim()
        if work is None:
            return False
        with structlog.contextvars.bound_contextvars(person_id=work.person_id):
            renewing = asyncio.create_task(self._renew(work))
            try:
                await self._work(work)
                self._away.passed()
            except ClaimLostError:
                log.info("the person has changed again, or somebody else goes on")
            except RecogniserError as error:
                self._away.failed(error)
                await self._rows.give_back(work, AGAIN_MS)
            except (DatabaseUnavailableError, RowsChangedError):
                with suppress(DatabaseUnavailableError):
                    await self._rows.give_back(work, AGAIN_MS)
                raise
            finally:
                renewing.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await renewing
        return True

    async def _renew(self, work: Work) -> None:
        with suppress(ClaimLostError):  # which the next write finds out
            while True:
                await asyncio.sleep(RENEW_SECONDS)
                with suppress(DatabaseUnavailableError):
                    await self._rows.renew(work)

    async def _work(self, work: Work) -> None:
        until = self._clock() + _PATIENCE_SECONDS
        while True:
            async with self._recogniser.view(work.folder) as view:
                lacking, going = await self._rows.disagreement(work, view.pictures)
                is_late = self._clock() >= until
                if not going and (not lacking or is_late):
                    if lacking:
                        log.warning("known pictures are not in the store", pictures=len(lacking))
                    if await self._decide(work, view):
                        await self._rows.end_pass(work)
                    else:
                        await self._rows.give_back(work, 0)
                    return
            if is_late or self._stops():
                await self._rows.give_back(work, LATER_MS)
                return
            await self._sleep(_PAUSE_SECONDS)

    async def _decide(self, work: Work, view: View) -> bool:
        """Decide on all images that the change touches; return whether that came to its end."""
        while await self._rows.rename(work):
            pass
        await self._faces.follow(view.engine)
        touched = await self._rows.touched(work)
        if view.mean is not None:
            images, encodings = await self._faces.nearer(view.mean, view.least_product)
            may_be = await view.sift(encodings)
            touched |= {int(one) for one, it in zip(images, may_be, strict=True) if it}
        left = sorted(one for one in touched if one > work.after_image_id)
        changed = 0
        for start in range(0, len(left), BATCH):
            if self._stops():
                return False
            changed += await self._decide_some(work, view, left[start : start + BATCH])
        log.info("faces are decided again", images=len(left), changed=changed)
        return True

    async def _decide_some(self, work: Work, view: View, image_ids: Sequence[int]) -> int:
        """Decide on some images, again where others change the same rows meanwhile."""
        size = self._faces.size if view.mean is None else view.mean.nbytes
        for left in reversed(range(_TRIES)):
            try:
                pictures = await self._rows.pictures(image_ids, view.engine, size)
                changes = await self._changes(work, view, pictures)
                await self._rows.write(work, changes, image_ids[-1])
            except (DatabaseConflictError, RowsChangedError):
                if not left:
                    raise
            else:
                decided = sum(len(picture.open) for picture in pictures)
                DECIDED.labels("changed").inc(len(changes))
                DECIDED.labels("same").inc(max(0, decided - len(changes)))
                return len(changes)
        raise AssertionError

    async def _changes(
        self, work: Work, view: View, pictures: Sequence[Picture]
    ) -> list[tuple[Picture, Face, Says]]:
        unknown = work.folder if view.mean is None else None
        answers = await view.decide(pictures, unknown)
        whose = await self._rows.whose(
            one for picture in answers for answer in picture for one in answer.candidates
        )

        def says(its: Answer) -> Says:
            asked = bool(its.candidates) and not its.named
            return says_of(
                its.candidates, whose, view.calibration, named=its.named, ambiguous=asked
            )

        said = [
            (picture, face, says(answer))
            for picture, its in zip(pictures, answers, strict=True)
            for face, answer in zip(picture.open, its, strict=True)
        ]
        if unknown is not None:
            said += [
                (picture, face, without(face, unknown))
                for picture in pictures
                for face in picture.faces
                if not face.by_hand and not face.encoding
            ]
        return [(picture, face, new) for picture, face, new in said if differ(face.says, new)]
