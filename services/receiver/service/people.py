"""Enrolment: known people and their pictures."""

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from services.common.changes import mark_changed
from services.common.faces import DecidedBy
from services.common.images import KNOWN_PEOPLE, MAX_PICTURE_BYTES
from services.common.objects import ObjectInfo, ObjectNotFoundError, ObjectTooLargeError
from services.receiver.domain import (
    ConflictError,
    Face,
    FaceKey,
    FaceOfResult,
    Image,
    InvalidError,
    KnownPicture,
    NewKnownPicture,
    NotFoundError,
    PeoplePage,
    Person,
    ReceiverError,
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

_FORMS: Final = ("NFC", "NFD")

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
            folder = await self._folder(name)
            if known is None:
                faces = await self._recogniser.faces(content, person=folder, image_id=None)
                if len(faces) != 1:
                    raise InvalidError(_refusal(len(faces)))
                if not insist:
                    await self._check_fit(name, folder, faces[0])
            else:
                _check_owner(name, known)
            return await self._store(new_known_picture(name, folder, content), content, None)

    async def enrol_face(
        self, name: str, image_id: int, face_index: int, *, insist: bool = False
    ) -> KnownPicture:
        """Make a face of a submitted picture a known picture; the face gets the name, too.

        A face that was named otherwise by hand moves: the known picture that it was goes. Raises as
        :meth:`enrol` does.
        """
        name = check_person(name)
        image, face = await self._face(image_id, face_index)
        by_hand = face.person if face.decided_by is DecidedBy.HAND else None
        found: Sequence[SeenFace] = ()
        async with self._memory:
            crops = await self._crops(image, face)
            folder = await self._folder(name)
            for crop in crops:
                found = await self._recogniser.faces(crop, person=folder, image_id=image_id)
                if len(found) == 1:
                    known = await self._people.find(digest(crop))
                    if known and not known.is_cut_from(FaceKey(image_id, face_index), by_hand):
                        _check_owner(name, known)
                    if not insist and (known is None or known.person != name):
                        await self._check_fit(name, folder, found[0], moves_from=by_hand)
                    its = FaceOfResult(image_id, face_index, image.processed_at)
                    return await self._store(new_known_picture(name, folder, crop), crop, its)
        raise InvalidError(
            f"face {face_index} of image {image_id} cannot be cut out: {_refusal(len(found))}"
        )

    async def unname_face(self, image_id: int, face_index: int) -> None:
        """Take back what a hand named a face, or raise :class:`NotFoundError`.

        The known picture that was cut out of it goes, and the machine decides again.
        """
        image, face = await self._face(image_id, face_index)
        digests: list[str] = []
        if face.decided_by is DecidedBy.HAND:
            # Only for what was named before it was noted which known picture was cut out of what;
            # without its picture there is nothing to tell it by.
            with suppress(ReceiverError):
                async with self._memory:
                    digests = [digest(crop) for crop in await self._crops(image, face)]
        if not await self._people.unname(FaceKey(image_id, face_index), digests):
            raise _no_face(image_id, face_index)
        log.info("name taken back", image_id=image_id, face_index=face_index)

    async def deny(self, image_id: int, face_index: int, name: str) -> None:
        """Write down that a face is not this person's, or raise a ``ReceiverError``."""
        name = check_person(name)
        await self._face(image_id, face_index)
        folder = await self._folder(name)
        is_known = await self._has_pictures(folder)
        key = FaceKey(image_id, face_index)
        if not await self._people.deny(key, name, folder, is_known=is_known):
            raise _nobody(name)
        log.info("name denied", image_id=image_id, face_index=face_index)

    async def allow(self, image_id: int, face_index: int, name: str) -> None:
        """Take a denial back, if there is one, or raise :class:`NotFoundError`."""
        if not await self._people.allow(FaceKey(image_id, face_index), check_person(name)):
            raise _no_face(image_id, face_index)
        log.info("denial taken back", image_id=image_id, face_index=face_index)

    async def rename(self, name: str, new: str) -> Person:
        """Give a person another name, or raise a ``ReceiverError``; no picture moves."""
        name, new = check_person(name), check_person(new)
        # Of somebody whose pictures were put there by hand there need be no row.
        folder = await self._people.folder(new)
        if folder == new and await self._people.get(new) is None and await self._has_pictures(new):
            raise ConflictError(f"{new!r} is the name of somebody else, whose pictures are there")
        person = await self._people.rename(name, new)
        if person is None:
            raise _nobody(name)
        log.info("person renamed", person_id=person.id)
        return person

    async def _face(self, image_id: int, face_index: int) -> tuple[Image, Face]:
        image = await self._images.get(image_id)
        for face in image.faces:
            if face.index == face_index:
                return image, face
        raise _no_face(image_id, face_index)

    async def _crops(self, image: Image, face: Face) -> Sequence[bytes]:
        content = await self._images.picture_of_result(image)
        return await self._cropper.crop(content, face.box, _MARGINS)

    async def _check_fit(
        self, name: str, folder: str, face: SeenFace, *, moves_from: str | None = None
    ) -> None:
        taken_for = None
        if face.taken_for is not None and face.taken_for != folder:
            taken_for = await self._people.of_folder(face.taken_for)
        # Whom it was named before by hand it must look like: it is a known picture of theirs.
        check_fit(name, face, None if taken_for == moves_from else taken_for)

    async def _folder(self, name: str) -> str:
        """Return where a person's known pictures lie, or would lie.

        For somebody new that is no numbered folder with pictures: they are of somebody who is
        called like it, and were put there by hand.
        """
        others: list[str] = []
        while True:
            folder = await self._people.folder(name, others)
            if (
                folder == name
                or await self._people.get(name) is not None
                or not await self._has_pictures(folder)
            ):
                return folder
            others.append(folder)

    async def _has_pictures(self, folder: str) -> bool:
        async for _ in self._listed(folder):
            return True
        return False

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
        """Forget a person, or raise :class:`NotFoundError`; no face has the name any more.

        Pictures without a row, put there by hand, go too. The redeemer removes the objects.
        """
        name = check_person(name)
        folder = await self._folder(name)
        found = [one async for one in self._listed(folder)]
        removed = await self._people.delete(name, folder, found)
        if not removed:
            raise _nobody(name)
        log.info("person deleted", removed=removed)

    async def _listed(self, folder: str) -> AsyncIterator[ObjectInfo]:
        # One that was put there by hand may have its name in decomposed form.
        for key in {unicodedata.normalize(form, f"{KNOWN_PEOPLE}{folder}/") for form in _FORMS}:
            async for one in self._pictures.list(key):
                yield one

    async def _store(
        self, picture: NewKnownPicture, content: bytes, face: FaceOfResult | None
    ) -> KnownPicture:
        await self._garbage.expect(KNOWN_PEOPLE + picture.image_name)
        await self._pictures.put(KNOWN_PEOPLE + picture.image_name, content)
        stored = await self._people.add(picture, face)
        if stored is None:
            raise took_too_long()
        _check_owner(picture.person, stored)
        if stored.image_name != picture.image_name and not await self._pictures.exists(
            KNOWN_PEOPLE + stored.image_name
        ):
            stored = await self._people.replace_object(stored, picture)
            if stored is None:
                raise took_too_long()
        await mark_changed(self._pictures, KNOWN_PEOPLE + stored.image_name)
        log.info("known picture added", picture_id=stored.id)
        return stored

    async def _known(self, name: str, picture_id: int) -> KnownPicture:
        name = check_person(name)
        known = await self._people.picture(picture_id)
        # By what the person was called first, too: so links outlive another name.
        if known is None or name not in (known.person, known.folder):
            raise NotFoundError(f"{name!r} has no picture {picture_id}")
        return known


def _no_face(image_id: int, face_index: int) -> NotFoundError:
    return NotFoundError(f"image {image_id} has no face {face_index}")


def _nobody(name: str) -> NotFoundError:
    return NotFoundError(f"there is nobody called {name!r}")


def _check_owner(name: str, known: KnownPicture) -> None:
    if known.person != name:
        raise ConflictError(f"this picture is known as {known.person!r} already")


def _refusal(faces: int) -> str:
    if faces == 0:
        return "no face found: choose a picture that shows one face clearly"
    return f"{faces} faces found: crop the picture to one"
