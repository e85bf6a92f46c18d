"""The object store: a folder on one machine, S3 in a cluster, both through obstore."""

import asyncio
import errno
import re
from collections.abc import AsyncIterator, Container, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, InvalidPathError, NotSupportedError
from obstore.store import LocalStore, S3Store

from services.common import folders
from services.common.errors import (
    ObjectNotFoundError,
    ObjectRefusedError,
    ObjectStoreUnavailableError,
    ObjectTooLargeError,
)
from services.common.object_info import ObjectInfo
from services.common.settings import ObjectStoreSettings, read_secret

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, S3Config

_CONNECT_TIMEOUT: Final = "3s"
_LISTED_AT_ONCE: Final = 1000
"""As many as S3 lists in one answer."""

# obstore keeps the system's error number and S3's code in its text alone.
_ERRNO: Final = re.compile(r"\(os error (\d+)\)")
_S3_CODE: Final = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")
_CERTIFICATE: Final = re.compile(r"InvalidCertificate\(\s*(\w+)")
_REFUSED_ERRNOS: Final = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP})
_NO_FILE_ERRNOS: Final = frozenset({errno.ENOTDIR, errno.EISDIR})
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; the last three are of stores
# on a file system, where a key cannot be a folder of another one.
_REFUSED_CODES: Final = frozenset(
    {"KeyTooLongError", "InvalidURI", "RequestHeaderSectionTooLarge"}
    | {"XMinioInvalidObjectName", "ObjectParentIsFile", "ExistingObjectIsDirectory"}
)
_NO_BUCKET: Final = "NoSuchBucket"


