"""Uploads, queries, another try, and deletion."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from services.common.images import MAX_PICTURE_BYTES, PICTURES
from services.common.objects import ObjectNotFoundError, ObjectTooLargeError
from services.receiver.domain import (
    Accepted,
    Image,
    NotFoundError,
    check_retriable,
    submission_of_upload,
)
from services.receiver.service.ports import Pictures, Rows
from services.receiver.service.ringing import Ringer
from services.receiver.service.submitting import Submissions

log = structlog.get_logger(__name__)

_PICTURES_IN_MEMORY: Final = 8
"""Of up to 20 MiB each; further requests wait."""

Upload = tuple[str, Callable[[], Awaitable[bytes]]]
"""A file's name, and how to read its content."""


class Images:
    """Submitted images and their pictures."""

    def __init__(
        self, rows: Rows, pictures: Pictures, submissions: Submissions, ringer: Ringer
    ) -> None:
        self._rows = rows
        self._pictures = pictures
        self._submissions = submissions
        self._ringer = ringer
        self._memory = asyncio.Semaphore(_PICTURES_IN_MEMORY)

    async def upload(self, files: Sequence[Upload]) -> list[Accepted]:
        """Store files by their content, then their rows, all or none; the picture comes first.

        Raises ``ObjectStoreUnavailableError`` and ``DatabaseUnavailableError``.
        """
        submissions = []
        for name, read in files:
            async with self._memory:
                content = await read()
                submission = await asyncio.to_thread(submission_of_upload, name, content)
                await self._pictures.put(PICTURES + submission.path, content)
            submissions.append(submission)
        accepted = await self._submissions.submit(submissions)
        for (_, read), one in zip(files, accepted, strict=True):
            key = PICTURES + one.path
            # Somebody may have deleted an older row with this content between put and commit.
            if not one.duplicate and not await self._pictures.exists(key):
                async with self._memory:
                    await self._pictures.put(key, await read())
        return accepted

    async def get(self, image_id: int) -> Image:
        """Return an image, or raise :class:`NotFoundError`."""
        image = await self._rows.get(image_id)
        if image is None:
            raise _unknown(image_id)
        return image

    async def picture(self, image_id: int) -> bytes:
        """Return an image's file, or raise :class:`NotFoundError`."""
        path = await self._path(image_id)
        try:
            return await self._pictures.get(PICTURES + path, max_bytes=MAX_PICTURE_BYTES)
        except ObjectNotFoundError:
            raise NotFoundError(f"image {image_id} has no picture in the store") from None
        except ObjectTooLargeError as error:
            raise NotFoundError(str(error)) from None

    async def retry(self, image_id: int) -> Image:
        """Send a rejected or dead image back to pending, or raise a ``ReceiverError``."""
        done = await self._rows.retry(image_id)
        image = await self.get(image_id)
        if not done:
            check_retriable(image_id, image.status)
        log.info("tried again", image_id=image_id)
        self._ringer.ring([image_id])
        return image

    async def delete(self, image_id: int) -> None:
        """Remove picture, row and results, or raise :class:`NotFoundError`.

        The picture goes first: while the row is there, the deletion can be repeated.
        """
        path = await self._path(image_id)
        await self._pictures.delete(PICTURES + path)
        await self._rows.delete(image_id)
        log.info("deleted", image_id=image_id)

    async def _path(self, image_id: int) -> str:
        path = await self._rows.path(image_id)
        if path is None:
            raise _unknown(image_id)
        return path


def _unknown(image_id: int) -> NotFoundError:
    return NotFoundError(f"there is no image {image_id}")
