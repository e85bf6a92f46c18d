"""Giving stored faces an encoding of the engine in use, while there is nothing else to do.

Faces that were stored before there were encodings have none, and after a change of the engine all
of them lack the new one's. They are encoded in their boxes, from pictures that are still the same;
names and boxes stay as they are. It is done in the order of ids, as many pictures at once as of new
ones, by one process at a time, and goes on where it was whenever that one ends. New pictures always
come first.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from services.common.errors import (
    DatabaseUnavailableError,
    ObjectNotFoundError,
    ObjectRefusedError,
    ObjectStoreUnavailableError,
    ObjectTooLargeError,
    RecogniserBusyError,
    RecogniserError,
    RecogniserTimeoutError,
    RecogniserUnavailableError,
)
from services.common.faces import Box
from services.common.images import MAX_PICTURE_BYTES, PICTURES, InvalidPathError, check_path
from services.common.logs import Outage
from services.image_processor.breaker import Breaker, State, Time
from services.image_processor.domain import RENEW_SECONDS, Rejected
from services.image_processor.metrics import ENCODING_LEFT, ENCODING_SKIPPED, FACES_ENCODED
from services.image_processor.service import Pictures

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0
"""Pause before looking again whether there is nothing else to do."""

ENGINE_SECONDS: Final = 30.0
"""How often face_recog is asked for its engine while it answers nothing else."""

SETTLE_SECONDS: Final = 60.0
"""A new engine must have answered alone for so long: in a rollout old replicas answer, too."""

LOOK_AGAIN_MS: Final = 3_600_000
"""Faces that older versions store in a rollout have no encoding either."""

LOOK_SELDOM_MS: Final = 24 * 3_600_000
"""After a pass that only skipped: what it could not encode will hardly be another picture soon."""

REMOVE_AFTER_MS: Final = 24 * 3_600_000
"""Since the engine changed, or another one answered last: until then it may be taken back."""

PEOPLE_AT_ONCE: Final = 10
"""For whom all faces are decided again at a time: a change of a person waits behind no more."""

RANGE: Final = 5000
"""Ids of images that one statement looks at."""

REMOVED: Final = 500
"""Ids of images of which one transaction removes encodings."""

_TRIES: Final = 3
_LOG_SECONDS: Final = 60.0
_RELEASE_SECONDS: Final = 3.0


@dataclass(frozen=True)
class Work:
    """How far it is.

    ``waiting``: new pictures are there. ``to_count``: it is not known whether there is anything to
    do; ``to_walk``: there is, in images behind ``after``. ``removal_due``: it is time to remove the
    encodings of other engines, if all that there was is done. ``to_decide``: people are to be
    looked for among what was encoded.
    """

    engine: str | None
    stopped: bool
    waiting: bool
    after: int
    images_left: int
    to_count: bool
    to_walk: bool
    removal_due: bool
    to_decide: bool
    last_image_id: int


@dataclass(frozen=True)
class StoredFaces:
    """The faces of an image's result that lack an encoding: their numbers and boxes.

    ``tag`` is that of the object that the result is about; None when it is not known. Nobody
    replaces what was ``uploaded``.
    """

    image_id: int
    path: str
    uploaded: bool
    tag: str | None
    processed_at: int | None
    indices: tuple[int, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Encoded:
    """An encoding for each box, None where the engine made none; see ``common/faces.py``."""

    engine: str
    encodings: tuple[bytes | None, ...] = field(repr=False)


class LostError(Exception):
    """Somebody else works on it by now; nothing was changed."""


class Rows(Protocol):
    """The work in the database; each call raises ``DatabaseUnavailableError`` when it is away.

    Those that change it raise :class:`LostError` unless it is claimed.
    """

    async def read(self) -> Work:
        """Return how far it is."""

    async def claim(self) -> bool:
        """Claim it, or prolong the lease; False when it is somebody else's."""

    async def release(self) -> None:
        """Leave it to others, if it is claimed."""

    async def begin(self, engine: str) -> None:
        """Begin anew with an engine; encodings of others go after a day."""

    async def keep_others(self) -> None:
        """Put off the removal of other engines' encodings: one of them has answered."""

    async def count(self, engine: str, after: int, until: int) -> int:
        """Count the images with ids in this range that have a face without an encoding.

        Those of faces that were struck out go: a version of before makes them.
        """

    async def begin_walk(self, images: int) -> None:
        """Note how many images there are to do, from the first on; 0: it is done."""

    async def next(self, engine: str, after: int, until: int, most: int) -> Sequence[int]:
        """Return the first such images in the range, in order."""

    async def faces(self, image_id: int, engine: str) -> StoredFaces | None:
        """Return the faces without an encoding; None when the image has none any more."""

    async def store(self, faces: StoredFaces, encoded: Encoded) -> int | None:
        """Store the encodings and go on behind the image; return how many were stored.

        None, and nothing is changed, when its result is another one by now.
        """

    async def skip(self, image_id: int) -> None:
        """Go on behind an image."""

    async def go_to(self, image_id: int) -> None:
        """Go on behind this id; up to there nothing is to be done."""

    async def end_walk(self) -> None:
        """Note that it is done, until it is looked at again; have what was encoded decided on."""

    async def decide_again(self) -> bool:
        """Have the next people looked for; False, and nothing is changed, while others are."""

    async def remove_others(self, engine: str, after: int, until: int) -> int:
        """Remove other engines' encodings of a range of images; return how many."""

    async def end_removal(self) -> None:
        """Note that they are all gone."""


