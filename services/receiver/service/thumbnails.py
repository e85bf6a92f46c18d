"""Small versions of pictures: made when somebody asks first, and kept in the object store.

An object holds what was made and a proof: of which picture, how, and that it is whole. One without
the right proof is made again, so losing, damaging or overwriting it costs only that.

A picture may be deleted while its thumbnail is made. The deletion has the thumbnail removed at once
and once more after an hour, when everything that was on its way has come through; so that nothing
is left for an hour, whoever has stored it looks whether the picture is still there.
"""

import asyncio
import dataclasses
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from services.common.errors import ObjectNotFoundError, ObjectStoreError, ObjectTooLargeError
from services.common.thumbnails import Thumbnail
from services.receiver.domain.errors import BusyError, InvalidError, NotFoundError
from services.receiver.ports import Garbage, Pictures, Shrinker
from services.receiver.service.images import read_picture

log = structlog.get_logger(__name__)

_HOW: Final = "1"
"""Another one makes all thumbnails anew: to be changed with what :class:`Shrinker` makes."""

_PICTURES_IN_MEMORY: Final = 2
"""Of up to 20 MiB each: one is decoded while the next is read."""

_MAX_WAITING: Final = 256

_MAX_BYTES: Final = 8 * 1024 * 1024
"""More than any has: 1600 x 1600 pixels of noise are 2 MB."""

_PROOF_BYTES: Final = hashlib.sha256().digest_size
_JPEG: Final = b"\xff\xd8"

Find = Callable[[], Awaitable[str]]
"""Returns the key of the picture as it is now, or raises :class:`NotFoundError`."""


class Thumbnails:
    """The thumbnails of all pictures."""

    def __init__(self, *, pictures: Pictures, garbage: Garbage, shrinker: Shrinker) -> None:
        self._pictures = pictures
        self._garbage = garbage
        self._shrinker = shrinker
        self._memory = asyncio.Semaphore(_PICTURES_IN_MEMORY)
        self._making: dict[tuple[str, str], asyncio.Task[tuple[bytes, str]]] = {}

    async def tag(self, thumbnail: Thumbnail, find: Find) -> str | None:
        """Return the tag of a thumbnail, made or not; None when its picture is lost."""
        tag = await self._pictures.tag(await find())
        return None if tag is None else _tag(thumbnail, tag)

    async def prepare(self, thumbnail: Thumbnail, find: Find) -> None:
        """Make a thumbnail of which nothing is kept; raise as :meth:`get`.

        Whoever waits for that waits here, where it takes nobody the place to send what is kept.
        """
        if await self._pictures.tag(thumbnail.key) is None and (
            tag := await self.tag(thumbnail, find)
        ):
            await self._made(thumbnail, tag, find)

    async def get(self, thumbnail: Thumbnail, find: Find) -> tuple[bytes, str]:
        """Return the JPEG and its tag.

        Raises :class:`NotFoundError` when there is no picture, or none that can be read,
        :class:`BusyError`, and ``ObjectStoreUnavailableError``.
        """
        tag = await self.tag(thumbnail, find)
        if tag is None:
            raise _lost()
        content = await self._kept(thumbnail, tag)
        if content is None:
            content, tag = await self._made(thumbnail, tag, find)
        if not content.startswith(_JPEG):  # but the reason why there is none
            raise NotFoundError(content.decode())
        return content, tag

    async def _kept(self, thumbnail: Thumbnail, tag: str) -> bytes | None:
        try:
            kept, _ = await self._pictures.get_tagged(thumbnail.key, max_bytes=_MAX_BYTES)
        except (ObjectNotFoundError, ObjectTooLargeError):
            return None
        except ObjectStoreError as error:  # it may be these alone that nobody may read
            log.warning("thumbnail not read", key=thumbnail.key, error=str(error))
            return None
        content = kept[:-_PROOF_BYTES]
        return content if kept == _proven(content, tag) else None

    async def _made(self, thumbnail: Thumbnail, tag: str, find: Find) -> tuple[bytes, str]:
        task = self._making.get((thumbnail.key, tag))
        if task is None:
            if len(self._making) >= _MAX_WAITING:
                raise BusyError("too many thumbnails are being made")
            # Its own task: a client that goes away does not take it from the others.
            task = self._making[thumbnail.key, tag] = asyncio.create_task(
                self._make(thumbnail, find)
            )

            def forget(done: asyncio.Task[tuple[bytes, str]]) -> None:
                del self._making[thumbnail.key, tag]
                if not done.cancelled():
                    done.exception()  # whoever waited for it has gone

            task.add_done_callback(forget)
        return await asyncio.shield(task)

    async def _make(self, thumbnail: Thumbnail, find: Find) -> tuple[bytes, str]:
        async with self._memory:
            picture, its_tag = await read_picture(self._pictures, await find(), _lost())
            try:
                content = await (
                    self._shrinker.shrink(picture, thumbnail.side)
                    if thumbnail.box is None
                    else self._shrinker.shrink_face(picture, thumbnail.box, thumbnail.side)
                )
            except InvalidError as error:
                content = str(error).encode()
        tag = _tag(thumbnail, its_tag)
        try:
            await self._pictures.put(thumbnail.key, _proven(content, tag))
        except ObjectStoreError as error:
            log.warning("thumbnail not kept", key=thumbnail.key, error=str(error))
        try:
            await find()
        except NotFoundError:
            await self._garbage.discard(thumbnail.key)
            raise
        return content, tag


def _tag(thumbnail: Thumbnail, picture_tag: str) -> str:
    box = () if thumbnail.box is None else map(str, dataclasses.astuple(thumbnail.box))
    return hashlib.sha256(
        "\0".join((_HOW, str(thumbnail.side), picture_tag, *box)).encode()
    ).hexdigest()


def _proven(content: bytes, tag: str) -> bytes:
    return content + hashlib.sha256(content + tag.encode()).digest()


def _lost() -> NotFoundError:
    return NotFoundError("the picture is not in the store")
