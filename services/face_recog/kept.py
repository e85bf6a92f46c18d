"""The encodings of known pictures, kept in the store so that no replica makes them again.

That of a picture is the object ``encodings/<engine>/<SHA-256 of the picture>``. Its bytes, with
whole numbers and floats little-endian:

====  ==========================================================================
4     ``FSKE``
2     version of this layout, 1
2     length *e* of the engine's name
*e*   the engine's name, UTF-8
32    SHA-256 of the picture
4     number of faces in the picture
4 *n* the encoding as float32, of as many numbers *n* as the engine's encodings have, when the
      picture shows exactly one face
32    SHA-256 of all bytes before
====  ==========================================================================

The name and the picture's hash make a file under a wrong key as useless as a damaged one: it is
made again from the picture and replaced.
"""

import hashlib
import re
import struct
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import structlog

from services.common.logs import Outage
from services.common.objects import (
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStoreError,
    ObjectTooLargeError,
)
from services.face_recog.domain import Encoding, Engine

log = structlog.get_logger(__name__)

FOLDER: Final = "encodings/"

GRACE_SECONDS: Final = 24 * 3600.0
"""Encodings of an engine that no replica has used for so long are removed. A rollout takes
minutes; whoever goes back to the version before within a day finds its encodings."""

_MAGIC: Final = b"FSKE"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sHH")
_FACES: Final = struct.Struct("<I")
_HASH_BYTES: Final = 32
_HEX_DIGITS: Final = 2 * _HASH_BYTES
_FLOAT: Final = np.dtype("<f4")
CALIBRATION: Final = "calibration"
"""The name, beside the encodings, of what else is kept for an engine."""

_MARK: Final = "in-use"
_KEY: Final = re.compile(
    rf"{FOLDER}(?P<engine>[^/]+)/(?P<name>[0-9a-f]{{{_HEX_DIGITS}}}|{_MARK}|{CALIBRATION})"
)
_REMOVALS: Final = 500
"""Removals in one go: about a second, so that a change of the known people shows soon."""


class DamagedError(Exception):
    """The bytes are not what was kept for this engine and picture; the message says why."""


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
class Faces:
    """How many faces a picture shows; the encoding, shape (size of the engine,), of the only."""

    count: int
    encoding: Encoding | None = None


def pack(engine: Engine, digest: str, faces: Faces) -> bytes:
    """Return the bytes to keep; ``digest`` is the picture's SHA-256 in hexadecimal."""
    content = _head(engine, digest) + _FACES.pack(faces.count)
    if faces.encoding is not None:
        content += faces.encoding.astype(_FLOAT).tobytes()
    return content + hashlib.sha256(content).digest()


def unpack(content: bytes, engine: Engine, digest: str) -> Faces:
    """Return what :func:`pack` was given, or raise :class:`DamagedError`."""
    body, check = content[:-_HASH_BYTES], content[-_HASH_BYTES:]
    if hashlib.sha256(body).digest() != check:
        raise DamagedError("its checksum is wrong")
    head = _head(engine, digest)
    if not body.startswith(head):
        raise DamagedError("it belongs to another picture, engine or version of the layout")
    rest = body[len(head) :]
    [count] = _FACES.unpack(rest[: _FACES.size].ljust(_FACES.size, b"\0"))
    numbers = rest[_FACES.size :]
    one = engine.size * _FLOAT.itemsize if count == 1 else 0
    if len(rest) != _FACES.size + one:
        raise DamagedError(f"its length of {len(content)} bytes is wrong")
    if count != 1:
        return Faces(count)
    encoding = np.frombuffer(numbers, _FLOAT).astype(np.float64)
    if not np.isfinite(encoding).all():
        raise DamagedError("it holds what is no number")
    return Faces(count, encoding)


def _head(engine: Engine, digest: str) -> bytes:
    name = engine.name.encode()
    return _HEAD.pack(_MAGIC, _VERSION, len(name)) + name + bytes.fromhex(digest)


