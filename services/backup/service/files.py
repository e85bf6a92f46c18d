"""What goes through files, since it would not fit into memory, and how many objects at once."""

import asyncio
import gzip
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final, Self, TextIO, TypeVar

from services.backup.domain import Entry

_AT_ONCE: Final = 4
"""Objects in memory at once, each twice, of 20 MiB at most."""

T = TypeVar("T")


async def for_each(items: AsyncIterator[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for every item, of a few at once; raises what went wrong first."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(item: T) -> None:
        try:
            await work(item)
        finally:
            free.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for item in items:
                await free.acquire()
                group.create_task(one(item))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


class CopyIndex:
    """Names of copies, which begin with the id of their object, in a file."""

    def __init__(self, folder: Path) -> None:
        self._file = sqlite3.connect(folder / "copies.db")
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("CREATE TABLE copies (name TEXT PRIMARY KEY) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, copy: str) -> None:
        """Add a name."""
        self._file.execute("INSERT OR IGNORE INTO copies VALUES (?)", (copy,))

    def find(self, object_id: str) -> str | None:
        """Return the name of a copy of the object."""
        query = "SELECT name FROM copies WHERE name BETWEEN ? AND ? LIMIT 1"
        found = self._file.execute(query, (f"{object_id}.", f"{object_id}/")).fetchone()
        return found and str(found[0])

    def __contains__(self, copy: str) -> bool:
        query = "SELECT 1 FROM copies WHERE name = ?"
        return self._file.execute(query, (copy,)).fetchone() is not None


class ManifestWriter:
    """Writes the manifest, and the list of copies, which needs no key to be read."""

    def __init__(self, manifest: TextIO, copies: TextIO) -> None:
        self._manifest = manifest
        self._copies = copies
        self.objects = 0
        self.bytes = 0

    def add(self, entry: Entry) -> None:
        """Add an object."""
        self._manifest.write(f"{json.dumps(asdict(entry))}\n")
        self._copies.write(f"{entry.copy}\n")
        self.objects += 1
        self.bytes += entry.size


@contextmanager
def writing_manifest(manifest: Path, copies: Path) -> Iterator[ManifestWriter]:
    """Write both to files, packed."""
    with (
        gzip.open(manifest, "wt", compresslevel=1) as one,
        gzip.open(copies, "wt", compresslevel=1) as other,
    ):
        yield ManifestWriter(one, other)


def read_manifest(file: Path) -> Iterator[Entry]:
    """Yield what a :class:`ManifestWriter` has written."""
    with gzip.open(file, "rt") as lines:
        for line in lines:
            yield Entry(**json.loads(line))


def read_copies(file: Path) -> Iterator[str]:
    """Yield the names that a :class:`ManifestWriter` has written."""
    with gzip.open(file, "rt") as lines:
        for line in lines:
            yield line.rstrip()
