"""What the use cases need. Every call but those on files raises ``AwayError``."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import BinaryIO, NamedTuple, Protocol

from services.backup.domain import StoredFile, Summary
from services.common.object_info import ObjectInfo


class Retag(NamedTuple):
    """An object that has another tag in the store to which it was restored."""

    key: str
    old: str
    new: str


class BackupRows(Protocol):
    """What the database says of backups."""

    async def begin(self, name: str) -> None:
        """Note that one begins."""

    def holding(self, name: str) -> AbstractAsyncContextManager[None]:
        """Have no object removed meanwhile; raises ``BackupError`` at the end if one may be."""

    async def end(self, name: str, summary: Summary | None, error: str | None) -> None:
        """Note how it ended."""


class WholeDatabase(Protocol):
    """All rows of a database; :meth:`dump` and :meth:`load` block."""

    @property
    def kind(self) -> str:
        """Its dialect."""

    @property
    def known_revision(self) -> str:
        """That of the schema which this version works on."""

    async def revision(self) -> str:
        """Return that of its schema."""

    async def used(self) -> list[str]:
        """Return the tables with rows that somebody made; none if a restore of them did not end."""

    def dump(self) -> AbstractContextManager[BinaryIO]:
        """Give the rows of one moment, packed; raises ``BackupError`` at the end if it failed."""

    async def check_empty(self) -> None:
        """Raise ``BackupError`` if it holds what no restore has left."""

    async def claim(self) -> None:
        """Empty it for a restore; raises ``BackupError`` if it holds what no restore has left."""

    def load(self) -> AbstractContextManager[BinaryIO]:
        """Take what a dump gave; raises ``BackupError`` at the end if it failed."""

    async def finish(self, retags: Iterable[Retag]) -> None:
        """End a restore."""


class Objects(Protocol):
    """The pictures."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object below the prefix."""

    async def get_tagged(self, key: str, *, max_bytes: int | None = None) -> tuple[bytes, str]:
        """Return an object's content and tag."""

    async def tag(self, key: str) -> str | None:
        """Return an object's tag; None where there is none."""

    async def put(self, key: str, content: bytes) -> None:
        """Create or replace an object."""


class Archive(Protocol):
    """Where backups are; calls on files block. What is damaged raises ``DamagedBackupError``."""

    async def names(self) -> list[str]:
        """Return the backups that ended well, the oldest first."""

    async def summary(self, name: str) -> Summary:
        """Return what is known of one; raises ``BackupError`` where there is none."""

    async def commit(self, summary: Summary) -> None:
        """Say that a backup has ended well."""

    async def forget(self, name: str) -> None:
        """Remove a backup, but no copy of an object."""

    async def begun(self) -> dict[str, float]:
        """Return also those that did not end, and when each was written to last.

        In seconds since the epoch by the archive's clock.
        """

    def copies(self) -> AsyncIterator[ObjectInfo]:
        """Yield each copy of an object, by its name as key."""

    async def put_copy(self, object_id: str, content: bytes) -> str:
        """Write an encrypted copy; return its name."""

    async def get_copy(self, copy: str) -> bytes:
        """Return what was copied."""

    async def check_copy(self, copy: str) -> None:
        """Read a copy without the key."""

    async def remove_copy(self, copy: str) -> None:
        """Remove a copy."""

    def write_file(self, name: str, file: str, content: BinaryIO, *, encrypted: bool) -> StoredFile:
        """Write a file of a backup, while its content is read."""

    def check_file(self, summary: Summary, file: str) -> None:
        """Read a file without the key."""

    def read_file(self, summary: Summary, file: str, target: BinaryIO, *, encrypted: bool) -> None:
        """Write what a file holds to the target."""
