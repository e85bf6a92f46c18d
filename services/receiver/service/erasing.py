"""Forgetting a person for good, or with many faces at all; telling what is kept about one.

Who is to be forgotten is a row, which any replica works off in small transactions. Each removes
some of what is still there, so whoever ends in the middle is followed by another where it stopped.

Faces go before known pictures: as long as the recogniser knows the person, no other change of
people takes the name from a face, by which it is found here. What is stored by a recogniser who
knew them goes in a last round, when all have had time to see that their known pictures are gone.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import structlog

from services.common.errors import ClaimLostError, ObjectStoreError
from services.common.faces import DecidedBy, MeasuredFace
from services.common.images import KNOWN_PEOPLE, forms_of
from services.common.logs import Outage
from services.common.object_info import ObjectInfo
from services.common.turns import in_turns
from services.receiver.domain import FaceKey, NotFoundError, Somebody

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


class Stage(StrEnum):
    """How far it is with somebody who is being forgotten."""

    NAMES = "names"
    """Faces lose the name, and then the person goes: who is deleted, not forgotten for good."""

    MERGED = "merged"
    """Faces go to whom they were said to be, and then the person goes."""

    FIRST = "first"
    """What is there goes."""

    LEAVING = "leaving"
    """The redeemer removes the known pictures."""

    LAST = "last"
    """What has come since goes, and then the person."""


@dataclass(frozen=True)
class Erasure:
    """Somebody who is being forgotten, ours until the lease ends; as the table has it."""

    person_id: int
    name: str
    folders: Sequence[str]
    pictures: bool
    stage: Stage
    after_image_id: int
    token: str


@dataclass(frozen=True)
class Erased:
    """What of somebody is there to be forgotten: known pictures, faces, and pictures with these.

    The last are 0 when they are to stay.
    """

    known_pictures: int
    faces: int
    pictures: int


class Erasures(Protocol):
    """People who are being forgotten; each call raises ``DatabaseUnavailableError``.

    Each that is given an :class:`Erasure` is one transaction, and raises :class:`ClaimLostError`.
    """

    async def begin(
        self, person: Somebody, files: Sequence[ObjectInfo], *, pictures: bool
    ) -> Erased | None:
        """Have a person forgotten, who has no name from now on; None when nothing is theirs.

        ``files`` lie in their folder.
        """

    async def claim(self) -> Erasure | None:
        """Take up who has been due longest; None when nobody is."""

    async def give_back(self, erasure: Erasure, due_in: int, stage: Stage | None = None) -> None:
        """Let anybody go on in so many ms, in the stage if one is named."""

    async def images(self, erasure: Erasure) -> Sequence[int]:
        """Return some images with a face of theirs."""

    async def strike_out(self, erasure: Erasure) -> bool:
        """Forget some faces of theirs, which keep their places; False when there was none."""

    async def remove_known(self, erasure: Erasure, files: Sequence[ObjectInfo]) -> None:
        """Have these known pictures of theirs removed, with and without a row."""

    async def remove_lost(self, erasure: Erasure) -> bool:
        """Remove some known pictures of which there is no file; False when there was none."""

    async def remove_denials(self, erasure: Erasure) -> bool:
        """Forget of some faces that they are not theirs; False when there was none."""

    async def remove_questions(self, erasure: Erasure) -> Erasure | None:
        """Leave them out where some more faces ask whether they are theirs; None: nowhere more."""

    async def is_leaving(self, erasure: Erasure) -> bool:
        """Tell whether a known picture of theirs is still to be removed."""

    async def move(self, erasure: Erasure) -> bool:
        """Give some faces to whom they were said to be; False when there are no more."""

    async def end(self, erasure: Erasure) -> bool:
        """Forget the person, and have faces that were not told from theirs decided again.

        False when they are not forgotten yet: faces of theirs were left, of which some lose the
        name.
        """


@dataclass(frozen=True, slots=True)
class KeptPerson:
    """Who it is; ``id`` is null, as what was never chosen is, without a row."""

    id: int | None
    name: str
    hidden: bool
    created_at: int | None
    face: FaceKey | None


@dataclass(frozen=True, slots=True)
class KeptKnown:
    """A known picture; ``id`` and ``created_at`` are null for a file that was put there by hand."""

    id: int | None
    image_name: str
    created_at: int | None
    face: FaceKey | None = None


@dataclass(frozen=True, slots=True)
class KeptFace(MeasuredFace):
    """A face of theirs: where, how sure it is, and by which engines there is an encoding of it.

    ``distance`` and ``likeness`` are null for one that a hand has named.
    """

    index: int
    drawn: bool
    decided_by: DecidedBy
    distance: float | None
    likeness: float | None
    encodings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """A picture with faces of theirs."""

    id: int
    path: str
    name: str
    created_at: int
    processed_at: int | None
    width: int | None
    height: int | None
    faces: tuple[KeptFace, ...]


@dataclass(frozen=True, slots=True)
class KeptDenial:
    """A face of which a person has said that it is not theirs."""

    image_id: int
    face_index: int
    created_at: int


@dataclass(frozen=True, slots=True)
class KeptMerge:
    """Somebody who was said to be the same person."""

    id: int
    name: str
    created_at: int


class Kept(Protocol):
    """What is kept about a person; each call raises ``DatabaseUnavailableError``.

    Lists are read in parts, so that none is in memory as a whole.
    """

    async def person(self, person: Somebody) -> KeptPerson:
        """Return the person."""

    def known(self, person: Somebody) -> AsyncIterator[KeptKnown]:
        """Yield known pictures with a row."""

    def pictures(self, person: Somebody) -> AsyncIterator[KeptPicture]:
        """Yield pictures with a face of theirs."""

    def denials(self, person: Somebody) -> AsyncIterator[KeptDenial]:
        """Yield what a person has said is not theirs."""

    def merges(self, person: Somebody) -> AsyncIterator[KeptMerge]:
        """Yield who was said to be them."""


@dataclass(frozen=True)
class Account:
    """What is kept about a person; each list is to be read once, in this order."""

    person: KeptPerson
    lists: Mapping[str, AsyncIterator[object]]


class Files(Protocol):
    """What of the object store is used; raises ``ObjectStoreUnavailableError``."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object below the prefix, which ends in ``/``."""


