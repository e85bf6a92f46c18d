"""The use cases: check a backup without its key, and remove what is not kept."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from services.backup.domain import ABANDONED_SECONDS, COPIES, FILES, Summary, kept
from services.backup.ports import Archive
from services.backup.service.files import CopyIndex, for_each, read_copies

log = structlog.get_logger(__name__)


class Keeping:
    """Looks after the backups; ``folder`` is for what does not go through memory."""

    def __init__(self, *, archive: Archive, folder: Path) -> None:
        self._archive = archive
        self._folder = folder

    async def verify(self, name: str) -> Summary:
        """Read all of a backup; raises ``DamagedBackupError`` for what is not as it was written."""
        summary = await self._archive.summary(name)
        for file in FILES:
            await asyncio.to_thread(self._archive.check_file, summary, file)
        with TemporaryDirectory(dir=self._folder) as folder:
            await for_each(self._copies(summary, Path(folder)), self._archive.check_copy)
        return summary

    async def remove_old(self, newest: str, *, days: int, weeks: int) -> None:
        """Remove backups that are not kept, and copies that none of the kept ones names.

        What is younger than a day may be of one that runs. Raises ``DamagedBackupError``, and
        removes nothing, when a list of the copies of a kept one is not as it was written.
        """
        names = await self._archive.names()
        staying = kept(names, days=days, weeks=weeks) | {newest}
        begun = await self._archive.begun()
        old = begun[newest] - ABANDONED_SECONDS
        removed = 0
        with TemporaryDirectory(dir=self._folder) as folder, CopyIndex(Path(folder)) as index:
            # Before anything goes: a damaged list would let copies go that its backup names.
            for name in staying:
                summary = await self._archive.summary(name)
                await asyncio.to_thread(self._archive.check_file, summary, COPIES)
                async for copy in self._copies(summary, Path(folder)):
                    index.add(copy)
            for name, written in begun.items():
                if name in staying or (name not in names and written > old):
                    continue
                await self._archive.forget(name)
                log.info("backup removed", backup=name)
            async for info in self._archive.copies():
                if info.key not in index and info.modified < old:
                    await self._archive.remove_copy(info.key)
                    removed += 1
        log.info("copies removed that no backup names", copies=removed)

    async def _copies(self, summary: Summary, folder: Path) -> AsyncIterator[str]:
        path = folder / "list"
        with path.open("wb") as file:
            await asyncio.to_thread(self._archive.read_file, summary, COPIES, file, encrypted=False)
        for copy in read_copies(path):
            yield copy
