"""Enrolment: known people and their pictures."""

import asyncio
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from services.common.changes import mark_changed
from services.common.images import KNOWN_PEOPLE, MAX_PICTURE_BYTES
from services.common.objects import ObjectNotFoundError, ObjectTooLargeError
from services.receiver.domain import (
    ConflictError,
    FaceOfResult,
    InvalidError,
    KnownPicture,
    NotFoundError,
    PeoplePage,
    Person,
    SeenFace,
    check_fit,
    check_person,
    digest,
    new_known_picture,
)
from services.receiver.service.images import Images, took_too_long
from services.receiver.service.ports import Cropper, Garbage, People, Pictures, Recogniser

log = structlog.get_logger(__name__)

_PICTURES_IN_MEMORY: Final = 4
"""Of up to 20 MiB each, and not those of uploads, which must not wait for the recogniser."""

_MARGINS: Final = (0.5, 0.25, 0.1)
"""Shares of a face's size to keep around it; the detector needs some, neighbours come with more."""


class Enrolment:
    """Adds and removes known pictures; the recogniser follows the store and its markers."""

    def __init__(
        self,
        *,
        people: People,
        garbage: Garbage,
        pictures: Pictures,
        images: Images,
        recogniser: Recogniser,
        cropper: Cropper,
    ) -> None:
        self._people = people
        self._garbage = garbage
        self._pictures = pictures
        self._images = images
        self._recogniser = recogniser
        self._cropper = cropper
        self._memory = asyncio.Semaphore(_PICTURES_IN_MEMORY)

    async def all(self) -> tuple[Person, ...]:
        """Return everybody, by name."""
        return await self._people.all()

    async def page(
        self, *, person: str | None, part: str | None, after: str | None, limit: int
    ) -> PeoplePage:
        """Return people by name, of the names beyond ``after``.

        Only the one called ``person``, and only those with ``part`` in their names.
        """
        part = part and unicodedata.normalize("NFC", part).strip()  # as names are kept
        return await self._people.page(person=person, part=part, after=after, limit=limit)

    async def enrol(
        self, name: str, read: Callable[[], Awaitable[bytes]], *, insist: bool = False
    ) -> KnownPicture:
        """Make a picture file, which ``read`` reads, a known picture of a person.

        Raises a ``ReceiverError`` when the picture does not show exactly one face or is another
        person's, and when it is not fit, unless somebody insists; ``RecogniserError`` when it
        cannot be checked.
        """
        name = check_person(name)
        async with self._memory:
            content = await read()
            known = await self._people.find(digest(content))
            if known is None:
                faces = await self._recogniser.faces(content, person=name, image_id=None)
                if len(faces) != 1:
                    raise InvalidError(_refusal(len(faces)))
                if not insist:
                    check_fit(name, faces[0])
            return await self._store(name, content, known, None)

    async def enrol_face(
        self, name: str, image_id: int, face_index: int, *, insist: bool = False
    ) -> KnownPicture:
        """Make a face of a submitted picture a known picture; the face gets the name, too.

        Raises as :meth:`enrol` does.
        """
        name = check_person(name)
        image = await self._images.get(image_id)
        face = next((one for one in image.faces if one.index == face_index), None)
        if face is None:
            raise NotFoundError(f"image {image_id} has no face {face_index}")
        found: Sequence[SeenFace] = ()
        async with self._memory:
            crops = await self._cropper.crop(
                await self._images.picture_of_result(image), face.box, _MARGINS
            )
            for crop in crops:
                found = await self._recogniser.faces(crop, person=name, image_id=image_id)
                if len(found) == 1:
                    known = await self._people.find(digest(crop))
                    if known is None and not insist:
                        check_fit(name, found[0])
                    its = FaceOfResult(image_id, face_index, image.processed_at)
                    return await self._store(name, crop, known, its)
        raise InvalidError(
            f"face {face_index} of image {image_id} cannot be cut out: {_refusal(len(found))}"
        )

    async def picture(self, name: str, picture_id: int) -> tuple[bytes, str]:
        """Return the file of a known picture and its tag, or raise :class:`NotFoundError`."""
        known = await self._known(name, picture_id)
        try:
            return await self._pictures.get_tagged(
                KNOWN_PEOPLE + known.image_name, max_bytes=MAX_PICTURE_BYTES
            )
        except ObjectNotFoundError:
            raise NotFoundError(f"picture {picture_id} is not in the store") from None
        except ObjectTooLargeError as error:
            raise NotFoundError(str(error)) from None

    async def picture_key(self, name: str, picture_id: int) -> str:
        """Return the key of a known picture, or raise :class:`NotFoundError`."""
        return KNOWN_PEOPLE + (await self._known(name, picture_id)).image_name

    async def picture_tag(self, name: str, picture_id: int) -> str | None:
        """Return the tag of a known picture, None when it is lost, or raise as :meth:`picture`."""
        return await self._pictures.tag(await self.picture_key(name, picture_id))

    async def delete_picture(self, name: str, picture_id: int) -> None:
        """Forget a known picture, or raise :class:`NotFoundError`; the person stays."""
        known = await self._known(name, picture_id)
        await self._people.delete_picture(known.id)
        log.info("known picture deleted", picture_id=picture_id)

    async def delete(self, name: str) -> None:
        """Forget a person, or raise :class:`NotFoundError`; results of the past keep the name.

        Pictures without a row, put there by hand, go too. The redeemer removes the objects.
        """
        name = check_person(name)
        # A folder that was put there by hand may have its name in decomposed form.
        folders = {unicodedata.normalize(form, f"{KNOWN_PEOPLE}{name}/") for form in ("NFC", "NFD")}
        found = [one for folder in folders async for one in self._pictures.list(folder)]
        removed = await self._people.delete(name, found)
        if not removed:
            raise _nobody(name)
        log.info("person deleted", removed=removed)

    async def _store(
        self, name: str, content: bytes, known: KnownPicture | None, face: FaceOfResult | None
    ) -> KnownPicture:
        if known:
            _check_owner(name, known)
        picture = new_known_picture(name, content)
        await self._garbage.expect(KNOWN_PEOPLE + picture.image_name)
        await self._pictures.put(KNOWN_PEOPLE + picture.image_name, content)
        stored = await self._people.add(picture, face)
        if stored is None:
            raise took_too_long()
        _check_owner(name, stored)
        if stored.image_name != picture.image_name and not await self._pictures.exists(
            KNOWN_PEOPLE + stored.image_name
        ):
            stored = await self._people.replace_object(stored, picture)
            if stored is None:
                raise took_too_long()
        await mark_changed(self._pictures, KNOWN_PEOPLE + stored.image_name)
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


def _check_owner(name: str, known: KnownPicture) -> None:
    if known.person != name:
        raise ConflictError(f"this picture is known as {known.person!r} already")


def _refusal(faces: int) -> str:
    if faces == 0:
        return "no face found: choose a picture that shows one face clearly"
    return f"{faces} faces found: crop the picture to one"
