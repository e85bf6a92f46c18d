"""The calibration of names, kept in the store so that all replicas name alike.

It is the object ``encodings/<engine>/calibration``. Its bytes, with whole numbers little-endian:

====  ==========================================================================
4     ``FSKC``
2     version of this layout, 1
2     length *e* of the engine's name
*e*   the engine's name, UTF-8
4     version of the calibration
4     number of people for whom it holds
32    SHA-256 of all bytes before
====  ==========================================================================
"""

import hashlib
import struct
from typing import Final

import structlog

from services.common.logs import Outage
from services.common.objects import ObjectNotFoundError, ObjectStoreError, ObjectTooLargeError
from services.face_recog.domain import Calibration, Engine
from services.face_recog.kept import CALIBRATION, FOLDER, DamagedError, Store

log = structlog.get_logger(__name__)

_MAGIC: Final = b"FSKC"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sHH")
_BODY: Final = struct.Struct("<II")
_HASH_BYTES: Final = 32
_MAX_BYTES: Final = 4096


def pack(engine: Engine, calibration: Calibration) -> bytes:
    """Return the bytes to keep."""
    content = _head(engine) + _BODY.pack(calibration.version, calibration.people)
    return content + hashlib.sha256(content).digest()


def unpack(content: bytes, engine: Engine) -> Calibration:
    """Return what :func:`pack` was given, or raise :class:`DamagedError`."""
    body, check = content[:-_HASH_BYTES], content[-_HASH_BYTES:]
    head = _head(engine)
    if hashlib.sha256(body).digest() != check:
        raise DamagedError("its checksum is wrong")
    if not body.startswith(head) or len(body) != len(head) + _BODY.size:
        raise DamagedError("it belongs to another engine or version of the layout")
    return Calibration(*_BODY.unpack(body[len(head) :]))


def _head(engine: Engine) -> bytes:
    name = engine.name.encode()
    return _HEAD.pack(_MAGIC, _VERSION, len(name)) + name


class KeptCalibration:
    """The newest calibration of an engine that any replica has made.

    A store that is away or takes no changes costs only that replicas may differ: neither method
    raises anything of that.
    """

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._key = f"{FOLDER}{engine.name}/{CALIBRATION}"
        self._outage = Outage("place for the calibration")

    async def read(self) -> Calibration | None:
        """Return what is kept; None when nothing can be read."""
        try:
            content = await self._store.get(self._key, max_bytes=_MAX_BYTES)
            return unpack(content, self._engine)
        except (DamagedError, ObjectTooLargeError) as error:
            log.warning(
                "kept calibration is damaged and made again", key=self._key, reason=str(error)
            )
        except ObjectNotFoundError:
            pass
        except ObjectStoreError as error:
            self._outage.failed(error)
        return None

    async def write(self, calibration: Calibration) -> None:
        """Keep it in the place of the one before."""
        try:
            await self._store.put(self._key, pack(self._engine, calibration))
        except ObjectStoreError as error:
            self._outage.failed(error)
        else:
            self._outage.passed()
