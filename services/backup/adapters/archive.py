"""Backups in a bucket or a folder, encrypted by age to a public key.

``objects/<2 digits>/<id>.<SHA-256 of what lies there>`` are copies of objects, each made once for
all backups; ``backups/<name>/`` has what a backup has beside them, its summary last.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import obstore
import pyrage
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from services.backup.domain import BackupError, DamagedBackupError, StoredFile, Summary
from services.common import folders
from services.common.errors import ObjectNotFoundError, ObjectStoreUnavailableError
from services.common.object_info import ObjectInfo
from services.common.objects import ObjectStore, open_store
from services.common.settings import ObjectStoreSettings, read_secret

if TYPE_CHECKING:
    from obstore import ReadableFile, WritableFile

_COPIES: Final = "objects/"
_BACKUPS: Final = "backups/"
_SUMMARY: Final = "summary.json"
_CHUNK: Final = 1024 * 1024


def read_recipient(text: str) -> pyrage.x25519.Recipient:
    """Return a public key; raises ``BackupError``."""
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise BackupError(
            f"BACKUP_RECIPIENT {text!r} is no public key of age ({error}): it begins with age1"
        ) from None


def read_identity(file: Path) -> pyrage.x25519.Identity:
    """Return the private key in a file of ``age-keygen``; raises ``BackupError``."""
    for line in read_secret(file).splitlines():
        if line.startswith("AGE-SECRET-KEY-"):
            try:
                return pyrage.x25519.Identity.from_str(line.strip())
            except pyrage.IdentityError:
                break
    raise BackupError(f"{file} holds no private key of age: a line AGE-SECRET-KEY-1...")


class AgeArchive:
    """A bucket or folder; to write it needs the recipient, to read the identity."""

    def __init__(
        self,
        settings: ObjectStoreSettings,
        *,
        recipient: pyrage.x25519.Recipient | None = None,
        identity: pyrage.x25519.Identity | None = None,
    ) -> None:
        self._objects = ObjectStore(settings, called="backups")
        self._store = open_store(settings)
        self._recipient = recipient
        self._identity = identity

    async def names(self) -> list[str]:
        keys = [info.key async for info in self._objects.list(_BACKUPS)]
        return sorted(key.split("/")[1] for key in keys if key.endswith(f"/{_SUMMARY}"))

    async def summary(self, name: str) -> Summary:
        try:
            content = await self._objects.get(_key(name, _SUMMARY))
            return Summary.read(json.loads(content))
        except ObjectNotFoundError:
            there = ", ".join(await self.names()) or "none"
            raise BackupError(f"there is no backup {name!r}: there are {there}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedBackupError(f"{_key(name, _SUMMARY)} is damaged: {error}") from None

    async def commit(self, summary: Summary) -> None:
        content = json.dumps(summary.written(), indent=1).encode()
        await self._objects.put(_key(summary.name, _SUMMARY), content)

    async def forget(self, name: str) -> None:
        # The summary first: without it there is no backup, whoever is killed here.
        await self._objects.delete(_key(name, _SUMMARY))
        for key in [info.key async for info in self._objects.list(f"{_BACKUPS}{name}/")]:
            await self._objects.delete(key)

    async def begun(self) -> dict[str, float]:
        found: dict[str, float] = {}
        async for info in self._objects.list(_BACKUPS):
            name = info.key.split("/")[1]
            found[name] = max(info.modified, found.get(name, 0))
        return found

    async def copies(self) -> AsyncIterator[ObjectInfo]:
        async for info in self._objects.list(_COPIES):
            yield replace(info, key=info.key.rpartition("/")[2])

    async def put_copy(self, object_id: str, content: bytes) -> str:
        encrypted = await asyncio.to_thread(pyrage.encrypt, content, [self._recipient])
        copy = f"{object_id}.{hashlib.sha256(encrypted).hexdigest()}"
        await self._objects.put(_copy_key(copy), encrypted)
        return copy

    async def get_copy(self, copy: str) -> bytes:
        encrypted = await self._checked(copy)
        with _decrypting(_copy_key(copy)):
            return bytes(await asyncio.to_thread(pyrage.decrypt, encrypted, [self._identity]))

    async def check_copy(self, copy: str) -> None:
        await self._checked(copy)

    async def remove_copy(self, copy: str) -> None:
        await self._objects.delete(_copy_key(copy))

    async def _checked(self, copy: str) -> bytes:
        key = _copy_key(copy)
        try:
            content = await self._objects.get(key)
        except ObjectNotFoundError:
            raise DamagedBackupError(f"{key} is gone, which the backup needs") from None
        if hashlib.sha256(content).hexdigest() != copy.partition(".")[2]:
            raise _damaged(key)
        return content

    def write_file(self, name: str, file: str, content: BinaryIO, *, encrypted: bool) -> StoredFile:
        with _translated():
            # Left alone it never comes to be: an object is there once its file is closed.
            target = _Hashed(obstore.open_writer(self._store, _key(name, file)))
            if encrypted:
                pyrage.encrypt_io(content, target, [self._recipient])
            else:
                while chunk := content.read(_CHUNK):
                    target.write(chunk)
            stored = target.close()
        if isinstance(self._store, LocalStore) and self._store.prefix:
            folders.sync(self._store.prefix, _key(name, file))
        return stored

    def check_file(self, summary: Summary, file: str) -> None:
        digest = hashlib.sha256()
        with _translated():
            source = _Read(obstore.open_reader(self._store, _key(summary.name, file)))
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != summary.files[file].sha256:
            raise _damaged(_key(summary.name, file))

    def read_file(self, summary: Summary, file: str, target: BinaryIO, *, encrypted: bool) -> None:
        key = _key(summary.name, file)
        with _translated():
            source = _Read(obstore.open_reader(self._store, key))
            if encrypted:
                with _decrypting(key):
                    pyrage.decrypt_io(source, target, [self._identity])
            else:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)


class _Read:
    """A file that is read, in Python's own bytes: age takes no others."""

    def __init__(self, file: "ReadableFile") -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return bytes(self._file.read(size))


class _Hashed:
    """A file that is written, and what it has by then."""

    def __init__(self, file: "WritableFile") -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, content: bytes) -> int:
        self._digest.update(content)
        self._bytes += len(content)
        self._file.write(content)
        return len(content)

    def flush(self) -> None:
        """Do nothing: parts of one size are what a store takes."""

    def close(self) -> StoredFile:
        self._file.close()
        return StoredFile(self._bytes, self._digest.hexdigest())


def _key(name: str, file: str) -> str:
    return f"{_BACKUPS}{name}/{file}"


def _copy_key(copy: str) -> str:
    return f"{_COPIES}{copy[:2]}/{copy}"


def _damaged(key: str) -> DamagedBackupError:
    return DamagedBackupError(
        f"{key} is damaged: it is not what was written there; take another backup"
        " (`list` names them)"
    )


@contextmanager
def _decrypting(key: str) -> Iterator[None]:
    try:
        yield
    except pyrage.DecryptError as error:
        raise BackupError(
            f"{key} cannot be decrypted ({error}): BACKUP_IDENTITY_FILE is not the key of its"
            " recipient, or what wrote it was another"
        ) from None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedBackupError(f"a file of the backup is gone: {error}") from None
    except (BaseError, pyrage.EncryptError) as error:
        raise ObjectStoreUnavailableError(f"backups: {error}") from error
