"""Naming the faces of a picture, and keeping the known people as the object store has them."""

import asyncio
import functools
import hashlib
import io
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import structlog

from services.common.images import MAX_PICTURE_BYTES, PICTURES, InvalidPathError, check_path
from services.common.logs import Outage
from services.common.metrics import observe
from services.common.objects import (
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStoreUnavailableError,
    ObjectTooLargeError,
)
from services.face_recog import metrics
from services.face_recog.domain import (
    DEFAULT_CANDIDATES,
    DEFAULT_TOLERANCE,
    ENCODING_SIZE,
    Box,
    Encoding,
    Match,
    People,
    Problem,
    RecogniserFaultError,
    Recognition,
    RejectedError,
    match,
)

log = structlog.get_logger(__name__)

_QUICK_PICTURES: Final = 2000
"""Known pictures that are compared with a face in less than a millisecond."""

_TRIES: Final = 3
"""A known picture that took a worker with it this often is skipped."""

_BATCH: Final = 16
"""New known pictures per look at the store while serving, so that removals show soon too."""

_PARALLEL_READS: Final = 16

_PAUSE_PER_LISTING: Final = 4
"""Listing 100,000 known pictures in a folder takes 2.4 s."""


class NotReadyError(Exception):
    """The known people are not loaded yet."""


class Recogniser(Protocol):
    """What finds and encodes faces."""

    async def recognise(
        self, picture: bytes, *, max_faces: int = 0, urgent: bool = False
    ) -> Recognition:
        """Return the largest faces (0: all) of a picture file.

        Raises ``RejectedError``, ``RecogniserFaultError`` or ``RecogniserBusyError``. An urgent
        request goes first and is never refused.
        """