class Images(Protocol):
    """What of the images is used."""

    async def delete(self, image_id: int) -> None:
        """Remove row, results and picture, or raise ``NotFoundError``."""


class Erasing:
    """Forgets people, and says before what is kept about one; several replicas may."""

    def __init__(
        self,
        *,
        rows: Erasures,
        kept: Kept,
        files: Files,
        images: Images,
        who: Callable[[str], Awaitable[Somebody]],
        stops: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rows = rows
        self._kept = kept
        self._files = files
        self._images = images
        self._who = who
        self._stops = stops
        self._store = Outage("object store")

    async def export(self, who: str) -> Account:
        """Return what is kept about a person, or raise a ``ReceiverError``."""
        person = await self._who(who)
        files = await self._listed([person.folder])
        kept = await self._kept.person(person)
        pictures = self._kept.pictures(person)
        first = await anext(pictures, None)
        if kept.id is None and not files and first is None:
            raise _nobody(who)
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
        by_hand = {one.key.removeprefix(KNOWN_PEOPLE) for one in files}
        async for one in self._kept.known(person):
            by_hand.discard(one.image_name)
            yield one
        for name in sorted(by_hand):
            yield KeptKnown(None, name, None)

    async def erase(self, who: str, *, pictures: bool) -> Erased:
        """Have a person forgotten, or raise a ``ReceiverError``; :meth:`step` does it.

        With ``pictures``, so are the pictures in which they are, whoever else these show.
        """
        person = await self._who(who)
        files = await self._listed([person.folder])
        erased = await self._rows.begin(person, files, pictures=pictures)
        if erased is None:
            raise _nobody(who)
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
        for some in in_turns(files, BATCH):
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
        return [one for prefix in sorted(prefixes) async for one in self._files.list(prefix)]


async def _after(
    first: KeptPicture | None, rest: AsyncIterator[KeptPicture]
) -> AsyncIterator[KeptPicture]:
    if first is not None:
        yield first
        async for one in rest:
            yield one


def _nobody(who: str) -> NotFoundError:
    return NotFoundError(f"there is nobody called {who!r}")
