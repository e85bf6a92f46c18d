"""What is known of the known pictures, kept in the store so that no replica makes it again.

It lies in the objects ``encodings/<engine>+parts-1/<part>``, up to 256 of them, each laid out as
:mod:`services.face_recog.domain.parts` says: one listing and a request for each of them read it
all, however many pictures there are, and a change writes one of them anew. What is no part, or
another engine's, is made again from the pictures and replaced.
"""

import asyncio
import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

import structlog

from services.common.availability import AvailabilityLog
from services.common.batches import batched
from services.common.errors import ObjectNotFoundError, ObjectStoreError, ObjectTooLargeError
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import DamagedError
from services.face_recog.domain.parts import PARTS, GalleryPicture, KeptPart, part_of
from services.face_recog.ports import KeptStore

log = structlog.get_logger(__name__)

T = TypeVar("T")

FOLDER: Final = "encodings/"

GRACE_SECONDS: Final = 24 * 3600.0
"""Encodings of an engine that no replica has used for so long are removed. A rollout takes
minutes; whoever goes back to the version before within a day finds its encodings."""

_LAYOUT: Final = "+parts-1"

CALIBRATION: Final = "calibration"
"""The name, beside the encodings, of what else is kept for an engine."""

_MARK: Final = "in-use"
# Names of 64 digits, the SHA-256 of a picture, are of the layout before: one object a picture.
_KEY: Final = re.compile(
    rf"{FOLDER}(?P<engine>[^/]+)/"
    rf"(?P<name>(?P<part>[0-9a-f]{{2}})|(?P<digest>[0-9a-f]{{64}})|{CALIBRATION}|{_MARK})"
)
_MAX_PART_BYTES: Final = 64 * 1024**2
"""What eight million known pictures have in a part; what is larger is not read."""

PARALLEL: Final = 16

_TRIES: Final = 3
"""A part that could not be read so often, while others could, is made again."""

_REMOVALS: Final = 500
"""Removals in one go: about a second, so that a change of the known people shows soon."""


@contextmanager
def noting(outage: AvailabilityLog) -> Iterator[None]:
    """Say once when the store does not do what is tried, and once when it does again."""
    try:
        yield
    except ObjectStoreError as error:  # away, or a folder is in the way of a file
        outage.failed(error)
    else:
        outage.passed()


def folder_of(engine: Engine) -> str:
    """Return the prefix of all that is kept for an engine."""
    return f"{FOLDER}{engine.name}{_LAYOUT}/"


