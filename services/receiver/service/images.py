"""Uploads, queries, another try, and deletion."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from services.common.errors import (
    ObjectNotFoundError,
    ObjectStoreUnavailableError,
    ObjectTooLargeError,
)
from services.common.faces import Box
from services.common.object_keys import PICTURES
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.stored_pictures import StoredPicture, removal_of
from services.receiver.domain.errors import ConflictError, NotFoundError
from services.receiver.domain.faces import no_face
from services.receiver.domain.images import Image, check_recognisable, check_retriable
from services.receiver.domain.objects import StoredFace
from services.receiver.domain.submissions import Accepted, Upload, upload_of
from services.receiver.ports import Garbage, ImageRows, Pictures
from services.receiver.service.ringing import Ringer
from services.receiver.service.submitting import Submissions

log = structlog.get_logger(__name__)

_PICTURES_IN_MEMORY: Final = 8
"""Of up to 20 MiB each; further requests wait."""

File = tuple[str, Callable[[], Awaitable[bytes]]]
"""A file's name, and how to read its content."""


class Images:
    """Submitted images and their pictures."""

    def __init__(
        self,
        rows: ImageRows,
        garbage: Garbage,
        pictures: Pictures,
        submissions: Submissions,
        ringer: Ringer,
    ) -> None:
        self._rows = rows
        self._garbage = garbage
        self._pictures = pictures
        self._submissions = submissions
        self._ringer = ringer
        self._memory = asyncio.Semaphore(_PICTURES_IN_MEMORY)

    async def upload(self, files: Sequence[File]) -> list[Accepted]:
        """Store files, then a row for each content, all or none.

        An object is noted before it is stored, so the redeemer finds what gets no row. Raises
        ``ObjectStoreUnavailableError`` and ``DatabaseUnavailableError``.
        """
        uploads = []
        for name, read in files:
            async with self._memory:
                content = await read()
                upload = await asyncio.to_thread(upload_of, name, content)
                await self._garbage.expect(PICTURES + upload.path)
                await self._pictures.put(PICTURES + upload.path, content)
            uploads.append(upload)
        accepted = await self._rows.add_uploads(uploads)
        if accepted is None:
            raise took_too_long()
        self._submissions.announce(accepted)
        return [await self._checked(*pair) for pair in zip(uploads, accepted, strict=True)]

    async def _checked(self, upload: Upload, accepted: Accepted) -> Accepted:
        """Make the upload the picture of its row when that has lost its own.

        It was removed by hand, or the store restored from an older backup than the database.
        """
        if accepted.path == upload.path or await self._pictures.exists(PICTURES + accepted.path):
            return accepted
        found = await self._rows.replace_object(accepted, upload)
        if found is None:
            raise took_too_long()
        log.warning("the picture was lost and is stored again", image_id=found.id)
        self._ringer.ring([found.id])
        return found

    async def get(self, image_id: int) -> Image:
        """Return an image, or raise :class:`NotFoundError`."""
        image = await self._rows.get(image_id)
        if image is None:
            raise _unknown(image_id)
        return image

    async def picture(self, image_id: int) -> tuple[bytes, str]:
        """Return an image's file and its tag, or raise :class:`NotFoundError`."""
        return await self._content(image_id, (await self._stored(image_id)).path)

    async def picture_key(self, image_id: int) -> str:
        """Return the key of an image's file, or raise :class:`NotFoundError`."""
        return PICTURES + (await self._stored(image_id)).path

    async def face_box(self, image_id: int, index: int) -> Box:
        """Return where a face is in its image's picture, or raise :class:`NotFoundError`."""
        return (await self._stored_face(image_id, index)).box

    async def face_picture_key(self, image_id: int, index: int, box: Box) -> str:
        """Return the key of the file that shows a face there, or raise :class:`NotFoundError`."""
        face = await self._stored_face(image_id, index)
        key = PICTURES + face.picture.path
        if face.box != box or face.picture.tag not in (None, await self._pictures.tag(key)):
            raise NotFoundError(f"face {index} of image {image_id} is not there any more")
        return key

    async def picture_tag(self, image_id: int) -> str | None:
        """Return the tag of an image's file, None when it is lost, or raise as :meth:`picture`."""
        return await self._pictures.tag(await self.picture_key(image_id))

    async def picture_of_result(self, image: Image) -> bytes:
        """Return the file that an image's result is about, or raise a ``RefusedError``."""
        content, tag = await self._content(image.id, image.path)
        if image.tag not in (None, tag):
            raise ConflictError(
                f"the picture {image.path} has changed since image {image.id} was looked at:"
                " submit the path again, and name a face of the new result"
            )
        return content

    async def _content(self, image_id: int, path: str) -> tuple[bytes, str]:
        return await read_picture(self._pictures, PICTURES + path, _lost(image_id))

    async def retry(self, image_id: int) -> Image:
        """Send a rejected or dead image back to pending, or raise a ``RefusedError``.

        So goes a processed one whose picture somebody has replaced.
        """
        done = await self._rows.retry(image_id)
        image = await self.get(image_id)
        if not done:
            if not await self._submissions.look_again_if_changed(image.id, image.path, image.tag):
                check_retriable(image_id, image.status)
            image = await self.get(image_id)
        log.info("tried again", image_id=image_id)
        self._ringer.ring([image_id])
        return image

    async def recognise(self, image_id: int) -> Image:
        """Send a final image back to pending, or raise a ``RefusedError``.

        Its result is given up for one with the people who are known now, so it stays when there is
        no picture any more.
        """
        image = await self.get(image_id)
        if not await self._pictures.exists(PICTURES + image.path):
            raise _lost(image_id)
        if not await self._rows.recognise(image_id):
            image = await self.get(image_id)
            check_recognisable(image)
            # Somebody else's work on it has ended since.
            raise ConflictError(f"image {image_id} has just become {image.status}: ask again")
        log.info("to be recognised again", image_id=image_id)
        self._ringer.ring([image_id])
        return await self.get(image_id)

    async def delete(self, image_id: int) -> None:
        """Remove row and results, or raise ``NotFoundError``; the redeemer removes the object."""
        deleted = False
        while not deleted:  # a lost object may be replaced meanwhile, and the new one is to go
            stored = await self._stored(image_id)
            removal = await removal_of(stored, self._pictures.tag)
            deleted = await self._rows.delete(image_id, stored.path, removal)
        log.info("deleted", image_id=image_id)

    async def _stored(self, image_id: int) -> StoredPicture:
        stored = await self._rows.stored(image_id)
        if stored is None:
            raise _unknown(image_id)
        return stored

    async def _stored_face(self, image_id: int, index: int) -> StoredFace:
        stored = await self._rows.stored_face(image_id, index)
        if stored is None:
            raise no_face(image_id, index)
        return stored


async def read_picture(pictures: Pictures, key: str, lost: NotFoundError) -> tuple[bytes, str]:
    """Return a picture's file and its tag, or raise :class:`NotFoundError`: ``lost`` without it."""
    try:
        return await pictures.get_tagged(key, max_bytes=MAX_PICTURE_BYTES)
    except ObjectNotFoundError:
        raise lost from None
    except ObjectTooLargeError as error:
        raise NotFoundError(str(error)) from None


def took_too_long() -> ObjectStoreUnavailableError:
    """Return the error of an object whose removal may have begun before its row was stored."""
    return ObjectStoreUnavailableError("storing took too long; nothing was kept")


def _lost(image_id: int) -> NotFoundError:
    return NotFoundError(f"image {image_id} has no picture in the store")


def _unknown(image_id: int) -> NotFoundError:
    return NotFoundError(f"there is no image {image_id}")
