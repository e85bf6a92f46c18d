"""Follow what faces are stored: their encodings in memory, as the database has them."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from services.common.errors import OtherEngineError, StoredFacesAwayError
from services.common.events import PAGE, EventKind, Position
from services.common.faces import check_encoding
from services.people.domain.index import ExactIndex, Found
from services.people.metrics import STORED_FACES
from services.people.ports import FaceRows

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)

_LOADED: Final = 2_000
"""Images whose encodings are loaded at a time: with two faces each, 2 MB."""

_RELOAD_SECONDS: Final = 1_800.0
"""All is loaded anew so often: services of before note no events."""

_STEADY_SECONDS: Final = 10.0
"""Whose encodings are looked for alone for so long is the engine in use; in a rollout of another
one, some of either may come."""

_OF_IMAGES: Final = frozenset({EventKind.IMAGE, EventKind.ENCODED})


class StoredFaces:
    """The encodings of one engine in memory, as the database has them.

    Events say what has changed. Whoever compares need not wait while all is loaded anew.
    """

    def __init__(self, rows: FaceRows, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows = rows
        self._index = ExactIndex()
        self._in_thread = threading.Lock()
        self._clock = clock
        self._loading = asyncio.Lock()
        self._turn = asyncio.Lock()  # for the index, and the position that it is of
        self._engine: str | None = None
        self._other: tuple[str, float] | None = None  # that was looked for, and since when
        self._loaded_at: float | None = None
        self._position: Position | None = None

    async def check(self) -> None:
        """Raise unless all were loaded once."""
        if self._loaded_at is None:
            raise StoredFacesAwayError("the stored faces are still being loaded")

    async def follow(self, engine: str | None = None) -> None:
        """Bring memory up to date; with those of an engine, when one is named."""
        if not (self._loading.locked() and await self._is_whole(engine or self._wanted())):
            async with self._loading:
                wanted = engine or self._wanted() or await self._rows.newest_engine()
                is_old = self._clock() - (self._loaded_at or 0.0) > _RELOAD_SECONDS
                if is_old or not await self._is_whole(wanted):
                    await self._load(wanted)
        async with self._turn:
            await self._take_events()
        STORED_FACES.set(len(self._index))

    async def _is_whole(self, engine: str | None) -> bool:
        """Tell whether all of an engine's are here but for what events tell."""
        return (
            self._loaded_at is not None
            and engine == self._engine
            and self._position is not None
            and not await self._rows.lost(self._position)
        )

    def _wanted(self) -> str | None:
        if self._other and self._clock() - self._other[1] >= _STEADY_SECONDS:
            return self._other[0]
        return self._engine

    @property
    def size(self) -> int:
        """Return the bytes of an encoding, of most of them; 0 when there is none."""
        return self._index.size

    async def nearer(
        self, mean: NDArray[np.float32], least: float
    ) -> tuple[NDArray[np.int64], Sequence[bytes]]:
        """Return the images and encodings of faces whose product with a mean is at least so."""
        async with self._turn:
            return await asyncio.to_thread(self._alone, self._index.nearer, mean, least)

    async def nearest(self, engine: str, encoding: bytes, most: int) -> Sequence[Found]:
        """Return so many stored faces at most, those nearest to an encoding, nearest first.

        Raises ``StoredFacesAwayError`` before all were loaded once; ``OtherEngineError``, then
        those of the other one are loaded soon; and ``ValueError`` for an encoding that cannot be
        compared.
        """
        wanted = np.frombuffer(check_encoding(encoding), "<f4")
        await self.check()
        async with self._turn:
            if self._engine is None:
                return []
            if engine != self._engine:
                if self._other is None or self._other[0] != engine:
                    self._other = (engine, self._clock())
                raise OtherEngineError(f"stored faces are of {self._engine!r}, not of {engine!r}")
            self._other = None
            if self.size not in (0, wanted.nbytes):
                raise ValueError(f"{len(wanted)} numbers, where stored ones have {self.size // 4}")
            return await asyncio.to_thread(self._alone, self._index.nearest, wanted, most)

    def _alone(self, use: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        # A search whose caller has gone still reads what a change would move under its feet.
        with self._in_thread:
            return use(*args, **named)

    async def _load(self, engine: str | None) -> None:
        """Load all that is there now; what comes meanwhile, events tell."""
        start = self._clock()
        async with self._turn:
            if self._position is None or await self._rows.lost(self._position):
                self._loaded_at = None
                self._position = await self._rows.latest()
            self._other = None
            if engine != self._engine:
                self._index.clear()
                self._engine, self._loaded_at = engine, None
            # Those of images that are gone are over all that there are, too.
            known = self._index.images_between(0, np.iinfo(np.int64).max)
            end = max([await self._rows.last_image_id(), *known[-1:].tolist()])
        for low in range(0, end, _LOADED):
            high = low + _LOADED
            async with self._turn:
                gone = self._index.images_between(low, high)
                await self._read(range(low + 1, high + 1), gone)
        self._loaded_at = start
        log.info("stored faces are loaded", faces=len(self._index), engine=engine)

    async def _read(
        self, images: range | Sequence[int], gone: Sequence[int] | NDArray[np.int64]
    ) -> None:
        """Have the faces of some images in memory, in place of those of the images gone."""
        await self._rows.adopt(images)
        rows = await self._rows.encodings(images, self._engine) if self._engine else []
        await asyncio.to_thread(self._alone, self._index.replace, gone, rows)

    async def _take_events(self) -> None:
        """Read again what events tell of, until there is no new one."""
        while self._position is not None:
            found, position = await self._rows.after(self._position)
            image_ids = sorted({event.subject_id for event in found if event.kind in _OF_IMAGES})
            if image_ids:
                await self._read(image_ids, image_ids)
            self._position = position  # only now: what has failed is read again
            if len(found) < PAGE:
                return
