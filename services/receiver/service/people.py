"""People, their known pictures, and what is said by hand of whose a face is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from services.common.changes import mark_changed
from services.common.errors import RefusedError
from services.common.faces import DecidedBy, SeenFace
from services.common.object_info import ObjectInfo
from services.common.object_keys import KNOWN_PEOPLE, forms_of
from services.common.person_names import as_kept, by_id, id_of
from services.receiver.domain.acts import SubjectKind, acting
from services.receiver.domain.cursors import Page, PersonKey
from services.receiver.domain.errors import (
    BusyError,
    ConflictError,
    Fault,
    InvalidError,
    NotFoundError,
)
from services.receiver.domain.faces import Face, FaceKey, FaceOfResult, no_face
from services.receiver.domain.images import Image
from services.receiver.domain.objects import digest
from services.receiver.domain.people import (
    KnownPicture,
    NewKnownPicture,
    Person,
    Somebody,
    check_fit,
    check_person,
    check_who_is_meant,
    new_known_picture,
    nobody,
)
from services.receiver.ports import Cropper, FaceChecker, Garbage, KnownPictures, People, Pictures
from services.receiver.service.images import Images, read_picture, took_too_long

log = structlog.get_logger(__name__)

_PICTURES_IN_MEMORY: Final = 4
"""Of up to 20 MiB each, and not those of uploads, which must not wait for the recogniser."""


_MARGINS: Final = (0.5, 0.25, 0.1)
"""Shares of a face's size to keep around it; the detector needs some, neighbours come with more."""


