"""The ports of a processor in memory."""

import asyncio
from collections import deque
from collections.abc import Callable

from services.common.errors import (
    ObjectNotFoundError,
    ObjectRefusedError,
    ObjectStoreUnavailableError,
    RecogniserBusyError,
    RecogniserFailedError,
    RecogniserTimeoutError,
    RecogniserUnavailableError,
)
from services.image_processor.domain import Processed, Rejected
from services.testing.recogniser import TWO_FACES, PictureContent


class MemoryRing:
    def __init__(self, queue: "MemoryQueue", image_id: int) -> None:
        self._queue = queue
        self.image_id = image_id

    def touch(self) -> None:
        self._queue.touched.append(self.image_id)

    def finish(self) -> None:
        self._queue.taken.remove(self)
        self._queue.finished.append(self.image_id)

    def requeue(self, delay: float) -> None:
        self._queue.taken.remove(self)
        self._queue.requeued.append(self.image_id)
        asyncio.get_running_loop().call_later(delay, self._queue.put, self.image_id)


class Backlog(deque[int]):
    """Rings that wait, and who waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[asyncio.Event] = []


class MemoryQueue:
    """Rings of images; several queues may share a backlog."""

    def __init__(self, backlog: Backlog | None = None) -> None:
        self.ids = Backlog() if backlog is None else backlog
        self.taken: list[MemoryRing] = []
        self.finished: list[int] = []
        self.requeued: list[int] = []
        self.touched: list[int] = []
        self.paused = False
        self.in_flight = 0
        self._stopped = False
        self._changed = asyncio.Event()
        self.ids.listeners.append(self._changed)

    def put(self, *image_ids: int) -> None:
        self.ids.extend(image_ids)
        for listener in self.ids.listeners:
            listener.set()

    async def take(self) -> MemoryRing | None:
        while not self._stopped:
            if self.ids and not self.paused:
                ring = MemoryRing(self, self.ids.popleft())
                self.taken.append(ring)
                return ring
            self._changed.clear()
            await self._changed.wait()
        return None

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._changed.set()

    def resize(self, in_flight: int) -> None:
        self.in_flight = in_flight

    def stop(self) -> None:
        self._stopped = True
        self._changed.set()

    async def close(self) -> None:
        self.stop()
        for ring in list(self.taken):
            ring.requeue(0)


class FakeRecogniser:
    """Answers as ``RecogniserServer`` does, but for two more pictures.

    ``up = False``: nobody there.
    ``hung``: it is there, but neither pictures nor pings are answered in time.
    """

    LONG = b"long"
    """As ``PictureContent.UNFINISHED``, and needs long, as it says itself."""
    CRASH = b"crash"
    """Takes the whole recogniser down for a moment."""

    def __init__(self) -> None:
        self.up = True
        self.hung = False
        self.release = asyncio.Event()
        self.working = 0
        self.image_ids: list[int] = []

    async def identify(
        self, picture: bytes, image_id: int, on_long: Callable[[], None]
    ) -> Processed | Rejected:
        self.image_ids.append(image_id)
        if not self.up:
            raise RecogniserUnavailableError("nobody there")
        if self.hung:
            raise RecogniserTimeoutError("no answer")
        self.working += 1
        if picture == self.LONG:
            on_long()
        try:
            return await self._answer(picture)
        finally:
            self.working -= 1

    async def ping(self) -> bool:
        return self.up and not self.hung

    async def _answer(self, picture: bytes) -> Processed | Rejected:
        match picture:
            case PictureContent.UNFINISHED | self.LONG:
                await self.release.wait()
            case PictureContent.UNREADABLE:
                return Rejected("it is no picture")
            case PictureContent.UNANSWERED:
                raise RecogniserTimeoutError("no answer")
            case self.CRASH:
                raise RecogniserUnavailableError("connection reset")
            case PictureContent.FOR_A_BUSY_ONE:
                raise RecogniserBusyError("queue is full")
            case PictureContent.FATAL:
                raise RecogniserFailedError("the worker died")
            case PictureContent.NO_FACE:
                return Processed((), 100, 90, "test-1")
        return Processed(TWO_FACES, 100, 90, "test-1", calibration=3)


class FakePictures:
    """An object store; ``up = False``: it does not answer.

    What is in ``damaged`` cannot be read, although the store answers; what is in ``refused`` is no
    key for it.
    """

    def __init__(self) -> None:
        self.up = True
        self.objects: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self.refused: set[str] = set()

    async def check(self) -> None:
        if not self.up:
            raise ObjectStoreUnavailableError("no answer")

    async def get_tagged(self, key: str, *, max_bytes: int | None = None) -> tuple[bytes, str]:
        await self.check()
        if key in self.damaged:
            raise ObjectStoreUnavailableError("input/output error")
        if key in self.refused:
            raise ObjectRefusedError(f"{key}: your key is too long")
        tag = await self.tag(key)
        if tag is None:
            raise ObjectNotFoundError(key)
        return self.objects[key], tag

    async def tag(self, key: str) -> str | None:
        await self.check()
        return self.objects[key].hex() if key in self.objects else None
