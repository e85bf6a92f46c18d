"""Keeping the known people as the object store has them."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from services.common.batches import batched
from services.common.metrics import observe
from services.common.object_info import ObjectInfo
from services.common.object_keys import KNOWN_PEOPLE, forms_of
from services.face_recog import metrics
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import NotReadyError, describe, is_expected
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import KnownPeople
from services.face_recog.domain.parts import GalleryPicture
from services.face_recog.domain.strangers import Tails
from services.face_recog.ports import PeopleStore, PictureRecogniser
from services.face_recog.service.change_markers import ChangeMarkers
from services.face_recog.service.kept_encodings import KeptEncodings
from services.face_recog.service.reading import PictureReader, not_one
from services.face_recog.service.snapshots import Snapshot, SnapshotMaker

log = structlog.get_logger(__name__)

_BATCH: Final = 16
"""New known pictures per look at the store while serving, so that removals show soon too."""

_LISTED_PER_READ: Final = 2000
"""With more known pictures a look reads more new ones: it lists all of them before."""

_FEW_CHANGES: Final = 1000
"""So many are put into a new snapshot in less time than a snapshot of all people takes."""

_FIRST_BATCH: Final = 64
"""Known pictures between two times that what was found can be kept, before the first snapshot."""

_KEEP_SECONDS: Final = 30.0
"""While many pictures are new, what is found is kept so often: that much is made twice at most
when a replica ends, and each time may write all that is known of 100,000 people, 60 MB."""

_HURRY_SECONDS: Final = 1.6
"""Who is added while the store is listed is known after that, a pause, and another listing: within
5 s, if a listing takes no longer than this and the pause is no longer. In a folder of 100,000
people it takes 1.3 s."""

_PAUSE_PER_LISTING: Final = 4
"""What takes longer is to take a fifth of the time at most: a server lists 100,000 in 20 s."""

_SWEEP_SECONDS: Final = 3600.0
"""Between two looks at everything that is kept: that is a listing as long as the other one."""


class Gallery:
    """The known people: ``known_people/<person>/<picture>`` in the store.

    Each picture is encoded once, and what is known of it kept in the store, so that neither another
    replica nor the next start need do so; that goes when the picture does. What cannot be kept is
    encoded nevertheless. ``parallel`` pictures at a time are encoded for the first snapshot, and
    later one, because then requests need the workers too.
    """

    def __init__(
        self,
        store: PeopleStore,
        recogniser: PictureRecogniser,
        *,
        engine: Engine,
        parallel: int,
        tails: Tails,
        false_names: float,
    ) -> None:
        self.strangers = tails.product.pairs
        self._store = store
        self._kept = KeptEncodings(store, engine)
        self._snapshots = SnapshotMaker(store, engine, tails=tails, false_names=false_names)
        self._reader = PictureReader(store, recogniser, parallel=parallel)
        self._changes = ChangeMarkers(store)
        self._known: dict[str, GalleryPicture] = {}
        self._is_loaded = False
        self._unpublished: dict[str, NDArray[np.float32] | None] = {}
        self._folders: set[str] = set()
        self._glanced: set[str] = set()
        self._glanced_at: dict[str, int] = {}
        self._snapshot: Snapshot | None = None
        self._ready = asyncio.Event()
        # What is known is changed, and published, by one at a time: the watch, or a look that
        # somebody waits for. While all are listed either may go on.
        self._turn = asyncio.Lock()
        self._trouble = _Trouble()
        self._listing_seconds = 0.0
        self._kept_at = 0.0
        self._swept_at: float | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The newest one, or :class:`NotReadyError`."""
        if self._snapshot is None:
            why = f": {self._trouble.reason}" if self._trouble.reason else ""
            raise NotReadyError(f"the known people are still being loaded{why}")
        return self._snapshot

    @property
    def people(self) -> KnownPeople:
        """Those of the newest snapshot, or :class:`NotReadyError`."""
        return self.snapshot.portraits.people

    async def check(self) -> None:
        """Raise unless the known people were loaded once."""
        _ = self.people

    async def wait_ready(self) -> None:
        """Return when the known people were loaded once."""
        await self._ready.wait()

    async def watch(self, interval: float) -> None:
        """Follow the store for ever, looking every ``interval`` seconds, whatever a look ends with.

        A long listing is repeated less often, and in between only people are looked for who have
        changed by a marker, or are new.
        """
        while True:
            if not await self._try(functools.partial(self.refresh, interval), of_all=True):
                continue
            left = _pause(interval, self._listing_seconds)
            until = time.perf_counter() + left
            await asyncio.sleep(min(left, interval))
            while (left := until - time.perf_counter()) > 0:
                if self._snapshot:
                    await self._try(self.glance, of_all=False)
                await asyncio.sleep(min(left, interval))

    async def _try(self, look: Callable[[], Awaitable[bool]], *, of_all: bool) -> bool:
        """Return whether the look was complete, also when it failed; say what it failed with."""
        trouble: Exception | None = None
        complete = True
        try:
            with observe("gallery"):
                complete = await look()
        except Exception as error:  # noqa: BLE001, without a watch the people would be stale
            trouble = error
        self._trouble.note(trouble, of_all=of_all)
        return complete

    async def refresh(self, interval: float | None = None) -> bool:
        """Look at the store once; return whether everything in it has been looked at.

        Meanwhile, every ``interval`` seconds, :meth:`glance` looks for what changed.

        Raises ``ObjectStoreUnavailableError``, or what else kept pictures from being read; what
        was read by then is kept. One picture that the store does not give while it gives others is
        skipped in the end, and tried again.
        """
        marked = await self._changes.find()  # before all are listed: so that shows what they say
        listed = await self._list(interval)
        async with self._turn:
            if not self._is_loaded:
                self._known = await self._kept.read()
                self._is_loaded = True
                await asyncio.to_thread(self._report_skipped, listed)
            gone, wanted = await asyncio.to_thread(self._compare, listed)
            self._forget(gone)
        first = self._snapshot is None
        most = len(wanted) if first else max(_BATCH, len(listed) // _LISTED_PER_READ)
        wanted, left = wanted[:most], wanted[most:]
        complete = all(self._reader.faults(info) for info in left)
        problems: list[Exception] = []
        for batch in batched(wanted, _FIRST_BATCH if first else _BATCH):
            async with self._turn:
                problems = await self._read_all(batch)
                if problems:
                    break
                if time.perf_counter() - self._kept_at > _KEEP_SECONDS:
                    await self._keep()
        async with self._turn:
            if not (problems and first):
                await self._publish()
            if gone or complete:
                await self._keep()
            if problems:
                raise problems[0]
            if complete:
                self._changes.note_seen(marked)
            if complete and listed.keys() == self._known.keys():  # else one moved, and is to come
                self._reader.forget()
                await self._sweep()
        return complete

    async def _list(self, interval: float | None) -> dict[str, ObjectInfo]:
        self._glanced.clear()
        listing = asyncio.create_task(self._list_all())
        try:
            while not (await asyncio.wait({listing}, timeout=interval))[0]:
                if self._snapshot:
                    await self._try(self.glance, of_all=False)
            return await listing
        finally:
            listing.cancel()

    async def _list_all(self) -> dict[str, ObjectInfo]:
        start = time.perf_counter()
        self._listing_seconds = 0.0  # one that fails, at once or after long, is soon tried again
        listed = {info.key: info async for info in self._store.list(KNOWN_PEOPLE)}
        self._listing_seconds = time.perf_counter() - start
        return listed

    def _report_skipped(self, listed: Mapping[str, ObjectInfo]) -> None:
        for key, known in self._known.items():
            if known.faces and known.encoding is None and key in listed:
                log.warning("known picture skipped", key=key, reason=not_one(known.faces))

    def _compare(self, listed: Mapping[str, ObjectInfo]) -> tuple[set[str], list[ObjectInfo]]:
        """Return the keys that are gone, and what is to be read."""
        # Who was glanced at while all were listed may not be among them.
        gone = self._known.keys() - listed.keys() - self._glanced
        wanted = self._find_wanted(listed)
        wanted.sort(key=self._reader.faults)  # those that failed before do not hold up the others
        self._folders = {key.removeprefix(KNOWN_PEOPLE).partition("/")[0] for key in listed}
        self._glanced_at = {
            name: changed for name, changed in self._glanced_at.items() if name not in self._folders
        }
        return gone, wanted

    def _find_wanted(self, listed: Mapping[str, ObjectInfo]) -> list[ObjectInfo]:
        """Return what is not known as it was listed."""
        wanted = [
            info
            for key, info in listed.items()
            if key not in self._known or self._known[key].tag != info.tag
        ]
        if wanted:
            self._reader.remember(self._known.values())
        return wanted

    def _forget(self, gone: Collection[str]) -> None:
        for key in gone:
            self._kept.note_gone(key)
            del self._known[key]
            self._unpublished[key.removeprefix(KNOWN_PEOPLE)] = None

    async def glance(self) -> bool:
        """Look at people whom markers name, and at new ones where the store tells them quickly.

        Returns whether all of them have been looked at. What else changed, :meth:`refresh` sees.
        """
        marked = await self._changes.find()
        found = await self._store.new_folders(KNOWN_PEOPLE, self._folders)
        new = [name for name, changed in found.items() if self._glanced_at.get(name) != changed]
        new.sort(key=lambda name: -found[name])  # of forgotten people folders may be left, empty
        people = list(dict.fromkeys([*marked.values(), *new]))
        looked_at = people[:_BATCH]
        async with self._turn:
            gone, wanted = await self._look_at(looked_at) if people else ((), ())
            await self._take_in(gone, wanted[:_BATCH])
        if len(wanted) <= _BATCH:
            self._changes.note_seen(key for key, name in marked.items() if name in looked_at)
            self._glanced_at |= {name: found[name] for name in looked_at if name in found}
        return not self._unpublished and len(people) <= _BATCH

    async def _take_in(self, gone: Collection[str], wanted: Sequence[ObjectInfo]) -> None:
        """Forget and read these pictures, and publish what changed."""
        self._forget(gone)
        problems = await self._read_all(wanted)
        self._glanced |= {info.key for info in wanted}
        if self._unpublished:
            await self._publish()
            await self._keep()
        if problems:
            raise problems[0]

    async def look_for(self, person: str) -> tuple[Snapshot, Mapping[str, bool]]:
        """Return a snapshot in which one person is as the store has them now.

        With it, of each of their pictures there, its name and whether it is known; else it is
        skipped. Raises :class:`NotReadyError`, and as :meth:`refresh`.
        """
        _ = self.snapshot
        async with self._turn:
            tried: set[str] = set()
            forms = forms_of(person)
            while True:
                gone, wanted = await self._look_at(forms)
                new = [info for info in wanted if info.key not in tried][:_BATCH]
                if not (gone or new):
                    break
                tried |= {info.key for info in new}
                await self._take_in(gone, new)
            if self._unpublished:  # what the watch has read so far
                await self._publish()
            folders = tuple(f"{KNOWN_PEOPLE}{form}/" for form in forms)
            pictures = {
                key.removeprefix(KNOWN_PEOPLE): known.encoding is not None
                for key, known in self._known.items()
                if key.startswith(folders)
            }
            return self.snapshot, pictures

    async def _look_at(self, people: Iterable[str]) -> tuple[Collection[str], Sequence[ObjectInfo]]:
        """Return the keys of these people's pictures that are gone, and what is to be read."""
        folders = tuple(f"{KNOWN_PEOPLE}{name}/" for name in people)
        listed = {info.key: info for folder in folders async for info in self._store.list(folder)}

        def compare() -> tuple[Collection[str], Sequence[ObjectInfo]]:
            known = {key for key in self._known if key.startswith(folders)}
            return known - listed.keys(), self._find_wanted(listed)

        return await asyncio.to_thread(compare)

    async def _read_all(self, batch: Sequence[ObjectInfo]) -> list[Exception]:
        """Read some; return the faults that are not of one picture alone."""
        read, problems = await self._reader.read(batch, self._known)
        changed = {key: known for key, known in read.items() if known != self._known.get(key)}
        for key, known in changed.items():
            before = self._known.get(key)
            if before and before.digest != known.digest:
                self._kept.note_gone(key)
            else:
                self._kept.note_changed(key)
            self._unpublished[key.removeprefix(KNOWN_PEOPLE)] = known.encoding
        self._known.update(changed)
        return problems

    async def _keep(self) -> None:
        await self._kept.write(self._known)
        self._kept_at = time.perf_counter()

    async def _sweep(self) -> None:
        """Remove what is kept in vain, now and then; only after all that was listed was read."""
        now = time.perf_counter()
        if self._swept_at is None or now - self._swept_at > _SWEEP_SECONDS:
            await self._kept.sweep(self._known)
            self._swept_at = now

    def note_stranger(self, encoding: Encoding) -> None:
        """Remember a face that got no name, to calibrate by."""
        self._snapshots.note_stranger(encoding)

    async def _publish(self) -> None:
        """Make a new snapshot when the known people changed, or what replicas calibrate by."""
        before = self._snapshot
        is_changed = before is None or bool(self._unpublished)
        people = await asyncio.to_thread(self._collect) if is_changed else self.people
        snapshot = self._snapshot = await self._snapshots.make(people, before)
        if snapshot is before:
            return
        new = list(self._unpublished)
        self._unpublished.clear()
        if not self._ready.is_set():
            self._ready.set()
            self._reader.leave_workers()
        skipped = len(self._known) - people.pictures
        metrics.GALLERY_PEOPLE.set(people.people)
        metrics.GALLERY_PICTURES.set(people.pictures)
        metrics.GALLERY_SKIPPED.set(skipped)
        log.info(
            "known people",
            people=people.people,
            pictures=people.pictures,
            skipped=skipped,
            calibration=snapshot.calibration.version,
        )
        unlike = await asyncio.to_thread(people.unlike_others, new)
        for name, distance in unlike.items():
            log.warning(
                "known picture is unlike the person's others",
                key=KNOWN_PEOPLE + name,
                distance=round(distance, 2),
            )

    def _collect(self) -> KnownPeople:
        """Return everybody as known now; from the snapshot before, where little has changed."""
        if self._snapshot and len(self._unpublished) < _FEW_CHANGES:
            return self.people.changed(self._unpublished)
        return KnownPeople(
            {
                key.removeprefix(KNOWN_PEOPLE): known.encoding
                for key, known in self._known.items()
                if known.encoding is not None
            }
        )


def _pause(interval: float, listing: float) -> float:
    """Return the seconds to wait after a look whose listing took so long."""
    rest = listing if listing <= _HURRY_SECONDS else _PAUSE_PER_LISTING * listing
    return max(interval - listing, rest)


class _Trouble:
    """Says once what keeps the known people from being read, and once that nothing does."""

    def __init__(self) -> None:
        self.reason = ""
        self._all_failed = False

    def note(self, error: Exception | None, *, of_all: bool) -> None:
        """Note what a look ended with: one at all the known people, or at some of them."""
        # What a look at all failed with is neither over nor said again by one at some.
        if of_all or not self._all_failed:
            self._say(error)
        if of_all:
            self._all_failed = error is not None

    def _say(self, error: Exception | None) -> None:
        reason = "" if error is None else describe(error)
        if error is None:
            if self.reason:
                log.info("known people can be read again")
        elif not self.reason or (reason != self.reason and not is_expected(error)):
            log.warning(
                "known people cannot be read, the last ones are kept: %s",
                reason,
                exc_info=None if is_expected(error) else error,
            )
        self.reason = reason
        metrics.GALLERY_TROUBLE.set(bool(reason))