class Store(Protocol):
    """What of the object store is used."""

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """Return an object's content."""

    async def put(self, key: str, content: bytes) -> None:
        """Create or replace an object."""

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object below the prefix."""


@dataclass(frozen=True)
class _Known:
    """What a known picture came to: an encoding, or the reason why it is skipped.

    ``kept`` is the key under which the encodings of its content are kept; empty when they are not.
    """

    tag: str
    kept: str = ""
    encoding: Encoding | None = None
    reason: str = ""


class Gallery:
    """The known people: ``<prefix><person>/<picture>`` in the store.

    Each picture is encoded once, and its encoding kept in the store under its content's hash, so
    that another replica need not; it goes when the last picture with that content does. What
    cannot be kept is encoded nevertheless. ``parallel`` pictures at a time are encoded for the
    first snapshot, and later one, because then requests need the workers too.
    """

    def __init__(
        self, store: Store, recogniser: Recogniser, *, prefix: str, engine: str, parallel: int
    ) -> None:
        self._store = store
        self._recogniser = recogniser
        self._prefix = prefix
        self._cache = f"encodings/{engine}/"
        self._reading = asyncio.Semaphore(_PARALLEL_READS)
        self._encoding = asyncio.Semaphore(parallel)
        self._known: dict[str, _Known] = {}
        self._faults: Counter[tuple[str, str]] = Counter()
        self._people: People | None = None
        self._ready = asyncio.Event()
        self._away = False
        self._stale: set[str] = set()
        self._keeping = Outage("place for encodings")
        self._listing_seconds = 0.0

    @property
    def people(self) -> People:
        """The newest snapshot, or :class:`NotReadyError`."""
        if self._people is None:
            raise NotReadyError("the known people are still being loaded")
        return self._people

    async def check(self) -> None:
        """Raise unless the known people were loaded once."""
        _ = self.people

    async def wait_ready(self) -> None:
        """Return when the known people were loaded once."""
        await self._ready.wait()

    async def watch(self, interval: float) -> None:
        """Follow the store for ever, looking every ``interval`` seconds.

        A long listing is repeated less often, so that it takes a fifth of the time at most.
        """
        while True:
            complete = True
            try:
                with observe("gallery"):
                    complete = await self.refresh()
            except ObjectStoreUnavailableError as error:
                if not self._away:
                    log.warning("known people cannot be read, the last ones are kept: %s", error)
                self._away = True
            else:
                if self._away:
                    log.info("known people can be read again")
                self._away = False
            if complete:
                await asyncio.sleep(max(interval, _PAUSE_PER_LISTING * self._listing_seconds))

    async def refresh(self) -> bool:
        """Look at the store once; return whether everything in it has been looked at.

        Raises ``ObjectStoreUnavailableError``; what was read by then is kept.
        """
        start = time.perf_counter()
        listed = {info.key: info async for info in self._store.list(self._prefix)}
        self._listing_seconds = time.perf_counter() - start
        removed = self._known.keys() - listed.keys()
        for key in removed:
            self._stale.add(self._known.pop(key).kept)
        wanted = [
            info
            for key, info in listed.items()
            if key not in self._known or self._known[key].tag != info.tag
        ]
        batch = wanted if self._people is None else wanted[:_BATCH]
        results = await asyncio.gather(
            *(self._read(info) for info in batch), return_exceptions=True
        )
        read = {
            info.key: result
            for info, result in zip(batch, results, strict=True)
            if isinstance(result, _Known)
        }
        self._stale |= {self._known[key].kept for key in read if key in self._known}
        self._known.update(read)
        problems = [result for result in results if isinstance(result, BaseException)]
        if not (problems and self._people is None) and (self._people is None or removed or read):
            self._publish()
        complete = len(batch) == len(wanted)
        if complete and self._stale:  # else a picture that only moved may still be to be read
            await self._forget()
        if problems:
            raise problems[0]
        return complete

    async def _forget(self) -> None:
        """Remove the encodings of content that no known picture has any more."""
        self._stale -= {known.kept for known in self._known.values()} | {""}
        try:
            for key in sorted(self._stale):
                await self._store.delete(key)
                self._stale.discard(key)
                self._keeping.passed()
        except ObjectStoreUnavailableError as error:
            self._keeping.failed(error)  # the next look tries again

    def _publish(self) -> None:
        if not self._ready.is_set():
            self._ready.set()
            self._encoding = asyncio.Semaphore(1)
        self._people = People(
            {
                key.removeprefix(self._prefix): known.encoding
                for key, known in self._known.items()
                if known.encoding is not None
            }
        )
        skipped = len(self._known) - self._people.pictures
        metrics.GALLERY_PEOPLE.set(self._people.people)
        metrics.GALLERY_PICTURES.set(self._people.pictures)
        metrics.GALLERY_SKIPPED.set(skipped)
        log.info(
            "known people",
            people=self._people.people,
            pictures=self._people.pictures,
            skipped=skipped,
        )

    async def _read(self, info: ObjectInfo) -> _Known | None:
        """Encode one known picture; None when it is gone or to be tried again."""
        kept = ""
        try:
            async with self._reading:
                picture = await self._picture(info)
                kept = self._cache + hashlib.sha256(picture).hexdigest()
                encoding = await self._encode(picture, kept)
        except ObjectNotFoundError:
            return None
        except RejectedError as error:
            log.warning("known picture skipped", key=info.key, reason=str(error))
            return _Known(info.tag, kept, reason=str(error))
        except RecogniserFaultError as error:
            self._faults[info.key, info.tag] += 1
            if self._faults[info.key, info.tag] < _TRIES:
                log.warning("known picture failed", key=info.key, reason=str(error))
                return None
            log.warning("known picture skipped", key=info.key, reason=str(error))
            return _Known(info.tag, reason=str(error))
        return _Known(info.tag, kept, encoding)

    async def _picture(self, info: ObjectInfo) -> bytes:
        if info.key.removeprefix(self._prefix).count("/") != 1:
            raise RejectedError(
                Problem.INVALID_REQUEST, f"its place is not {self._prefix}PERSON/PICTURE"
            )
        return await _get_picture(self._store, info.key)

    async def _encode(self, picture: bytes, kept: str) -> Encoding:
        encodings = await self._cached(kept)
        if encodings is None:
            async with self._encoding:
                found = await self._recogniser.recognise(picture, urgent=True)
            encodings = np.array([face.encoding for face in found.faces], dtype=np.float64)
            encodings = encodings.reshape(-1, ENCODING_SIZE)
            await self._keep(kept, encodings)
        if len(encodings) != 1:
            shown = f"{len(encodings)} faces" if len(encodings) else "no face"
            raise RejectedError(
                Problem.INVALID_REQUEST, f"it shows {shown}; a known picture must show one"
            )
        encoding: Encoding = encodings[0]
        return encoding

    async def _keep(self, key: str, encodings: Encoding) -> None:
        content = io.BytesIO()
        np.save(content, encodings, allow_pickle=False)
        try:
            await self._store.put(key, content.getvalue())
        except ObjectStoreUnavailableError as error:
            self._keeping.failed(error)  # only another replica, or the next start, misses it
        else:
            self._keeping.passed()

    async def _cached(self, key: str) -> Encoding | None:
        """Return the encodings kept for a picture, shape (faces, 128); None when unusable."""
        try:
            content = await self._store.get(key)
        except ObjectNotFoundError:
            return None
        try:
            encodings: Encoding = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError, OSError):
            encodings = np.empty(0)
        if (
            encodings.ndim != 2  # noqa: PLR2004
            or encodings.shape[1] != ENCODING_SIZE
            or encodings.dtype != np.float64
            or not np.isfinite(encodings).all()
        ):
            log.warning("kept encoding is damaged and made again", key=key)
            return None
        return encodings


@dataclass(frozen=True)
class Question:
    """Who is in this picture; ``None`` and 0 stand for the defaults.

    ``path`` is a key below ``pictures/`` and is used when ``picture``, the file itself, is empty.
    """

    path: str = ""
    picture: bytes = b""
    tolerance: float | None = None
    max_faces: int = 0
    max_candidates: int = 0


@dataclass(frozen=True)
class NamedFace:
    """A face and who it may be."""

    box: Box
    score: float
    match: Match


@dataclass(frozen=True)
class Answer:
    """The upright picture's size in pixels and its faces, largest first."""

    width: int
    height: int
    faces: Sequence[NamedFace]


