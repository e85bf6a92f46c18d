"""Enrolment: known people and their pictures."""

import asyncio
import unicodedata
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from services.common.images import KNOWN_PEOPLE, MAX_PICTURE_BYTES
from services.common.objects import ObjectNotFoundError, ObjectTooLargeError
from services.receiver.domain import (
    EXTENSIONS,
    ConflictError,
    InvalidError,
    KnownPicture,
    NotFoundError,
    Person,
    check_person,
    digest,
    media_type,
)
from services.receiver.service.images import Images
from services.receiver.service.ports import Cropper, People, Pictures, Recogniser

log = structlog.get_logger(__name__)

_PICTURES_IN_MEMORY: Final = 4
"""Of up to 20 MiB each, and not those of uploads, which must not wait for the recogniser."""

_MARGINS: Final = (0.5, 0.25, 0.1)
"""Shares of a face's size to keep around it; the detector needs some, neighbours come with more."""


class Enrolment:
    """Adds and removes known pictures; the recogniser follows the store by itself."""

    def __init__(
        self,
        people: People,
        pictures: Pictures,
        images: Images,
        recogniser: Recogniser,
        cropper: Cropper,
    ) -> None:
        self._people = people
        self._pictures = pictures
        self._images = images
        self._recogniser = recogniser
        self._cropper = cropper
        self._memory = asyncio.Semaphore(_PICTURES_IN_MEMORY)

    async def all(self) -> tuple[Person, ...]:
        """Return everybody, by name."""
        return await self._people.all()

    async def enrol(self, name: str, read: Callable[[], Awaitable[bytes]]) -> KnownPicture:
        """Make a picture file, which ``read`` reads, a known picture of a person.

        Raises a ``ReceiverError`` when the picture does not show exactly one face or is another
        person's, ``RecogniserError`` when it cannot be checked.
        """
        name = check_person(name)
        async with self._memory:
            content = await read()
            known = await self._people.find(digest(content))
            if known is None:
                faces = await self._recogniser.count_faces(content, image_id=None)
                if faces != 1:
                    raise InvalidError(_refusal(faces))
            return await self._store(name, content, known, face=None)

    async def enrol_face(self, name: str, image_id: int, face_index: int) -> KnownPicture:
        """Make a face of a submitted picture a known picture; the face gets the name, too.

        Raises as :meth:`enrol` does.
        """
        name = check_person(name)
        image = await self._images.get(image_id)
        face = next((one for one in image.faces if one.index == face_index), None)
        if face is None:
            raise NotFoundError(f"image {image_id} has no face {face_index}")
        found = 0
        async with self._memory:
            crops = await self._cropper.crop(
                await self._images.picture(image_id), face.box, _MARGINS
            )
            for crop in crops:
                found = await self._recogniser.count_faces(crop, image_id=image_id)
                if found == 1:
                    known = await self._people.find(digest(crop))
                    return await self._store(name, crop, known, face=(image_id, face_index))
        raise InvalidError(
            f"face {face_index} of image {image_id} cannot be cut out: {_refusal(found)}"
        )

    async def picture(self, name: str, picture_id: int) -> bytes:
        """Return the file of a known picture, or raise :class:`NotFoundError`."""
        known = await self._known(name, picture_id)
        try:
            return await self._pictures.get(
                KNOWN_PEOPLE + known.image_name, max_bytes=MAX_PICTURE_BYTES
            )
        except ObjectNotFoundError:
            raise NotFoundError(f"picture {picture_id} is not in the store") from None
        except ObjectTooLargeError as error:
            raise NotFoundError(str(error)) from None

    async def delete_picture(self, name: str, picture_id: int) -> None:
        """Forget a known picture, or raise :class:`NotFoundError`; the person stays.

        The object goes first: while the row is there, the deletion can be repeated.
        """
        known = await self._known(name, picture_id)
        await self._pictures.delete(KNOWN_PEOPLE + known.image_name)
        await self._people.delete_picture(picture_id)
        # An enrolment of the same content may have put it once more, and found the row.
        person = await self._people.get(known.person)
        if person is None or known.image_name not in _names(person):
            await self._pictures.delete(KNOWN_PEOPLE + known.image_name)
        log.info("known picture deleted", picture_id=picture_id)

    async def delete(self, name: str) -> None:
        """Forget a person, or raise :class:`NotFoundError`; results of the past keep the name.

        Pictures without a row go, too: put there by hand, or left when an enrolment or a deletion
        stopped half-way. Objects go first: while the row is there, people see who is left.
        """
        name = check_person(name)
        person = await self._people.get(name)
        removed = await self._remove(name, keep=frozenset())
        if person is None and not removed:
            raise _nobody(name)
        await self._people.delete(name)
        # What enrolments put before the rows went; those that came later have new rows.
        again = await self._people.get(name)
        removed += await self._remove(name, keep=_names(again) if again else frozenset())
        log.info("person deleted", pictures=removed)

    async def _remove(self, name: str, keep: frozenset[str]) -> int:
        """Remove a person's objects but those to keep; return how many were removed."""
        # A folder that was put there by hand may have its name in decomposed form.
        folders = {unicodedata.normalize(form, f"{KNOWN_PEOPLE}{name}/") for form in ("NFC", "NFD")}
        keys = [one.key for folder in folders async for one in self._pictures.list(folder)]
        strays = [key for key in keys if key.removeprefix(KNOWN_PEOPLE) not in keep]
        for key in strays:
            await self._pictures.delete(key)
        return len(strays)

    async def _store(
        self, name: str, content: bytes, known: KnownPicture | None, face: tuple[int, int] | None
    ) -> KnownPicture:
        if known:
            _check_owner(name, known)
        content_digest = digest(content)
        # The recogniser reads no other formats, so a picture with a face has one of these.
        extension = EXTENSIONS[media_type(content)]
        key = f"{KNOWN_PEOPLE}{name}/{content_digest}.{extension}"
        await self._pictures.put(key, content)
        stored = await self._people.add(name, content_digest, extension, face)
        if stored.person != name:
            await self._pictures.delete(key)
            _check_owner(name, stored)
        # Somebody may have deleted the person between put and commit.
        if not await self._pictures.exists(key):
            await self._pictures.put(key, content)
        log.info("known picture added", picture_id=stored.id)
        return stored

    async def _person(self, name: str) -> Person:
        person = await self._people.get(check_person(name))
        if person is None:
            raise _nobody(name)
        return person

    async def _known(self, name: str, picture_id: int) -> KnownPicture:
        person = await self._person(name)
        for known in person.pictures:
            if known.id == picture_id:
                return known
        raise NotFoundError(f"{person.name!r} has no picture {picture_id}")


def _nobody(name: str) -> NotFoundError:
    return NotFoundError(f"there is nobody called {name!r}")


def _names(person: Person) -> frozenset[str]:
    return frozenset(known.image_name for known in person.pictures)


def _check_owner(name: str, known: KnownPicture) -> None:
    if known.person != name:
        raise ConflictError(f"this picture is known as {known.person!r} already")


def _refusal(faces: int) -> str:
    if faces == 0:
        return "no face found: choose a picture that shows one face clearly"
    return f"{faces} faces found: crop the picture to one"
