"""The calibration of names, kept in the store so that all replicas name alike.

It is the object ``encodings/<engine>+parts-1/calibration``. Its bytes, with whole numbers
and floats little-endian:

====  ==========================================================================
4     ``FSKC``
2     version of this layout, 1
2     length *e* of the engine's name
*e*   the engine's name, UTF-8
4     version of the calibration
4     number of people for whom it holds
4     number of faces seen that its model was fitted to
2     number *k* of kinds of faces; 0 without a model
2     number *d* of dimensions of the spread; 0 without a model
4 *k* how frequent each kind is, float32
…     the mean of each kind, float32: *k* encodings
…     the spread, float32: *d* encodings
32    SHA-256 of all bytes before
====  ==========================================================================
"""

import struct
from typing import Final

import numpy as np
import structlog

from services.common.errors import ObjectNotFoundError, ObjectStoreError, ObjectTooLargeError
from services.common.logs import Outage
from services.face_recog.domain.calibration import Calibration
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.errors import DamagedError
from services.face_recog.domain.parts import HASH_BYTES, seal, unseal
from services.face_recog.domain.strangers import DIMENSIONS, KINDS, Model
from services.face_recog.ports import KeptStore
from services.face_recog.service.kept_encodings import CALIBRATION, folder_of

log = structlog.get_logger(__name__)

_MAGIC: Final = b"FSKC"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sHH")
_BODY: Final = struct.Struct("<IIIHH")
_FLOAT: Final = np.dtype("<f4")


def pack(engine: Engine, calibration: Calibration) -> bytes:
    """Return the bytes to keep."""
    model = calibration.model
    parts = () if model is None else (model.weights, model.means, model.spread)
    content = _head(engine) + _BODY.pack(
        calibration.version,
        calibration.people,
        model.seen if model else 0,
        len(model.means) if model else 0,
        len(model.spread) if model else 0,
    )
    content += b"".join(part.astype(_FLOAT).tobytes() for part in parts)
    return seal(content)


def unpack(content: bytes, engine: Engine) -> Calibration:
    """Return what :func:`pack` was given, or raise :class:`DamagedError`."""
    body = bytes(unseal(content))
    head = _head(engine)
    if not body.startswith(head) or len(body) < len(head) + _BODY.size:
        raise DamagedError("it belongs to another engine or version of the layout")
    version, people, seen, kinds, dimensions = _BODY.unpack_from(body, len(head))
    numbers = body[len(head) + _BODY.size :]
    if len(numbers) != _FLOAT.itemsize * (kinds + (kinds + dimensions) * engine.size):
        raise DamagedError(f"its length of {len(content)} bytes is wrong")
    if not kinds:
        return Calibration(version, people)
    weights, means, spread = np.split(
        np.frombuffer(numbers, _FLOAT).astype(np.float32), [kinds, kinds * (1 + engine.size)]
    )
    if not (np.isfinite(weights).all() and np.isfinite(means).all() and np.isfinite(spread).all()):
        raise DamagedError("it holds what is no number")
    if weights.min() < 0 or not weights.any():
        raise DamagedError("its kinds are not as frequent as anything")
    shape = -1, engine.size
    model = Model(seen, weights, means.reshape(shape), spread.reshape(shape))
    return Calibration(version, people, model)


def _head(engine: Engine) -> bytes:
    name = engine.name.encode()
    return _HEAD.pack(_MAGIC, _VERSION, len(name)) + name


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
        self._outage = Outage("place for the calibration")
        # What is larger is not read.
        self._most_bytes = (
            len(_head(engine))
            + _BODY.size
            + _FLOAT.itemsize * (KINDS + (KINDS + DIMENSIONS) * engine.size)
            + HASH_BYTES
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
            if content is not None:
                self._calibration = self._unpack(content)
        return self._calibration

    def _unpack(self, content: bytes) -> Calibration | None:
        try:
            return unpack(content, self._engine)
        except DamagedError as error:
            log.warning(
                "kept calibration is damaged and made again", key=self._key, reason=str(error)
            )
            return None

    async def write(self, calibration: Calibration) -> None:
        """Keep it in the place of the one that was read, unless none could be."""
        if not self._is_readable:
            return  # there may be a newer one
        content = pack(self._engine, calibration)
        try:
            await self._store.put(self._key, content)
        except ObjectStoreError as error:
            self._outage.failed(error)
        else:
            self._outage.passed()
            self._content, self._calibration = content, calibration
