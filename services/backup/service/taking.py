"""The use case: take a backup in which every row finds its object.

Objects of uploads and enrolments are written once, before the row that names them, and the redeemer
alone removes them, after that row is gone. So the dump's rows find theirs if nothing is removed
from before the dump until what the store holds after it is copied. Most is copied before, and the
redeemer waits only for the dump and for what came meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from services.backup.domain import (
    COPIES,
    DUMP,
    MANIFEST,
    WANTED,
    BackupError,
    DamagedBackupError,
    Entry,
    StoredFile,
    Summary,
    object_id,
)
from services.backup.ports import Archive, BackupRows, Objects, WholeDatabase
from services.backup.service.files import CopyIndex, ManifestWriter, for_each, writing_manifest
from services.common.errors import AwayError, ObjectNotFoundError, ObjectTooLargeError
from services.common.object_info import ObjectInfo
from services.common.picture_formats import MAX_PICTURE_BYTES

log = structlog.get_logger(__name__)


class Taking:
    """Takes backups; ``folder`` is for what does not go through memory."""

    def __init__(
        self,
        *,
        rows: BackupRows,
        database: WholeDatabase,
        objects: Objects,
        archive: Archive,
        folder: Path,
    ) -> None:
        self._rows = rows
        self._database = database
        self._objects = objects
        self._archive = archive
        self._folder = folder

    async def take(self, name: str) -> Summary:
        """Take one, and note how it ended."""
        await self._rows.begin(name)
        try:
            with TemporaryDirectory(dir=self._folder) as folder:
                summary = await self._take(name, Path(folder))
        except BaseException as error:
            with suppress(AwayError):
                await self._rows.end(name, None, str(error) or "it was ended")
            raise
        await self._rows.end(name, summary, None)
        log.info("backup taken", backup=name, objects=summary.objects, bytes=summary.bytes)
        return summary

    async def _check_archive(self, name: str) -> None:
        """Raise ``BackupError`` if this backup would stand for others that hold more."""
        names = await self._archive.names()
        if names and names[-1] >= name:
            raise BackupError(
                f"backup {names[-1]} is not older than {name}, which begins now: the clock is or"
                " was wrong, or another cluster has the same bucket, where each needs its own. Put"
                f" that right; if it was the clock, remove backups/{names[-1]} from the bucket"
            )
        if await self._database.used():
            return
        for other in reversed(names):
            with suppress(DamagedBackupError):
                if objects := (await self._archive.summary(other)).objects:
                    raise BackupError(
                        f"the database is empty, and backup {other} has {objects} objects: restore"
                        " it, or name another bucket if all of that was deleted on purpose"
                    )

    async def _take(self, name: str, folder: Path) -> Summary:
        await self._check_archive(name)
        manifest, copies = folder / "manifest", folder / "copies"
        with CopyIndex(folder) as index, writing_manifest(manifest, copies) as written:
            async for copy in self._archive.copies():
                index.add(copy.key)
            await self._copy(index, None)
            async with self._rows.holding(name):
                revision = await self._database.revision()
                dump = await asyncio.to_thread(self._dump, name)
                await self._copy(index, written)
        summary = Summary(
            name=name,
            database=self._database.kind,
            revision=revision,
            objects=written.objects,
            bytes=written.bytes,
            files={
                DUMP: dump,
                MANIFEST: await asyncio.to_thread(self._file, name, MANIFEST, manifest),
                COPIES: await asyncio.to_thread(self._file, name, COPIES, copies),
            },
        )
        await self._archive.commit(summary)
        return summary

    def _dump(self, name: str) -> StoredFile:
        with self._database.dump() as rows:
            return self._archive.write_file(name, DUMP, rows, encrypted=True)

    def _file(self, name: str, file: str, path: Path) -> StoredFile:
        with path.open("rb") as content:
            return self._archive.write_file(name, file, content, encrypted=file != COPIES)

    async def _copy(self, index: CopyIndex, written: ManifestWriter | None) -> None:
        """Copy all objects of which there is no copy yet, and write down what there is."""

        async def one(info: ObjectInfo) -> None:
            copy = index.find(object_id(info))
            if copy is None:
                try:
                    content, tag = await self._objects.get_tagged(
                        info.key, max_bytes=MAX_PICTURE_BYTES
                    )
                except ObjectNotFoundError:  # no row needs it, or somebody took it away by hand
                    return
                except ObjectTooLargeError as error:
                    log.warning("left out: no picture is so large", error=str(error))
                    return
                info = replace(info, tag=tag, size=len(content))
                copy = await self._archive.put_copy(object_id(info), content)
                index.add(copy)
            if written:
                written.add(Entry(info.key, info.tag, info.size, copy))

        await for_each(self._wanted(), one)

    async def _wanted(self) -> AsyncIterator[ObjectInfo]:
        for prefix in WANTED:
            async for info in self._objects.list(prefix):
                yield info
