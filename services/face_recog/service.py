"""Naming the faces of a picture, and keeping the known people as the object store has them."""

import asyncio
import dataclasses
import functools
import hashlib
import time
import unicodedata
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from services.common.images import MAX_PICTURE_BYTES, PICTURES, InvalidPathError, check_path
from services.common.metrics import observe
from services.common.names import InvalidNameError, check_name
from services.common.objects import (
    ObjectInfo,
    ObjectNotFoundError,
    ObjectRefusedError,
    ObjectStoreError,
    ObjectTooLargeError,
)
from services.common.quality import Quality
from services.face_recog import metrics
from services.face_recog.calibrations import KeptCalibration
from services.face_recog.domain import (
    DEFAULT_CANDIDATES,
    Box,
    Calibration,
    Encoding,
    Engine,
    Match,
    Outcome,
    People,
    Portraits,
    Problem,
    RecogniserFaultError,
    Recognition,
    RejectedError,
    Rule,
    decide,
    match,
)
from services.face_recog.kept import Faces, KeptEncodings, Store
from services.face_recog.strangers import FITTED, Seen, Strangers, Tails

log = structlog.get_logger(__name__)

_QUICK_PICTURES: Final = 2000
"""Known pictures that are compared with a face in less than a millisecond."""

_TRIES: Final = 3
"""A known picture that failed this often, by whatever fault, is skipped."""

_BATCH: Final = 16
"""New known pictures per look at the store while serving, so that removals show soon too."""

_PARALLEL_READS: Final = 16

_PAUSE_PER_LISTING: Final = 4
"""Listing 100,000 known pictures in a folder takes 2.4 s."""

_SWEEP_SECONDS: Final = 3600.0
"""Between two looks at everything that is kept: that is a listing as long as the other one."""


class NotReadyError(Exception):
    """The known people are not loaded yet."""


class Recogniser(Protocol):
    """What finds and encodes faces."""

    async def recognise(
        self,
        picture: bytes,
        *,
        max_faces: int = 0,
        urgent: bool = False,
        on_long: Callable[[], Awaitable[None]] | None = None,
    ) -> Recognition:
        """Return the largest faces (0: all) of a picture file; say when it needs long.

        Raises ``RejectedError``, ``RecogniserFaultError`` or ``RecogniserBusyError``. An urgent
        request goes first and is never refused.
        """


@dataclass(frozen=True)
class _Known:
    """What a known picture came to: an encoding, or none when it is skipped.

    ``digest`` is the SHA-256 of its content; empty when it could not be read.
    """

    tag: str
    digest: str = ""
    encoding: Encoding | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Snapshot:
    """The known people at one time, and how faces are named after them."""

    portraits: Portraits
    calibration: Calibration
    rule: Rule