class Enrolment:
    """Changes people and known pictures; the recogniser follows the store and its markers."""

    def __init__(
        self,
        *,
        people: People,
        known_pictures: KnownPictures,
        garbage: Garbage,
        pictures: Pictures,
        images: Images,
        recogniser: FaceChecker,
        cropper: Cropper,
    ) -> None:
        self._people = people
        self._known_pictures = known_pictures
        self._garbage = garbage
        self._pictures = pictures
        self._images = images
        self._recogniser = recogniser
        self._cropper = cropper
        self._memory = asyncio.Semaphore(_PICTURES_IN_MEMORY)

    async def all(self) -> tuple[Person, ...]:
        """Return everybody who is not hidden, by name."""
        return await self._people.all()

    async def page(
        self,
        *,
        who: str | None,
        part: str | None,
        hidden: bool,
        after: PersonKey | None,
        limit: int,
    ) -> Page[Person, PersonKey]:
        """Return people by name, behind ``after``, who are hidden, or who are not.

        Only those whom ``who`` may mean, and only those with ``part`` in their names.
        """
        part = part and as_kept(part)
        return await self._people.page(who=who, part=part, hidden=hidden, after=after, limit=limit)

    async def who(self, who: str, *, another: bool = False) -> Somebody:
        """Return who is meant by a name or ``~id``; with ``another``, somebody new of the name.

        Raises ``InvalidError``; ``NotFoundError`` when nobody has the id, and ``ConflictError``
        when several people have the name.
        """
        who = check_who_is_meant(who)
        if another and id_of(who) is not None:
            reason = f"another person needs a name, and {who} is somebody who is there"
            raise InvalidError(reason, [Fault("/name", reason)])
        others: list[str] = []
        while True:
            found = await self._people.who(who, another=another, others=others)
            # For somebody new no folder with pictures that were put there by hand, but their own.
            if (
                found.id is not None
                or (found.folder == who and not another)
                or not await self._has_pictures(found.folder)
            ):
                if found.id is not None:
                    _note_act(found.id)
                return replace(found, beside=another and who in others)
            others.append(found.folder)

    async def person(self, who: str) -> Person:
        """Return somebody, or raise as :meth:`who`, and ``NotFoundError``."""
        person_id, _ = await self.somebody(who)
        return await self._get(person_id)

    async def somebody(self, who: str) -> tuple[int, Somebody]:
        """Return who is meant, of whom there is a row; raise as :meth:`person`."""
        found = await self.who(who)
        if found.id is None:
            raise nobody(who)
        return found.id, found

    async def _get(self, person_id: int) -> Person:
        person = await self._people.get(person_id)
        if person is None:
            raise nobody(by_id(person_id))
        return person

    async def choose_face(self, who: str, face: FaceKey | None) -> Person:
        """Have a face stand for a person, or none that somebody chose; raise as :meth:`person`.

        Raises ``ConflictError`` when it is not theirs.
        """
        person_id, _ = await self.somebody(who)
        if not await self._people.choose_face(person_id, face):
            raise nobody(who)
        log.info("face chosen", person_id=person_id)
        return await self._get(person_id)

    async def enrol(
        self,
        who: str,
        read: Callable[[], Awaitable[bytes]],
        *,
        insist: bool = False,
        another: bool = False,
    ) -> KnownPicture:
        """Make a picture file, which ``read`` reads, a known picture of a person.

        ``another``: of somebody new, though others have the name.

        Raises a ``RefusedError`` when the picture does not show exactly one face or is another
        person's, and when it is not fit, unless somebody insists; ``RecogniserError`` when it
        cannot be checked.
        """
        check_who_is_meant(who)
        async with self._memory:
            content = await read()
            known = await self._known_pictures.find(digest(content))
            person = await self.who(who, another=another)
            if known is None:
                faces = await self._recogniser.faces(content, person=person.folder, image_id=None)
                if len(faces) != 1:
                    raise InvalidError(_refusal(len(faces)))
                if not insist:
                    await self._check_fit(person, faces[0])
            else:
                _check_owner(person, known)
            return await self._store(new_known_picture(person, content), content, None)

    async def enrol_face(
        self,
        who: str,
        image_id: int,
        face_index: int,
        *,
        insist: bool = False,
        another: bool = False,
    ) -> KnownPicture:
        """Make a face of a submitted picture a known picture; the face gets the name, too.

        A face that was named otherwise by hand moves: the known picture that it was goes. Raises as
        :meth:`enrol` does.
        """
        check_who_is_meant(who)
        image, face = await self._face(image_id, face_index)
        by_hand = await self._named_by_hand(face)
        found: Sequence[SeenFace] = ()
        async with self._memory:
            crops = await self._crops(image, face)
            person = await self.who(who, another=another)
            for crop in crops:
                found = await self._recogniser.faces(crop, person=person.folder, image_id=image_id)
                if len(found) == 1:
                    known = await self._known_pictures.find(digest(crop))
                    if known and not known.is_cut_from(FaceKey(image_id, face_index), by_hand):
                        _check_owner(person, known)
                    if not insist and (known is None or known.person_id != person.id):
                        await self._check_fit(person, found[0], moves_from=by_hand)
                    its = FaceOfResult(image_id, face_index, image.processed_at)
                    return await self._store(new_known_picture(person, crop), crop, its)
        raise InvalidError(
            f"face {face_index} of image {image_id} cannot be cut out: {_refusal(len(found))}"
        )

    async def unname_face(self, image_id: int, face_index: int) -> None:
        """Take back what a hand named a face, or raise :class:`NotFoundError`.

        The known picture that was cut out of it goes, and the machine decides again.
        """
        digests = await self._digests(*await self._face(image_id, face_index))
        if not await self._known_pictures.unname(FaceKey(image_id, face_index), digests):
            raise no_face(image_id, face_index)
        log.info("name taken back", image_id=image_id, face_index=face_index)

    async def _digests(self, image: Image, face: Face) -> Sequence[str]:
        """Return what a known picture may hold that was cut out of a face which a hand has named.

        Only for what was named before it was noted which one was cut out of what; without its
        picture there is nothing to tell it by.
        """
        if face.decided_by is DecidedBy.HAND:
            with suppress(RefusedError, BusyError):
                async with self._memory:
                    return [digest(crop) for crop in await self._crops(image, face)]
        return []

    async def deny(self, image_id: int, face_index: int, who: str, *, insist: bool = False) -> None:
        """Write down that a face is not this person's, or raise a ``RefusedError``.

        Who insists takes back that a hand has named it so. A name of somebody else stays.
        """
        check_who_is_meant(who)
        image, face = await self._face(image_id, face_index)
        person = await self.who(who)
        denied = await self._known_pictures.deny(
            FaceKey(image_id, face_index),
            person,
            is_known=await self._has_pictures(person.folder),
            digests=await self._digests(image, face) if insist else None,
        )
        if not denied:
            raise nobody(who)
        log.info("name denied", image_id=image_id, face_index=face_index)

    async def allow(self, image_id: int, face_index: int, who: str) -> None:
        """Take a denial back, if there is one, or raise a ``RefusedError``."""
        if not await self._known_pictures.allow(FaceKey(image_id, face_index), await self.who(who)):
            raise no_face(image_id, face_index)
        log.info("denial taken back", image_id=image_id, face_index=face_index)

    async def change(
        self,
        who: str,
        *,
        name: str | None = None,
        another: bool = False,
        hidden: bool | None = None,
    ) -> Person:
        """Give a person another name, hide them or show them, or raise a ``RefusedError``.

        No picture moves. A name that somebody else has is refused, unless it is to be ``another``.
        """
        person_id, _ = await self.somebody(who)
        if name is not None:
            name = check_person(name)
            # Of somebody whose pictures were put there by hand there need be no row.
            beside = (await self.who(name, another=True)).beside
            if beside and not another:
                raise ConflictError(
                    f"{name!r} is the name of somebody else, whose pictures are there"
                )
            if not await self._people.rename(person_id, name, another=another, beside=beside):
                raise nobody(who)
            log.info("person renamed", person_id=person_id)
        if hidden is not None:
            if not await self._people.hide(person_id, hidden=hidden):
                raise nobody(who)
            log.info("person hidden" if hidden else "person shown", person_id=person_id)
        return await self._get(person_id)

    async def _face(self, image_id: int, face_index: int) -> tuple[Image, Face]:
        image = await self._images.get(image_id)
        for face in image.faces:
            if face.index == face_index:
                return image, face
        raise no_face(image_id, face_index)

    async def _crops(self, image: Image, face: Face) -> Sequence[bytes]:
        content = await self._images.picture_of_result(image)
        return await self._cropper.crop(content, face.box, _MARGINS)

    async def _named_by_hand(self, face: Face) -> int | None:
        """Return the id of whom a hand has said that a face is."""
        if face.decided_by is not DecidedBy.HAND or face.person is None:
            return None
        return face.person_id or await self._people.bearer(face.person)

    async def _check_fit(
        self, person: Somebody, face: SeenFace, *, moves_from: int | None = None
    ) -> None:
        taken_for = None
        if face.taken_for is not None and face.taken_for != person.folder:
            other = await self._people.of_folder(face.taken_for)
            # Whom it was named before by hand it must look like: it is a known picture of theirs.
            if other.id is None or other.id not in (moves_from, person.id):
                taken_for = other.name
        check_fit(person.name, face, taken_for)

    async def _has_pictures(self, folder: str) -> bool:
        async for _ in self.listed(folder):
            return True
        return False

    async def picture(self, who: str, picture_id: int) -> tuple[bytes, str]:
        """Return the file of a known picture and its tag, or raise :class:`NotFoundError`."""
        key = await self.picture_key(who, picture_id)
        lost = NotFoundError(f"picture {picture_id} is not in the store")
        return await read_picture(self._pictures, key, lost)

    async def picture_key(self, who: str, picture_id: int) -> str:
        """Return the key of a known picture, or raise :class:`NotFoundError`."""
        return KNOWN_PEOPLE + (await self._known(who, picture_id)).image_name

    async def picture_tag(self, who: str, picture_id: int) -> str | None:
        """Return the tag of a known picture, None when it is lost, or raise as :meth:`picture`."""
        return await self._pictures.tag(await self.picture_key(who, picture_id))

    async def delete_picture(self, who: str, picture_id: int) -> None:
        """Forget a known picture, or raise :class:`NotFoundError`; the person stays."""
        known = await self._known(who, picture_id)
        await self._known_pictures.delete_picture(known.id)
        log.info("known picture deleted", picture_id=picture_id)

    async def delete(self, who: str) -> None:
        """Forget a person, or raise a ``RefusedError``; no face has the name any more.

        Pictures without a row, put there by hand, go too. The redeemer removes the objects.
        """
        person = await self.who(who)
        found = [file async for file in self.listed(person.folder)]
        removed = await self._people.delete(person, found)
        if not removed:
            raise nobody(who)
        log.info("person deleted", removed=removed)

    async def listed(self, folder: str) -> AsyncIterator[ObjectInfo]:
        """Yield all objects in a folder of known pictures."""
        for form in forms_of(folder):
            async for file in self._pictures.list(f"{KNOWN_PEOPLE}{form}/"):
                yield file

    async def _store(
        self, picture: NewKnownPicture, content: bytes, face: FaceOfResult | None
    ) -> KnownPicture:
        await self._garbage.expect(KNOWN_PEOPLE + picture.image_name)
        await self._pictures.put(KNOWN_PEOPLE + picture.image_name, content)
        stored = await self._known_pictures.add(picture, face)
        if stored is None:
            raise took_too_long()
        if picture.person.id is not None or stored.folder != picture.person.folder:
            _check_owner(picture.person, stored)
        if stored.image_name != picture.image_name and not await self._pictures.exists(
            KNOWN_PEOPLE + stored.image_name
        ):
            stored = await self._known_pictures.replace_object(stored, picture)
            if stored is None:
                raise took_too_long()
        await mark_changed(self._pictures, KNOWN_PEOPLE + stored.image_name)
        log.info("known picture added", picture_id=stored.id)
        return stored

    async def _known(self, who: str, picture_id: int) -> KnownPicture:
        who = check_who_is_meant(who)
        known = await self._known_pictures.picture(picture_id)
        # By what the person was called first, too: so links outlive another name.
        if known is None or who not in (by_id(known.person_id), known.person, known.folder):
            raise NotFoundError(f"{who!r} has no picture {picture_id}")
        _note_act(known.person_id)
        return known


def _note_act(person_id: int) -> None:
    if act := acting.get():
        act.about(SubjectKind.PERSON, person_id)


def _check_owner(person: Somebody, known: KnownPicture) -> None:
    if known.person_id != person.id:
        its = f" ({by_id(known.person_id)})" if known.person == person.name else ""
        raise ConflictError(f"this picture is known as {known.person!r}{its} already")


def _refusal(faces: int) -> str:
    if faces == 0:
        return "no face found: choose a picture that shows one face clearly"
    return f"{faces} faces found: crop the picture to one"