class ObjectStore:
    """One folder or bucket.

    Keys are relative, ``/``-separated and hold any character but control characters. Every call
    raises :class:`ObjectStoreUnavailableError` when it may work later. Of a key that no object can
    have :meth:`get` and :meth:`put` raise :class:`ObjectRefusedError`; to the others it is the key
    of none.

    Objects are read whole, not as obstore's streams or ranges: they have 20 MiB at most, all but
    one of their readers need them whole, and what breaks off in a response cannot be told any more.
    """

    def __init__(self, settings: ObjectStoreSettings, *, called: str = "object store") -> None:
        self._called = called
        self._store = open_store(settings)
        self._folder = self._store.prefix if isinstance(self._store, LocalStore) else None

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """Return the object's content, or raise :class:`ObjectNotFoundError`.

        An object of more than ``max_bytes`` is not read: :class:`ObjectTooLargeError`.
        """
        content, _ = await self.get_tagged(key, max_bytes=max_bytes)
        return content

    async def get_tagged(self, key: str, *, max_bytes: int | None = None) -> tuple[bytes, str]:
        """Return as :meth:`get` does, and the tag of that very content."""
        with self._translated(key):
            await self._check(key)
            result = await obstore.get_async(self._store, key)
            size = result.meta["size"]
            if max_bytes is not None and size > max_bytes:
                raise ObjectTooLargeError(f"{key} has {size} bytes, the limit is {max_bytes}")
            return bytes(await result.bytes_async()), _tag(result.meta)

    async def put(self, key: str, content: bytes) -> None:
        """Create or replace an object; a reader sees the old or the new one, never a part."""
        with self._translated(key, writing=True):
            await obstore.put_async(self._store, key, content)
            if self._folder:
                await asyncio.to_thread(folders.sync, self._folder, key)

    async def exists(self, key: str) -> bool:
        """Tell whether an object has this key."""
        return await self.tag(key) is not None

    async def tag(self, key: str) -> str | None:
        """Return the object's tag, which changes with it; ``None`` when no object has this key."""
        try:
            with self._translated(key):
                await self._check(key)
                return _tag(await obstore.head_async(self._store, key))
        except (ObjectNotFoundError, ObjectRefusedError):
            return None

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        try:
            with self._translated(key):
                await obstore.delete_async(self._store, key)
        except ObjectNotFoundError:
            pass
        except ObjectRefusedError:
            return
        if self._folder:
            await asyncio.to_thread(folders.prune, self._folder, key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object below the prefix, which ends in ``/``, in no order."""
        with self._translated(prefix):
            if self._folder:
                for number, info in enumerate(
                    await asyncio.to_thread(_files, self._folder, prefix)
                ):
                    yield info
                    if number % _LISTED_AT_ONCE == 0:
                        await asyncio.sleep(0)  # who takes 100,000 is not alone in the loop
                return
            async for chunk in obstore.list(self._store, prefix.rstrip("/")):
                for meta in chunk:
                    modified = meta["last_modified"].timestamp()
                    yield ObjectInfo(meta["path"], meta["size"], _tag(meta), modified)

    async def new_folders(self, prefix: str, known: Container[str]) -> dict[str, int]:
        """Return the names of folders right below the prefix, which ends in ``/``, but the known.

        Each with a number that changes when objects come into it. A server has no folders, and
        none is returned: finding them would take as long as :meth:`list`.
        """
        if self._folder is None:
            return {}
        return await asyncio.to_thread(folders.find_new, self._folder, prefix, known)

    async def check(self) -> None:
        """Raise if the store does not answer, or is not there."""
        # Asked for its head alone, S3 does not say whether object or bucket is missing.
        with suppress(ObjectNotFoundError, ObjectTooLargeError):
            await self.get("readiness", max_bytes=0)

    async def _check(self, key: str) -> None:
        if self._folder:
            await asyncio.to_thread(folders.check_file, self._folder, key)

    @contextmanager
    def _translated(self, key: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            # Nothing is missing but the store itself: the bucket, or the folder.
            if writing or _NO_BUCKET in str(error) or (self._folder and not self._folder.is_dir()):
                raise ObjectStoreUnavailableError(self._said(key, error)) from error
            raise ObjectNotFoundError(key) from error
        except (InvalidPathError, NotSupportedError, ValueError, TypeError) as error:
            raise ObjectRefusedError(self._said(key, error)) from error
        except (BaseError, OSError) as error:
            found = _ERRNO.search(str(error))
            number = int(found[1]) if found else None
            code = _S3_CODE.search(str(error))
            is_refused = code is not None and not _REFUSED_CODES.isdisjoint(code.groups())
            if number in _NO_FILE_ERRNOS and not writing:
                raise ObjectNotFoundError(key) from error
            if number in _REFUSED_ERRNOS | _NO_FILE_ERRNOS or is_refused:
                raise ObjectRefusedError(self._said(key, error)) from error
            raise ObjectStoreUnavailableError(self._said(key, error)) from error

    def _said(self, key: str, error: Exception) -> str:
        return f"{self._called}: {key}: {_reason(error)}"


def _reason(error: Exception) -> str:
    # Below the first line obstore prints its own structures: why TLS failed stands there alone.
    summary, _, structures = str(error).partition("\n")
    refused = _CERTIFICATE.search(structures)
    return f"{summary}: the server's certificate is not taken, {refused[1]}" if refused else summary


def _files(folder: Path, prefix: str) -> list[ObjectInfo]:
    return [
        # The tag is the one that obstore gives a file.
        ObjectInfo(
            key,
            file.st_size,
            f'"{file.st_ino:x}-{file.st_mtime_ns // 1000:x}-{file.st_size:x}"',
            file.st_mtime,
        )
        for key, file in folders.walk(folder, prefix)
    ]


def _tag(meta: "ObjectMeta") -> str:
    return meta["e_tag"] or meta["last_modified"].isoformat()


def open_store(settings: ObjectStoreSettings) -> LocalStore | S3Store:
    """Return obstore's own store, or end the process when a folder cannot be made."""
    url = urlsplit(settings.object_store_url)
    if url.scheme == "file":
        folder = Path(unquote(url.path))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemExit(
                f"OBJECT_STORE_URL: cannot make the folder {folder}: {error.strerror}"
            ) from None
        return LocalStore(folder)
    endpoint = settings.s3_endpoint
    config: S3Config = {
        "region": settings.s3_region,
        "virtual_hosted_style_request": endpoint is None,
    }
    if endpoint:
        config["endpoint"] = endpoint
    if settings.s3_access_key_id_file and settings.s3_secret_access_key_file:
        config["access_key_id"] = read_secret(settings.s3_access_key_id_file)
        config["secret_access_key"] = read_secret(settings.s3_secret_access_key_file)
    client: ClientConfig = {
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "connect_timeout": _CONNECT_TIMEOUT,
        "timeout": f"{settings.object_store_timeout_seconds}s",
    }
    if settings.s3_ca_file:
        client["root_certificate"] = settings.s3_ca_file.read_bytes()
    return S3Store(
        url.netloc,
        config=config,
        client_options=client,
        # Once more for a connection that broke; all other patience is the caller's own.
        retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=3)},
    )
