"""Forgetting a person for good, or with many faces at all; telling what is kept about one.

Who is to be forgotten is a row, which any replica works off in small transactions. Each removes
some of what is still there, so whoever ends in the middle is followed by another where it stopped.

Faces go before known pictures: as long as the recogniser knows the person, no other change of
people takes the name from a face, by which it is found here. What is stored by a recogniser who
knew them goes in a last round, when all have had time to see that their known pictures are gone.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from services.common.availability import AvailabilityLog
from services.common.batches import batched
from services.common.errors import ClaimLostError, ObjectStoreError
from services.common.object_info import ObjectInfo
from services.common.object_keys import KNOWN_PEOPLE, forms_of
from services.receiver.domain.erasing import Erased, Erasure, Stage
from services.receiver.domain.errors import NotFoundError
from services.receiver.domain.people import Somebody, nobody
from services.receiver.domain.personal_data import Account, KeptKnown, KeptPicture
from services.receiver.ports import Erasures, PersonalData, Pictures
from services.receiver.service.images import Images

log = structlog.get_logger(__name__)

SETTLED_MS: Final = 30_000
"""From when the known pictures are gone to the last round. Every face_recog sees it within 5 s, and
an answer that one gave before is stored 15 s later at most, or after an attempt that counts."""

AGAIN_MS: Final = 2_000
"""When it is tried again what the object store, or the redeemer, has not done yet."""

BATCH: Final = 200
"""Images, or known pictures, of one transaction."""


class _StoppedError(Exception):
    """The process is to end; somebody else goes on."""


class Erasing:
    """Forgets people, and says before what is kept about one; several replicas may."""

    def __init__(
        self,
        *,
        rows: Erasures,
        kept: PersonalData,
        pictures: Pictures,
        images: Images,
        who: Callable[[str], Awaitable[Somebody]],
        stops: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rows = rows
        self._kept = kept
        self._pictures = pictures
        self._images = images
        self._who = who
        self._stops = stops
        self._store = AvailabilityLog("object store")

    async def export(self, who: str) -> Account:
        """Return what is kept about a person, or raise a ``RefusedError``."""
        person = await self._who(who)
        files = await self._listed([person.folder])
        kept = await self._kept.person(person)
        pictures = self._kept.pictures(person)
        first = await anext(pictures, None)
        if kept.id is None and not files and first is None:
            raise nobody(who)
        return Account(
            kept,
            {
                "known_pictures": self._known(person, files),
                "pictures": _after(first, pictures),
                "denials": self._kept.denials(person),
                "merges": self._kept.merges(person),
            },
        )

    async def _known(
        self, person: Somebody, files: Sequence[ObjectInfo]
    ) -> AsyncIterator[KeptKnown]:
        by_hand = {file.key.removeprefix(KNOWN_PEOPLE) for file in files}
        async for known in self._kept.known(person):
            by_hand.discard(known.image_name)
            yield known
        for name in sorted(by_hand):
            yield KeptKnown(None, name, None)

    async def erase(self, who: str, *, pictures: bool) -> Erased:
        """Have a person forgotten, or raise a ``RefusedError``; :meth:`step` does it.

        With ``pictures``, so are the pictures in which they are, whoever else these show.
        """
        person = await self._who(who)
        files = await self._listed([person.folder])
        erased = await self._rows.begin(person, files, pictures=pictures)
        if erased is None:
            raise nobody(who)
        log.info("person is to be forgotten", person_id=person.id)
        return erased

    async def step(self) -> bool:
        """Go on with somebody who is due; return whether there was anybody.

        Raises ``DatabaseUnavailableError``: then somebody goes on when the lease is over.
        """
        erasure = None if self._stops() else await self._rows.claim()
        if erasure is None:
            return False
        with structlog.contextvars.bound_contextvars(person_id=erasure.person_id):
            try:
                await self._go_on(erasure)
                self._store.passed()
            except ClaimLostError:
                log.info("somebody else goes on")
            except _StoppedError:
                await self._rows.give_back(erasure, 0)
            except ObjectStoreError as error:
                self._store.failed(error)
                await self._rows.give_back(erasure, AGAIN_MS)
        return True

    async def _go_on(self, erasure: Erasure) -> None:
        match erasure.stage:
            case Stage.NAMES:
                await self._remove_denials(erasure)
                await self._end(erasure)
            case Stage.MERGED:
                while await self._rows.move(erasure):
                    self._check_stop()
                await self._end(erasure)
            case Stage.FIRST:
                await self._remove_all(erasure)
                await self._rows.give_back(erasure, 0, Stage.LEAVING)
            case Stage.LEAVING if await self._rows.is_leaving(erasure):
                await self._rows.give_back(erasure, AGAIN_MS)
            case Stage.LEAVING:
                await self._rows.give_back(erasure, SETTLED_MS, Stage.LAST)
            case Stage.LAST:
                await self._remove_all(erasure)
                await self._end(erasure)

    async def _remove_all(self, erasure: Erasure) -> None:
        while erasure.pictures and (image_ids := await self._rows.images(erasure)):
            for image_id in image_ids:
                with suppress(NotFoundError):
                    await self._images.delete(image_id)
            self._check_stop()
        while await self._rows.strike_out(erasure):
            self._check_stop()
        files = await self._listed(erasure.folders)
        for some in batched(files, BATCH):
            await self._rows.remove_known(erasure, some)
            self._check_stop()
        while await self._rows.remove_lost(erasure):
            self._check_stop()
        await self._remove_denials(erasure)
        while next_part := await self._rows.remove_questions(erasure):
            erasure = next_part
            self._check_stop()

    async def _remove_denials(self, erasure: Erasure) -> None:
        while await self._rows.remove_denials(erasure):
            self._check_stop()

    async def _end(self, erasure: Erasure) -> None:
        while not await self._rows.end(erasure):
            self._check_stop()
        log.info("person is forgotten" if erasure.stage is Stage.LAST else "person is gone")

    def _check_stop(self) -> None:
        if self._stops():
            raise _StoppedError

    async def _listed(self, folders: Sequence[str]) -> list[ObjectInfo]:
        prefixes = {f"{KNOWN_PEOPLE}{form}/" for folder in folders for form in forms_of(folder)}
        return [file for prefix in sorted(prefixes) async for file in self._pictures.list(prefix)]


async def _after(
    first: KeptPicture | None, rest: AsyncIterator[KeptPicture]
) -> AsyncIterator[KeptPicture]:
    if first is not None:
        yield first
        async for picture in rest:
            yield picture
