"""Faces that a person draws where no machine saw one, or strikes out where none is."""

import asyncio
from typing import Final

import structlog

from services.common.errors import AwayError, RefusedError
from services.common.faces import Box, DecidedBy
from services.common.person_names import by_id
from services.receiver.domain.errors import ConflictError
from services.receiver.domain.faces import EncodedFace, FaceKey, FaceOfResult, no_face
from services.receiver.domain.images import Image, check_drawable
from services.receiver.ports import FaceEncoder, Faces
from services.receiver.service.images import Images
from services.receiver.service.people import Enrolment

log = structlog.get_logger(__name__)

_PICTURES_IN_MEMORY: Final = 2
"""Of up to 20 MiB each; further requests wait."""


class Drawing:
    """Draws faces, strikes them out and restores them, each encoded in exactly its box."""

    def __init__(
        self, *, faces: Faces, images: Images, enrolment: Enrolment, recogniser: FaceEncoder
    ) -> None:
        self._faces = faces
        self._images = images
        self._enrolment = enrolment
        self._recogniser = recogniser
        self._memory = asyncio.Semaphore(_PICTURES_IN_MEMORY)

    async def draw(
        self, image_id: int, box: Box, who: str | None = None, *, another: bool = False
    ) -> Image:
        """Add a face to an image's result, or raise a ``RefusedError``.

        It is who the person says. What is drawn is often small or turned: it becomes a known
        picture, too, only if it is fit to be one. Without a name the machine decides.
        """
        image = await self._images.get(image_id)
        check_drawable(image, box)
        person = await self._enrolment.who(who, another=another) if who is not None else None
        face = await self._seen(image, box, person.folder if person else "")
        index = await self._faces.draw(image_id, image.processed_at, box, face, person)
        log.info("face drawn", image_id=image_id, face_index=index)
        drawn = await self._images.get(image_id)
        if person and not _flaw(face) and await self._enrol(drawn, index):
            return await self._images.get(image_id)
        return drawn

    async def _enrol(self, image: Image, index: int) -> bool:
        """Make a drawn face, which has its name, a known picture if it is fit to be one."""
        its = [face.person_id for face in image.faces if face.index == index and face.person_id]
        try:
            for person_id in its:
                await self._enrolment.enrol_face(by_id(person_id), image.id, index)
                return True
        except (AwayError, RefusedError) as error:
            reason = type(error).__name__  # what it says has names
            log.info("no known picture", image_id=image.id, face_index=index, reason=reason)
        return False

    async def strike_out(self, image_id: int, index: int) -> None:
        """Say that a face is none, or raise a ``RefusedError``.

        It stays out, and its place is kept to take that back. What a hand named it goes, with the
        known picture that was cut out of it.
        """
        image = await self._images.get(image_id)
        if any(face.index == index and face.decided_by is DecidedBy.HAND for face in image.faces):
            await self._enrolment.unname_face(image_id, index)
        if not await self._faces.strike_out(FaceKey(image_id, index)):
            raise no_face(image_id, index)
        log.info("face struck out", image_id=image_id, face_index=index)

    async def restore(self, image_id: int, index: int) -> Image:
        """Have a face that was struck out back, or raise a ``RefusedError``.

        The machine decides who it is. One whose person is forgotten is not there.
        """
        image = await self._images.get(image_id)
        its = (
            place.box for place in image.struck_out if place.index == index and not place.forgotten
        )
        box = next(its, None)
        if box is None:
            if any(face.index == index for face in image.faces):
                raise ConflictError(f"face {index} of image {image_id} is not struck out")
            raise no_face(image_id, index)
        face = await self._seen(image, box)
        await self._faces.restore(FaceOfResult(image_id, index, image.processed_at), face)
        log.info("face restored", image_id=image_id, face_index=index)
        return await self._images.get(image_id)

    async def _seen(self, image: Image, box: Box, person: str = "") -> EncodedFace:
        async with self._memory:
            content = await self._images.picture_of_result(image)
            return await self._recogniser.face_in(content, box, person=person, image_id=image.id)


def _flaw(face: EncodedFace) -> str | None:
    return face.seen.quality.flaw if face.seen.quality else None