class Recogniser(Protocol):
    """face_recog."""

    async def engine(self) -> str | None:
        """Return the engine that answers; None when nobody says."""

    async def encode(
        self, picture: bytes, image_id: int, boxes: Sequence[Box]
    ) -> Encoded | Rejected:
        """Encode the faces in these boxes, or raise a ``RecogniserError``."""


class _SkippedError(Exception):
    """The picture's faces cannot be encoded."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _LaterError(Exception):
    """It may work later."""


class Encoder:
    """Works while nobody waits and ``breaker`` is closed; ``database`` says when rows are away.

    On up to ``concurrency`` pictures at once.
    """

    def __init__(
        self,
        *,
        rows: Rows,
        pictures: Pictures,
        recogniser: Recogniser,
        breaker: Breaker,
        database: Outage,
        time: Time,
        concurrency: int,
    ) -> None:
        self._rows = rows
        self._pictures = pictures
        self._recogniser = recogniser
        self._breaker = breaker
        self._database = database
        self._time = time
        self._concurrency = self._at_once = concurrency
        self._engine: str | None = None
        self._asked_at = self._settled_at = self._logged_at = float("-inf")
        self._looked_to = self._seen = self._removed_to = 0
        self._tried = Counter[int]()

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
        with suppress(DatabaseUnavailableError, TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._rows.release()

    async def _work(self) -> None:
        while True:
            rest = POLL_SECONDS
            try:
                rest = await self.turn()
                self._database.passed()
            except DatabaseUnavailableError as error:
                self._database.failed(error)
            except Exception:
                log.exception("stored faces could not be encoded")
                rest = ENGINE_SECONDS
            if rest:
                await self._time.sleep(rest)

    async def turn(self) -> float:
        """Do one thing, if there is any; return the seconds until the next look."""
        work = await self._rows.read()
        ENCODING_LEFT.set(work.images_left)
        if work.stopped or work.waiting or self._breaker.state is not State.CLOSED:
            return POLL_SECONDS
        engine = await self._ask()
        if engine is None:
            return POLL_SECONDS
        try:
            if engine != work.engine:
                return await self._change(work.engine, engine)
            return await self._go_on(work, engine)
        except LostError:
            return POLL_SECONDS

    async def _go_on(self, work: Work, engine: str) -> float:
        # What is begun again later, perhaps after somebody else did it, begins from the start.
        if not work.to_count:
            self._looked_to = self._seen = 0
        if not work.removal_due:
            self._removed_to = 0
        if not (work.to_count or work.to_walk or work.removal_due or work.to_decide):
            return POLL_SECONDS
        if not await self._rows.claim():
            return POLL_SECONDS
        if work.to_walk:
            return await self._walk(work, engine)
        if work.to_count or work.removal_due:
            await (self._count(work, engine) if work.to_count else self._remove(work, engine))
            return 0
        return 0 if await self._rows.decide_again() else POLL_SECONDS

    async def _ask(self) -> str | None:
        if self._time.monotonic() - self._asked_at >= ENGINE_SECONDS:
            engine = await self._recogniser.engine()
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

    async def _count(self, work: Work, engine: str) -> None:
        """Count what there is to do in one more range of ids."""
        until = self._looked_to + RANGE
        self._seen += await self._rows.count(engine, self._looked_to, until)
        self._looked_to = until
        if until >= work.last_image_id:
            if self._seen:
                log.info("stored faces lack an encoding", engine=engine, images=self._seen)
            await self._rows.begin_walk(self._seen)

    async def _walk(self, work: Work, engine: str) -> float:
        until = work.after + RANGE
        image_ids = await self._rows.next(engine, work.after, until, self._at_once)
        if not image_ids and until < work.last_image_id:
            await self._rows.go_to(until)
        elif not image_ids:
            await self._rows.end_walk()
            log.info("stored faces have their encodings", engine=engine)
        else:
            if self._time.monotonic() - self._logged_at >= _LOG_SECONDS:
                self._logged_at = self._time.monotonic()
                log.info("stored faces are being encoded", images_left=work.images_left)
            return await self._encode(image_ids, engine)
        return 0

    async def _remove(self, work: Work, engine: str) -> None:
        until = self._removed_to + REMOVED
        await self._rows.remove_others(engine, self._removed_to, until)
        self._removed_to = until
        if until >= work.last_image_id:
            await self._rows.end_removal()
            log.info("encodings of other engines are removed", engine=engine)

    async def _encode(self, image_ids: Sequence[int], engine: str) -> float:
        """Encode these at once, then store in order what came of them, up to one for later."""
        holding = asyncio.create_task(self._hold())
        try:
            looking = (self._look(one, engine) for one in image_ids)
            found = await asyncio.gather(*looking, return_exceptions=True)
            for image_id, answer in zip(image_ids, found, strict=True):
                with structlog.contextvars.bound_contextvars(image_id=image_id):
                    if isinstance(answer, _LaterError):
                        # The others of many may have taken all places before it, and would again.
                        self._at_once = 1
                        return POLL_SECONDS
                    if isinstance(answer, _SkippedError):
                        await self._skip(image_id, answer.reason, str(answer))
                    elif isinstance(answer, BaseException):
                        raise answer
                    elif not await self._store(image_id, engine, answer):
                        return 0
        finally:
            holding.cancel()
        self._at_once = self._concurrency
        return 0

    async def _look(self, image_id: int, engine: str) -> tuple[StoredFaces, Encoded] | None:
        with structlog.contextvars.bound_contextvars(image_id=image_id):
            faces = await self._rows.faces(image_id, engine)
            return (faces, await self._recognise(faces)) if faces else None

    async def _store(
        self, image_id: int, engine: str, found: tuple[StoredFaces, Encoded] | None
    ) -> bool:
        """Store encodings, unless another engine made them; return whether it did not."""
        if found and found[1].engine != engine:
            self._note(found[1].engine)
            return False
        self._tried.pop(image_id, None)
        stored = await self._rows.store(*found) if found else None
        if stored is None:
            await self._skip(image_id, "changed", "its result is another one by now")
        else:
            FACES_ENCODED.inc(stored)
        return True

    async def _skip(self, image_id: int, reason: str, detail: str) -> None:
        await self._rows.skip(image_id)
        ENCODING_SKIPPED.labels(reason).inc()
        log.warning("stored faces are not encoded", reason=f"{reason}: {detail}")

    async def _recognise(self, faces: StoredFaces) -> Encoded:
        try:
            picture = await self._read(faces)
            answer = await self._recogniser.encode(picture, faces.image_id, faces.boxes)
        except (_SkippedError, _LaterError, DatabaseUnavailableError):
            raise
        except RecogniserError as error:
            raise await self._unanswered(faces.image_id, error) from error
        except (InvalidPathError, ObjectRefusedError, ObjectTooLargeError) as error:
            raise _SkippedError("unreadable", str(error)) from error
        except ObjectNotFoundError as error:
            raise _SkippedError("gone", f"there is no picture {faces.path}") from error
        except ObjectStoreUnavailableError as error:
            try:
                await self._pictures.check()
            except ObjectStoreUnavailableError:
                raise _LaterError from error
            raise self._again(faces.image_id, "unreadable", error) from error
        except Exception as error:
            log.exception("unexpected error")
            raise _SkippedError("failed", type(error).__name__) from error
        if isinstance(answer, Rejected):
            raise _SkippedError("unreadable", answer.reason)
        if not any(answer.encodings):
            raise _SkippedError("failed", "the engine made no encoding of any of its faces")
        return answer

    async def _read(self, faces: StoredFaces) -> bytes:
        if faces.tag is None and not faces.uploaded:
            raise _SkippedError("replaced", "an older version did not note which picture it was")
        key = PICTURES + check_path(faces.path)
        picture, tag = await self._pictures.get_tagged(key, max_bytes=MAX_PICTURE_BYTES)
        if tag != faces.tag and not faces.uploaded:
            raise _SkippedError("replaced", "another picture is at its path by now")
        return picture

    async def _unanswered(self, image_id: int, error: RecogniserError) -> Exception:
        match error:
            case RecogniserBusyError():
                return _LaterError()
            case RecogniserUnavailableError() | RecogniserTimeoutError():
                if not await self._breaker.answers():
                    return _LaterError()
        return self._again(image_id, "failed", error)

    def _again(self, image_id: int, reason: str, error: Exception) -> Exception:
        """Return that it is tried again, or after some times that it is skipped."""
        self._tried[image_id] += 1
        if self._tried[image_id] < _TRIES:
            return _LaterError()
        del self._tried[image_id]
        return _SkippedError(reason, str(error))

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with suppress(DatabaseUnavailableError):
                await self._rows.claim()