class KeptEncodings:
    """What is kept for one engine, and the removal of what is kept in vain.

    A store that takes no changes costs only time: writing and removing raise nothing.

    Replicas of two engines may run beside each other, as in a rollout. Each renews its engine's
    mark, ``encodings/<engine>/in-use``, whenever it sweeps. An engine goes with all that is kept
    for it once its mark is older than ``GRACE_SECONDS``; one without a mark is given it first.
    Ages are by the store's clock: our own mark, just renewed, is now.
    """

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        largest = pack(engine, "00" * 32, Faces(1, np.zeros(engine.size)))
        self._most_bytes = len(largest)  # what is larger is not read
        self._candidates: set[str] = set()
        self._former: set[str] = set()
        self._outage = Outage("place for encodings")

    async def read(self, digest: str) -> Faces | None:
        """Return what is kept for a picture; None when it is to be made."""
        key = self._key(digest)
        try:
            content = await self._store.get(key, max_bytes=self._most_bytes)
            return unpack(content, self._engine, digest)
        except ObjectNotFoundError:
            return None
        except (DamagedError, ObjectTooLargeError) as error:
            log.warning("kept encoding is damaged and made again", key=key, reason=str(error))
            return None

    async def write(self, digest: str, faces: Faces) -> None:
        """Keep it; when that fails, only another replica or the next start misses it."""
        with self._noting():
            await self._store.put(self._key(digest), pack(self._engine, digest, faces))

    def forget(self, digest: str) -> None:
        """Note that a picture is gone, for :meth:`remove`."""
        self._candidates.add(self._key(digest))

    async def sweep(self) -> None:
        """Note everything that may be kept in vain, for :meth:`remove`; renew our mark."""
        with self._noting():
            await self._mark(self._engine.name)
            engines: dict[str, dict[str, float]] = {}
            async for info in self._store.list(FOLDER):
                if found := _KEY.fullmatch(info.key):
                    engines.setdefault(found["engine"], {})[found["name"]] = info.modified
            marks = {engine: names.pop(_MARK, None) for engine, names in engines.items()}
            now = marks.get(self._engine.name)
            for engine, names in engines.items():
                keys = {f"{FOLDER}{engine}/{name}" for name in names.keys() - {CALIBRATION}}
                marked = marks[engine]
                if marked is None:
                    await self._mark(engine)
                elif now is not None and now - marked > GRACE_SECONDS:
                    log.info("encodings of a former engine are removed", engine=engine)
                    self._former |= keys
                    self._former |= {f"{FOLDER}{engine}/{name}" for name in (CALIBRATION, _MARK)}
                self._candidates |= keys

    async def remove(self, wanted: Collection[str]) -> None:
        """Remove what was noted before, some at a time, but nothing of the ``wanted`` pictures.

        To be called with the hashes of all known pictures, as a listing gave them that began
        after the noting: whoever keeps an encoding has seen its picture listed.
        """
        self._candidates = {key for key in self._candidates if key[-_HEX_DIGITS:] not in wanted}
        # A mark sorts behind the hashes, so an engine is known as former until all of it is gone.
        for key in sorted(self._candidates | self._former)[:_REMOVALS]:
            with self._noting():
                await self._store.delete(key)
                self._candidates.discard(key)
                self._former.discard(key)
            if self._outage.away:
                return  # the next look tries again

    async def _mark(self, engine: str) -> None:
        await self._store.put(f"{FOLDER}{engine}/{_MARK}", b"")

    def _key(self, digest: str) -> str:
        return f"{FOLDER}{self._engine.name}/{digest}"

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Say once when the store takes no changes, and once when it does again."""
        try:
            yield
        except ObjectStoreError as error:  # away, or a folder is in the way of a file
            self._outage.failed(error)
        else:
            self._outage.passed()
