"""Decide again on stored faces after a change of a person.

A change is a row. Whoever has claimed it writes faces and how far it came in one transaction, which
a lost claim ends: so whoever is killed, or too slow, is followed by another where it stopped.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from services.common.availability import AvailabilityLog
from services.common.errors import (
    AwayError,
    ClaimLostError,
    DatabaseConflictError,
    DatabaseUnavailableError,
    RecogniserError,
)
from services.common.faces import Says, says_of
from services.people.domain.deciding import (
    AGAIN_MS,
    LATER_MS,
    Decision,
    RecordedFace,
    RecordedPicture,
    Work,
    differ,
    without,
)
from services.people.metrics import DECIDED, WAITING
from services.people.ports import OpenView, PeopleView, RowsChangedError, WorkRows
from services.people.service.leases import renewed
from services.people.service.stored_faces import StoredFaces

log = structlog.get_logger(__name__)

BATCH: Final = 200
"""Images that are decided on, and written, at a time."""

_PATIENCE_SECONDS: Final = 6.0
"""A known picture that is to be removed is, within a few seconds; and one that is lacking for so
long is not in the store: whoever put it there had done so before its row."""

_PAUSE_SECONDS: Final = 0.5
_TRIES: Final = 5


class Worker:
    """Takes up changes of people, one at a time; several replicas may."""

    def __init__(
        self,
        rows: WorkRows,
        faces: StoredFaces,
        open_view: OpenView,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        stops: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rows = rows
        self._faces = faces
        self._open_view = open_view
        self._clock = clock
        self._sleep = sleep
        self._stops = stops
        self._away = AvailabilityLog("face_recog's way to decide")

    async def count(self) -> None:
        """Set the gauge of what waits."""
        WAITING.set(await self._rows.waiting())

    async def step(self) -> bool:
        """Work on a change that is due; return whether there was one.

        Raises ``DatabaseUnavailableError`` or ``RowsChangedError``: then somebody takes it up
        soon, or when the lease is over.
        """
        work = await self._rows.claim()
        if work is None:
            return False
        with structlog.contextvars.bound_contextvars(person_id=work.person_id):
            try:
                async with renewed(partial(self._rows.renew, work)):
                    await self._work(work)
                self._away.passed()
            except ClaimLostError:
                log.info("the person has changed again, or somebody else goes on")
            except RecogniserError as error:
                self._away.failed(error)
                await self._rows.give_back(work, AGAIN_MS)
            except AwayError:
                with suppress(DatabaseUnavailableError):
                    await self._rows.give_back(work, AGAIN_MS)
                raise
        return True

    async def _work(self, work: Work) -> None:
        until = self._clock() + _PATIENCE_SECONDS
        while True:
            async with self._open_view(work.folder) as view:
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

    async def _decide(self, work: Work, view: PeopleView) -> bool:
        """Decide on all images that the change touches; return whether that came to its end."""
        while await self._rows.rename(work):
            pass
        await self._faces.follow(view.engine)
        touched = await self._rows.touched(work)
        if view.mean is not None:
            images, encodings = await self._faces.nearer(view.mean, view.least_product)
            may_be = await view.sift(encodings)
            touched |= {int(image) for image, may in zip(images, may_be, strict=True) if may}
        left = sorted(image for image in touched if image > work.after_image_id)
        changed = 0
        for start in range(0, len(left), BATCH):
            if self._stops():
                return False
            changed += await self._decide_some(work, view, left[start : start + BATCH])
        log.info("faces are decided again", images=len(left), changed=changed)
        return True

    async def _decide_some(self, work: Work, view: PeopleView, image_ids: Sequence[int]) -> int:
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
        self, work: Work, view: PeopleView, pictures: Sequence[RecordedPicture]
    ) -> list[tuple[RecordedPicture, RecordedFace, Says]]:
        unknown = work.folder if view.mean is None else None
        answers = await view.decide(pictures, unknown)
        whose = await self._rows.whose(
            candidate
            for picture in answers
            for answer in picture
            for candidate in answer.candidates
        )

        def says(its: Decision) -> Says:
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
