"""The use case: bring everything back to where there is nothing.

All files are checked before anything is written, and each object is before it is. The rows come
last: whoever is killed before leaves nothing that a service would take for its data, and may be run
again.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import structlog

from services.backup.domain import DUMP, FILES, MANIFEST, BackupError, Entry, Summary
from services.backup.ports import Archive, Objects, Retag, WholeDatabase
from services.backup.service.files import for_each, read_manifest

log = structlog.get_logger(__name__)


class Restoring:
    """Restores a backup; ``folder`` is for what does not go through memory."""

    def __init__(
        self, *, database: WholeDatabase, objects: Objects, archive: Archive, folder: Path
    ) -> None:
        self._database = database
        self._objects = objects
        self._archive = archive
        self._folder = folder

    async def check(self, name: str) -> Summary:
        """Raise what :meth:`restore` would before it writes anything."""
        with TemporaryDirectory(dir=self._folder) as folder:
            return await self._checked(name, Path(folder) / "manifest")

    async def _checked(self, name: str, manifest: Path) -> Summary:
        summary = await self._archive.summary(name)
        if summary.database != self._database.kind:
            raise BackupError(
                f"backup {name} is of {summary.database}, and DATABASE_URL is of"
                f" {self._database.kind}: rows go back to where they are from"
            )
        if summary.revision > self._database.known_revision:
            raise BackupError(
                f"backup {name} is of revision {summary.revision} of the schema, and this version"
                f" knows {self._database.known_revision} and those before: restore it with the"
                " version that took it, or a newer one"
            )
        await self._database.check_empty()
        for file in FILES:
            await asyncio.to_thread(self._archive.check_file, summary, file)
        with manifest.open("wb") as target:
            await asyncio.to_thread(
                self._archive.read_file, summary, MANIFEST, target, encrypted=True
            )
        return summary

    async def restore(self, name: str) -> Summary:
        """Restore one; raises ``BackupError`` when it cannot be done, and says why."""
        with TemporaryDirectory(dir=self._folder) as folder:
            manifest = Path(folder) / "manifest"
            summary = await self._checked(name, manifest)
            await self._database.claim()
            retags = Path(folder) / "retags"
            with retags.open("w") as changed:
                await self._put_back(manifest, changed)
            log.info("objects are back", objects=summary.objects)
            await asyncio.to_thread(self._load, summary)
            with retags.open() as changed:
                await self._database.finish(Retag(*json.loads(line)) for line in changed)
        log.info("restored", backup=name, objects=summary.objects, bytes=summary.bytes)
        return summary

    async def _put_back(self, manifest: Path, changed: TextIO) -> None:
        async def entries() -> AsyncIterator[Entry]:
            for entry in read_manifest(manifest):
                yield entry

        async def one(entry: Entry) -> None:
            if await self._objects.tag(entry.key) == entry.tag:
                return  # by the run before that was killed
            await self._objects.put(entry.key, await self._archive.get_copy(entry.copy))
            tag = await self._objects.tag(entry.key)
            if tag != entry.tag:
                changed.write(f"{json.dumps([entry.key, entry.tag, tag])}\n")

        await for_each(entries(), one)

    def _load(self, summary: Summary) -> None:
        with self._database.load() as target:
            self._archive.read_file(summary, DUMP, target, encrypted=True)