class Identifier:
    """Finds the faces of a picture and names them."""

    def __init__(self, store: Store, recogniser: Recogniser, gallery: Gallery) -> None:
        self._store = store
        self._recogniser = recogniser
        self._gallery = gallery

    async def identify(self, question: Question) -> Answer:
        """Answer a question.

        Raises ``RejectedError`` when the question is at fault; :class:`NotReadyError`,
        ``ObjectStoreUnavailableError`` and whatever the recogniser raises are faults.
        """
        _ = self._gallery.people
        tolerance = DEFAULT_TOLERANCE if question.tolerance is None else question.tolerance
        if not 0 < tolerance <= 1:
            raise RejectedError(
                Problem.INVALID_REQUEST, f"tolerance must be over 0 and at most 1, got {tolerance}"
            )
        picture = question.picture or await self._fetch(question.path)
        if len(picture) > MAX_PICTURE_BYTES:
            raise _too_many_bytes()
        found = await self._recogniser.recognise(picture, max_faces=question.max_faces)
        people = self._gallery.people
        encodings = [face.encoding for face in found.faces]
        find_matches = functools.partial(
            match,
            people,
            encodings,
            tolerance=tolerance,
            max_candidates=question.max_candidates or DEFAULT_CANDIDATES,
        )
        if people.pictures * len(encodings) > _QUICK_PICTURES:
            matches = await asyncio.to_thread(find_matches)
        else:
            matches = find_matches()
        for one in matches:
            result = "unknown" if not one.candidates else "ambiguous" if one.ambiguous else "known"
            metrics.FACES.labels(result).inc()
        return Answer(
            found.width,
            found.height,
            [
                NamedFace(face.box, face.score, one)
                for face, one in zip(found.faces, matches, strict=True)
            ],
        )

    async def _fetch(self, path: str) -> bytes:
        try:
            key = PICTURES + check_path(path)
            return await _get_picture(self._store, key)
        except InvalidPathError as error:
            raise RejectedError(Problem.INVALID_REQUEST, str(error)) from error
        except ObjectNotFoundError as error:
            raise RejectedError(Problem.NOT_FOUND, f"no picture at {path}") from error


async def _get_picture(store: Store, key: str) -> bytes:
    try:
        return await store.get(key, max_bytes=MAX_PICTURE_BYTES)
    except ObjectTooLargeError as error:
        raise _too_many_bytes() from error


def _too_many_bytes() -> RejectedError:
    return RejectedError(
        Problem.TOO_LARGE, f"picture has more than {MAX_PICTURE_BYTES // 1024 // 1024} MB"
    )