class KeptEncodings:
    """What is kept for one engine, and the removal of what is kept in vain.

    A store that takes no changes costs only time: writing and removing raise nothing of its errors.

    Replicas that write one part replace what the others wrote. Each has soon seen what the others
    have seen, and then writes the same; what one left behind that ended meanwhile, :meth:`sweep`
    puts right.

    Replicas of two engines may run beside each other, as in a rollout. Each renews its engine's
    mark, ``in-use``, whenever it sweeps. An engine goes with all that is kept for it once its mark
    is older than ``GRACE_SECONDS``; one without a mark is given it first. Ages are by the store's
    clock: our own mark, just renewed, is now. Until then it goes on without forgotten pictures.
    """

    def __init__(self, store: KeptStore, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._folder = folder_of(engine)
        self._tries = 0
        self._changed: set[int] = set()
        self._gone: set[str] = set()
        self._others: set[str] = set()
        self._vain: set[str] = set()
        self._outage = AvailabilityLog("place for encodings")

    async def read(self) -> dict[str, GalleryPicture]:
        """Return all that is kept, by key of the picture.

        Raises ``ObjectStoreUnavailableError`` when the store gives none of it, or not all of it the
        first times: the rest is then to be made again.
        """
        numbers = [
            int(found["part"], 16)
            async for info in self._store.list(self._folder)
            if info.key.startswith(self._folder)
            and (found := _KEY.fullmatch(info.key))
            and found["part"]
        ]
        known: dict[str, GalleryPicture] = {}
        errors: list[Exception] = []
        for some in batched(numbers, PARALLEL):
            results = await asyncio.gather(*map(self._read, some), return_exceptions=True)
            failed = [result for result in results if isinstance(result, Exception)]
            if len(failed) == len(some):
                raise failed[0]  # hardly by chance, and more would take as long
            errors += failed
            for result in results:
                if isinstance(result, dict):
                    known |= result
        if errors:
            self._tries += 1
            if self._tries < _TRIES:
                raise errors[0]
            log.warning("kept encodings cannot be read and are made again", reason=str(errors[0]))
        return known

    def note_changed(self, key: str) -> None:
        """Note for :meth:`write` that something else is known of a picture."""
        self._changed.add(part_of(key))

    def note_gone(self, key: str) -> None:
        """Note for :meth:`write` that a picture, or its former content, is gone."""
        self._changed.add(part_of(key))
        self._gone.add(key)

    async def write(self, known: Mapping[str, GalleryPicture]) -> None:
        """Write what was noted; what fails is tried again the next time."""
        parts = await asyncio.to_thread(_group, known, self._changed)
        for some in batched(sorted(parts), PARALLEL):
            await _all(self._write(number, parts[number]) for number in some)
            if self._outage.away:
                return

        def is_kept(key: str, picture: GalleryPicture) -> bool:
            return key not in self._gone or _has(known, key, picture)

        gone = {part_of(key) for key in self._gone}
        others = [f"{folder}{number:02x}" for folder in self._others for number in gone]
        for keys in batched(others, PARALLEL):
            if not all(await _all(self._filter(key, is_kept) for key in keys)):
                return
        self._gone.clear()
        await self._remove()

    async def sweep(self, known: Mapping[str, GalleryPicture]) -> None:
        """Find and remove all that is kept in vain; renew our mark.

        To be called with all known pictures, after each was looked at.
        """
        with noting(self._outage):
            await self._mark(self._folder)
        if self._outage.away:
            return
        with noting(self._outage):
            folders: dict[str, dict[str, float]] = defaultdict(dict)
            async for info in self._store.list(FOLDER):
                if found := _KEY.fullmatch(info.key):
                    folders[f"{FOLDER}{found['engine']}/"][found["name"]] = info.modified
            ours = folders.pop(self._folder, {})
            for folder, names in folders.items():
                if _MARK not in names:
                    await self._mark(folder)
                elif _MARK in ours and ours[_MARK] - names[_MARK] > GRACE_SECONDS:
                    log.info("encodings of a former engine are removed", folder=folder)
                    self._vain |= {folder + name for name in names}
            self._others = {folder for folder in folders if folder + _MARK not in self._vain}
            await self._sweep_ours(ours, known)
            await self._sweep_others(folders, known)
        await self.write(known)

    async def _sweep_ours(
        self, names: Collection[str], known: Mapping[str, GalleryPicture]
    ) -> None:
        """Note the parts that are not as they would be written now."""
        parts = await asyncio.to_thread(_group, known, range(PARTS))
        for number, pictures in parts.items():
            name = f"{number:02x}"
            if not pictures and name not in names:
                continue
            wanted = await asyncio.to_thread(KeptPart(self._engine, number, pictures).pack)
            try:
                found = await self._store.get(self._folder + name, max_bytes=len(wanted))
            except (ObjectNotFoundError, ObjectTooLargeError):
                found = b""
            if found != wanted:
                self._changed.add(number)

    async def _sweep_others(
        self, folders: Mapping[str, Mapping[str, float]], known: Mapping[str, GalleryPicture]
    ) -> None:
        """Remove what other engines know of pictures that are gone, in this layout or the last."""
        digests = {picture.digest.hex() for picture in known.values()}
        for folder in self._others:
            for name in folders[folder]:
                found = _KEY.fullmatch(folder + name)
                assert found  # noqa: S101, so it was listed
                if found["digest"] and name not in digests:
                    self._vain.add(folder + name)
                elif found["part"]:
                    await self._filter(folder + name, functools.partial(_has, known))

    async def _read(self, number: int) -> dict[str, GalleryPicture]:
        key = self._key(number)
        try:
            content = await self._store.get(key, max_bytes=_MAX_PART_BYTES)
            return await asyncio.to_thread(self._unpack, number, content)
        except ObjectNotFoundError:
            return {}
        except (DamagedError, ObjectTooLargeError) as error:
            log.warning("kept encodings are damaged and made again", key=key, reason=str(error))
            self._changed.add(number)
            return {}

    def _unpack(self, number: int, content: bytes) -> dict[str, GalleryPicture]:
        part = KeptPart.unpack(content)
        if (part.engine, part.number) != (self._engine, number):
            raise DamagedError("it is another engine's, or another part")
        return dict(part.known)

    async def _write(self, number: int, pictures: Mapping[str, GalleryPicture]) -> None:
        with noting(self._outage):
            await self._put(self._key(number), KeptPart(self._engine, number, pictures))
            self._changed.discard(number)

    async def _filter(self, key: str, is_kept: Callable[[str, GalleryPicture], bool]) -> bool:
        """Write another engine's part without what is not kept of it; return whether it is."""
        try:
            content = await self._store.get(key, max_bytes=_MAX_PART_BYTES)
            part = await asyncio.to_thread(KeptPart.unpack, content)
        except (ObjectNotFoundError, ObjectTooLargeError, DamagedError):
            return True  # whose it is makes it again
        except ObjectStoreError:
            return False
        kept = {name: picture for name, picture in part.known.items() if is_kept(name, picture)}
        if len(kept) == len(part.known):
            return True
        with noting(self._outage):
            await self._put(key, dataclasses.replace(part, known=kept))
        return not self._outage.away

    async def _put(self, key: str, part: KeptPart) -> None:
        if part.known:
            await self._store.put(key, await asyncio.to_thread(part.pack))
        else:
            await self._store.delete(key)

    async def _remove(self) -> None:
        # A mark sorts behind the rest, so a folder is known as former until all of it is gone.
        for key in sorted(self._vain)[:_REMOVALS]:
            with noting(self._outage):
                await self._store.delete(key)
                self._vain.discard(key)
            if self._outage.away:
                return  # the next look tries again

    async def _mark(self, folder: str) -> None:
        await self._store.put(folder + _MARK, b"")

    def _key(self, number: int) -> str:
        return f"{self._folder}{number:02x}"


def _group(
    known: Mapping[str, GalleryPicture], numbers: Collection[int]
) -> dict[int, dict[str, GalleryPicture]]:
    """Return what is to be kept in each of those parts."""
    parts: dict[int, dict[str, GalleryPicture]] = {number: {} for number in numbers}
    if parts:
        for key, picture in known.items():
            if picture.faces and (pictures := parts.get(part_of(key))) is not None:
                pictures[key] = picture
    return parts


def _has(known: Mapping[str, GalleryPicture], key: str, picture: GalleryPicture) -> bool:
    return key in known and known[key].digest == picture.digest


async def _all(jobs: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all of them; raise what the first of those raised that failed."""
    done = []
    for result in await asyncio.gather(*jobs, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