class Gallery:
    """The known people: ``<prefix><person>/<picture>`` in the store.

    Each picture is encoded once, and its encoding kept in the store, so that another replica need
    not; it goes when the last picture with that content does. What cannot be kept is encoded
    nevertheless. ``parallel`` pictures at a time are encoded for the first snapshot, and later
    one, because then requests need the workers too.
    """

    def __init__(
        self,
        store: Store,
        recogniser: Recogniser,
        *,
        prefix: str,
        engine: Engine,
        parallel: int,
        tails: Tails,
        false_names: float,
    ) -> None:
        self._seen = Seen(engine.size, tails)
        self._no_model = Strangers(tails)
        self._false_names = false_names
        self._store = store
        self._recogniser = recogniser
        self._prefix = prefix
        self._kept = KeptEncodings(store, engine)
        self._calibration = KeptCalibration(store, engine)
        self._reading = asyncio.Semaphore(_PARALLEL_READS)
        self._encoding = asyncio.Semaphore(parallel)
        self._known: dict[str, _Known] = {}
        self._faults: Counter[tuple[str, str]] = Counter()
        self._snapshot: Snapshot | None = None
        self._ready = asyncio.Event()
        self._trouble = ""
        self._listing_seconds = 0.0
        self._swept_at: float | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The newest one, or :class:`NotReadyError`."""
        if self._snapshot is None:
            why = f": {self._trouble}" if self._trouble else ""
            raise NotReadyError(f"the known people are still being loaded{why}")
        return self._snapshot

    @property
    def people(self) -> People:
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

        A long listing is repeated less often, so that it takes a fifth of the time at most.
        """
        while True:
            complete = True
            try:
                with observe("gallery"):
                    complete = await self.refresh()
            except Exception as error:  # noqa: BLE001, without a watch the people would be stale
                self._note_trouble(error)
            else:
                self._note_trouble(None)
            if complete:
                await asyncio.sleep(max(interval, _PAUSE_PER_LISTING * self._listing_seconds))

    def _note_trouble(self, error: Exception | None) -> None:
        """Say once what keeps the known people from being read, and once that nothing does."""
        trouble = "" if error is None else _describe(error)
        if error is None:
            if self._trouble:
                log.info("known people can be read again")
        elif not self._trouble or (trouble != self._trouble and not _is_expected(error)):
            log.warning(
                "known people cannot be read, the last ones are kept: %s",
                trouble,
                exc_info=None if _is_expected(error) else error,
            )
        self._trouble = trouble
        metrics.GALLERY_TROUBLE.set(bool(trouble))

    async def refresh(self) -> bool:
        """Look at the store once; return whether everything in it has been looked at.

        Raises ``ObjectStoreUnavailableError``; what was read by then is kept. One picture that
        the store does not give while it gives others is skipped in the end, and tried again.
        """
        start = time.perf_counter()
        listed = {info.key: info async for info in self._store.list(self._prefix)}
        self._listing_seconds = time.perf_counter() - start
        removed = self._known.keys() - listed.keys()
        for key in removed:
            self._kept.forget(self._known.pop(key).digest)
        wanted = [
            info
            for key, info in listed.items()
            if key not in self._known or self._known[key].tag != info.tag
        ]
        wanted.sort(key=self._count_faults)  # those that failed before do not hold up the others
        batch = wanted if self._snapshot is None else wanted[:_BATCH]
        complete = all(self._count_faults(info) for info in wanted[len(batch) :])
        results = await asyncio.gather(
            *(self._read(info) for info in batch), return_exceptions=True
        )
        read, problems = await self._sort_out(batch, results)
        changed = {key: known for key, known in read.items() if known != self._known.get(key)}
        for key in changed.keys() & self._known.keys():
            self._kept.forget(self._known[key].digest)
        self._known.update(changed)
        first = self._snapshot is None
        if not (problems and first):
            await self._publish(changed=bool(first or removed or changed))
        if problems:
            raise problems[0]
        if complete and listed.keys() == self._known.keys():  # else one that moved may be to come
            await self._tidy()
        return complete

    async def _sort_out(
        self, batch: Sequence[ObjectInfo], results: Sequence[_Known | BaseException | None]
    ) -> tuple[dict[str, _Known], list[Exception]]:
        """Return what was read, by key, and the faults that are not of one picture alone."""
        pairs = list(zip(batch, results, strict=True))
        read = {info.key: result for info, result in pairs if isinstance(result, _Known)}
        failed = [(info, result) for info, result in pairs if isinstance(result, Exception)]
        # People are not taken for unknown because the store is away: then all are waited for.
        if not failed or not (read or await self._can_read()):
            return read, [error for _, error in failed]
        problems = []
        for info, error in failed:
            if skipped := self._count_fault(info, error):
                # Without its tag it is tried again at every look.
                read[info.key] = dataclasses.replace(skipped, tag="")
            else:
                problems.append(error)
        return read, problems

    async def _can_read(self) -> bool:
        """Tell whether a picture that was read before can be read now."""
        read = next((key for key, known in self._known.items() if known.digest), None)
        try:
            return read is not None and bool(await _get_picture(self._store, read))
        except Exception:  # noqa: BLE001, whatever it is, it is no fault of the other pictures
            return False

    async def _tidy(self) -> None:
        """Remove what is kept of no known picture; only after all that was listed was read."""
        await self._kept.remove({known.digest for known in self._known.values()})
        now = time.perf_counter()
        if self._swept_at is None or now - self._swept_at > _SWEEP_SECONDS:
            await self._kept.sweep()
            self._swept_at = now

    def note_stranger(self, encoding: Encoding) -> None:
        """Remember a face that got no name, to calibrate by."""
        self._seen.add(encoding)

    async def _publish(self, *, changed: bool) -> None:
        """Make a new snapshot when the known people changed, or what replicas calibrate by."""
        before = self._snapshot
        people = self.people if before and not changed else await self._collect()
        calibration = await self._calibrate(people, changed=changed)
        if before and not changed and calibration == before.calibration:
            return
        strangers = before.portraits.strangers if before else self._no_model
        # Off the event loop: 100,000 new people, or a new model with as many known, take seconds.
        strangers = await asyncio.to_thread(strangers.know, calibration.model)
        portraits = await asyncio.to_thread(
            Portraits, people, strangers, before.portraits if before else None
        )
        rule = Rule.of(calibration, strangers.tail, self._false_names)
        self._snapshot = Snapshot(portraits, calibration, rule)
        if not self._ready.is_set():
            self._ready.set()
            self._encoding = asyncio.Semaphore(1)
        skipped = len(self._known) - people.pictures
        metrics.GALLERY_PEOPLE.set(people.people)
        metrics.GALLERY_PICTURES.set(people.pictures)
        metrics.GALLERY_SKIPPED.set(skipped)
        log.info(
            "known people",
            people=people.people,
            pictures=people.pictures,
            skipped=skipped,
            calibration=calibration.version,
        )

    async def _collect(self) -> People:
        return await asyncio.to_thread(
            People,
            {
                key.removeprefix(self._prefix): known.encoding
                for key, known in self._known.items()
                if known.encoding is not None
            },
        )

    async def _calibrate(self, people: People, *, changed: bool) -> Calibration:
        """Return the calibration that replicas share, a new one where it does not hold."""
        kept = await self._calibration.read()
        ours = self._snapshot.calibration if self._snapshot else None
        # Ours is newer where it could not be kept. Of two of one version, all take what is kept.
        before = max(
            (one for one in (kept, ours) if one), key=lambda one: one.version, default=None
        )
        known = people.faces(FITTED[-1]) if changed else ()
        model = await asyncio.to_thread(self._seen.fit, known, before.model if before else None)
        calibration = Calibration.after(before, people.people, model)
        if calibration != kept:
            await self._calibration.write(calibration)
        return calibration

    async def _read(self, info: ObjectInfo) -> _Known | None:
        """Encode one known picture; None when it is gone or to be tried again."""
        digest = ""
        try:
            async with self._reading:
                picture = await self._picture(info)
                digest = hashlib.sha256(picture).hexdigest()
                encoding = await self._encode(info.key, picture, digest)
        except ObjectNotFoundError:
            return None
        except RejectedError as error:
            log.warning("known picture skipped", key=info.key, reason=str(error))
            return _Known(info.tag, digest)
        except RecogniserFaultError as error:
            log.warning("known picture failed", key=info.key, reason=str(error))
            return self._count_fault(info, error)
        return _Known(info.tag, digest, encoding)

    def _count_fault(self, info: ObjectInfo, error: Exception) -> _Known | None:
        """Return that a picture is skipped when this is one fault too many."""
        self._faults[info.key, info.tag] += 1
        if self._count_faults(info) == _TRIES:
            log.warning("known picture skipped", key=info.key, reason=_describe(error))
        return _Known(info.tag) if self._count_faults(info) >= _TRIES else None

    def _count_faults(self, info: ObjectInfo) -> int:
        return self._faults[info.key, info.tag]

    async def _picture(self, info: ObjectInfo) -> bytes:
        place = info.key.removeprefix(self._prefix)
        if place.count("/") != 1:
            raise RejectedError(
                Problem.INVALID_REQUEST, f"its place is not {self._prefix}PERSON/PICTURE"
            )
        folder = unicodedata.normalize("NFC", place.partition("/")[0])
        try:
            name = check_name(folder)
        except InvalidNameError as error:
            raise RejectedError(Problem.INVALID_REQUEST, f"its folder: {error}") from None
        if name != folder:
            raise RejectedError(
                Problem.INVALID_REQUEST, "its folder has spaces around a person's name"
            )
        return await _get_picture(self._store, info.key)

    async def _encode(self, key: str, picture: bytes, digest: str) -> Encoding:
        faces = await self._kept.read(digest)
        if faces is None:
            async with self._encoding:
                found = await self._recogniser.recognise(picture, urgent=True)
            only = found.faces[0].encoding if len(found.faces) == 1 else None
            if only is not None and (flaw := found.faces[0].quality.flaw):
                log.warning("known picture is of low quality", key=key, flaw=flaw)
            faces = Faces(len(found.faces), only)
            await self._kept.write(digest, faces)
        if faces.encoding is None:
            shown = f"{faces.count} faces" if faces.count else "no face"
            raise RejectedError(
                Problem.INVALID_REQUEST, f"it shows {shown}; a known picture must show one"
            )
        return faces.encoding


