"""The calibration of names, kept in the store so that all replicas name alike.

It is the object ``encodings/<engine>+parts-1/calibration``, ``FSKC`` in version 1, sealed as
:mod:`services.face_recog.domain.sealed` says. Its content, numbers little-endian:

====  ==========================================================================
4     version of the calibration
4     number of people for whom it holds
4     number of faces seen that its model was fitted to
2     number *k* of kinds of faces; 0 without a model
2     number *d* of dimensions of the spread; 0 without a model
4 *k* how frequent each kind is, float32
...   the mean of each kind, float32: *k* encodings
...   the spread, float32: *d* encodings
====  ==========================================================================
"""

import struct
from typing import Final

import structlog

from services.common.availability import AvailabilityLog
from services.common.errors import ObjectNotFoundError, ObjectStoreError, ObjectTooLargeError
from services.face_recog.domain.calibration import Calibration
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import DamagedError
from services.face_recog.domain.sealed import FLOAT, SealedReader, seal
from services.face_recog.domain.strangers import DIMENSIONS, KINDS, Model
from services.face_recog.ports import KeptStore
from services.face_recog.service.kept_encodings import CALIBRATION, folder_of, noting

log = structlog.get_logger(__name__)

_KIND: Final = b"FSKC"
_VERSION: Final = 1
_COUNTS: Final = struct.Struct("<IIIHH")


def pack(engine: Engine, calibration: Calibration) -> bytes:
    """Return the bytes to keep."""
    model = calibration.model
    counts = _COUNTS.pack(
        calibration.version,
        calibration.people,
        model.seen if model else 0,
        len(model.means) if model else 0,
        len(model.spread) if model else 0,
    )
    parts = () if model is None else (model.weights, model.means, model.spread)
    numbers = (part.astype(FLOAT).tobytes() for part in parts)
    return seal(_KIND, _VERSION, engine.name, counts, *numbers)


def unpack(content: bytes, engine: Engine) -> Calibration:
    """Return what :func:`pack` was given, or raise :class:`DamagedError`."""
    body = SealedReader(content, _KIND, _VERSION)
    if body.engine != engine.name:
        raise DamagedError("it is another engine's")
    version, people, seen, kinds, dimensions = body.take(_COUNTS)
    [weights], means, spread = (
        body.floats(rows, columns)
        for rows, columns in ((1, kinds), (kinds, engine.size), (dimensions, engine.size))
    )
    body.end()
    if not kinds:
        return Calibration(version, people)
    if weights.min() < 0 or not weights.any():
        raise DamagedError("its kinds are not as frequent as anything")
    return Calibration(version, people, Model(seen, weights, means, spread))


class KeptCalibration:
    """The newest calibration of an engine that any replica has made.

    A store that is away or takes no changes costs only that replicas may differ: neither method
    raises anything of that.
    """

    def __init__(self, store: KeptStore, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._key = folder_of(engine) + CALIBRATION
        self._content: bytes | None = None
        self._calibration: Calibration | None = None
        self._is_readable = False
        self._outage = AvailabilityLog("place for the calibration")
        # What is larger is not read.
        self._most_bytes = (
            len(seal(_KIND, _VERSION, engine.name))
            + _COUNTS.size
            + FLOAT.itemsize * (KINDS + (KINDS + DIMENSIONS) * engine.size)
        )

    async def read(self) -> Calibration | None:
        """Return what is kept, the same object as before when it is; None when nothing is."""
        self._is_readable = True
        try:
            content = await self._store.get(self._key, max_bytes=self._most_bytes)
        except ObjectNotFoundError:
            content = None
        except ObjectTooLargeError:
            content = b""  # no more than that is to be known of it
        except ObjectStoreError:  # of which the watch of the known people tells
            self._is_readable = False
            return None
        if content != self._content:
            self._content, self._calibration = content, None
            try:
                if content is not None:
                    self._calibration = unpack(content, self._engine)
            except DamagedError as error:
                log.warning(
                    "kept calibration is damaged and made again", key=self._key, reason=str(error)
                )
        return self._calibration

    async def write(self, calibration: Calibration) -> None:
        """Keep it in the place of the one that was read, unless none could be."""
        if not self._is_readable:
            return  # there may be a newer one
        content = pack(self._engine, calibration)
        with noting(self._outage):
            await self._store.put(self._key, content)
            self._content, self._calibration = content, calibration
