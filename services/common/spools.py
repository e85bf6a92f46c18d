"""Bytes that arrive and are many: on disk, of which all together take no more than a limit."""

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import IO, Final, cast

import structlog
from starlette.exceptions import HTTPException

from services.common.door import RETRY_AFTER

log = structlog.get_logger(__name__)

MEMORY_BYTES: Final = 128 * 1024
"""Of one body; what is larger goes to disk in pieces of this size."""

_WHOLE_AT_ONCE: Final = 2
"""Bodies that were too large for memory and are needed there, a few MB of JSON each."""


class Spools:
    """Disk space for all bodies together."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self.whole = asyncio.Semaphore(_WHOLE_AT_ONCE)
        """To be held while a body that was too large for memory is in memory."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Spool"]:
        """Hold a spool, which is empty, until the end of the block."""
        spool = Spool(self)
        try:
            yield spool
        finally:
            await spool.close()

    def take(self, size: int) -> None:
        """Reserve space, or raise ``HTTPException`` with 503."""
        if size > self._left:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too many uploads arrive at once, there is no space for another",
                headers=RETRY_AFTER,
            )
        self._left -= size

    def give(self, size: int) -> None:
        """Return space."""
        self._left += size


class Spool:
    """Bytes that arrive: in memory while they are few, then in a file that has no name.

    One task at a time may use it.
    """

    def __init__(self, spools: Spools) -> None:
        self._spools = spools
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        # A task that is cancelled leaves its thread behind, which must not find the file closed,
        # or its number given to a connection.
        self._lock = threading.Lock()
        self._on_disk = 0
        self._reserved = 0

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return self._on_disk + len(self._memory)

    async def write(self, data: bytes) -> None:
        """Append; raises ``HTTPException`` with 503 when there is no space."""
        self._memory += data
        if len(self._memory) > MEMORY_BYTES:
            await self._flush()

    async def read(self, start: int, size: int) -> bytes:
        """Return bytes that were written."""
        if self._file is None:
            return bytes(self._memory[start : start + size])
        await self._flush()
        return await asyncio.to_thread(self._read, start, size)

    async def pieces(self, start: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        """Yield ``size`` bytes in order, or all that follow."""
        end = self.size if size is None else start + size
        for at in range(start, end, MEMORY_BYTES):
            yield await self.read(at, min(MEMORY_BYTES, end - at))

    async def close(self) -> None:
        """Give memory and space back."""
        self._memory = bytearray()
        if self._reserved:
            try:
                await asyncio.to_thread(self._close)
            finally:
                self._spools.give(self._reserved)

    async def _flush(self) -> None:
        if not self._memory:
            return
        data, self._memory = self._memory, bytearray()
        self._spools.take(len(data))
        self._reserved += len(data)
        try:
            await asyncio.to_thread(self._append, data)
        except OSError as error:
            log.warning("cannot keep a body on disk", error=str(error))
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the disk on which uploads arrive is full or broken",
                headers=RETRY_AFTER,
            ) from None
        self._on_disk += len(data)

    def _append(self, data: bytearray) -> None:
        with self._lock:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115, close() closes it
            self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()

    def _read(self, start: int, size: int) -> bytes:
        with self._lock:
            file = cast("IO[bytes]", self._file)
            file.seek(start)
            return file.read(size)

    def _close(self) -> None:
        with self._lock:
            if self._file:
                self._file.close()