@dataclass(frozen=True)
class Question:
    """Who is in this picture; 0 stands for the defaults.

    ``path`` is a key below ``pictures/`` and is used when ``picture``, the file itself, is empty.
    With a tolerance the nearest picture decides, not the calibrated rule.
    Whether each face is like ``person`` is answered, too, whoever else it may be.
    """

    path: str = ""
    picture: bytes = b""
    tolerance: float | None = None
    max_faces: int = 0
    max_candidates: int = 0
    person: str = ""


@dataclass(frozen=True)
class NamedFace:
    """A face, who it may be, and whether it is like the person who was asked about.

    ``like_person`` is None when nobody was, or somebody without known pictures.
    """

    box: Box
    score: float
    match: Match
    quality: Quality
    like_person: bool | None = None


@dataclass(frozen=True)
class Answer:
    """The upright picture's size in pixels and its faces, largest first."""

    width: int
    height: int
    faces: Sequence[NamedFace]
    calibration: int = 0
    """The version that decided; 0 where a tolerance did."""


class Identifier:
    """Finds the faces of a picture and names them."""

    def __init__(self, store: Store, recogniser: Recogniser, gallery: Gallery) -> None:
        self._store = store
        self._recogniser = recogniser
        self._gallery = gallery

    async def identify(
        self, question: Question, *, on_long: Callable[[], Awaitable[None]] | None = None
    ) -> Answer:
        """Answer a question; ``on_long`` is called when its picture needs longer than others.

        Raises ``RejectedError`` when the question is at fault; :class:`NotReadyError`,
        ``ObjectStoreUnavailableError`` and whatever the recogniser raises are faults.
        """
        _ = self._gallery.people
        tolerance = question.tolerance
        if tolerance is not None and not 0 < tolerance <= 1:
            raise RejectedError(
                Problem.INVALID_REQUEST, f"tolerance must be over 0 and at most 1, got {tolerance}"
            )
        picture = question.picture or await self._fetch(question.path)
        if len(picture) > MAX_PICTURE_BYTES:
            raise _too_many_bytes()
        found = await self._recogniser.recognise(
            picture, max_faces=question.max_faces, on_long=on_long
        )
        snapshot = self._gallery.snapshot
        people = snapshot.portraits.people
        encodings = [face.encoding for face in found.faces]
        count = question.max_candidates or DEFAULT_CANDIDATES
        if tolerance is None:
            find_matches = functools.partial(
                decide, snapshot.portraits, encodings, snapshot.rule, max_candidates=count
            )
        else:
            find_matches = functools.partial(
                match, people, encodings, tolerance=tolerance, max_candidates=count
            )
        if people.pictures * len(encodings) > _QUICK_PICTURES:
            matches = await asyncio.to_thread(find_matches)
        else:
            matches = find_matches()
        for one in matches:
            result = "unknown" if not one.candidates else "ambiguous" if one.ambiguous else "known"
            metrics.FACES.labels(result).inc()
        if tolerance is None:
            for encoding, one in zip(encodings, matches, strict=True):
                if one.outcome is not Outcome.NAMED:
                    self._gallery.note_stranger(encoding)
        return Answer(
            found.width,
            found.height,
            [
                NamedFace(
                    face.box,
                    face.score,
                    one,
                    face.quality,
                    people.is_like(question.person, face.encoding),
                )
                for face, one in zip(found.faces, matches, strict=True)
            ],
            snapshot.calibration.version if tolerance is None else 0,
        )

    async def _fetch(self, path: str) -> bytes:
        try:
            key = PICTURES + check_path(path)
            return await _get_picture(self._store, key)
        except InvalidPathError as error:
            raise RejectedError(Problem.INVALID_REQUEST, str(error)) from error
        except ObjectNotFoundError as error:
            raise RejectedError(Problem.NOT_FOUND, f"no picture at {path}") from error


def _is_expected(error: Exception) -> bool:
    return isinstance(error, ObjectStoreError | RecogniserFaultError)


def _describe(error: Exception) -> str:
    return str(error) if _is_expected(error) else f"{type(error).__name__}: {error}"


async def _get_picture(store: Store, key: str) -> bytes:
    try:
        return await store.get(key, max_bytes=MAX_PICTURE_BYTES)
    except ObjectRefusedError as error:
        raise RejectedError(Problem.INVALID_REQUEST, str(error)) from error
    except ObjectTooLargeError as error:
        raise _too_many_bytes() from error


def _too_many_bytes() -> RejectedError:
    return RejectedError(
        Problem.TOO_LARGE, f"picture has more than {MAX_PICTURE_BYTES // 1024 // 1024} MB"
    )
