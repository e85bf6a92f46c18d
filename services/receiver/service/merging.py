"""People who are said to be one, and who are not after all."""

from collections.abc import Collection, Sequence

import structlog

from services.common.changes import mark_changed
from services.common.errors import ObjectNotFoundError, ObjectTooLargeError
from services.common.object_keys import KNOWN_PEOPLE
from services.common.person_names import by_id
from services.common.picture_formats import MAX_PICTURE_BYTES, format_of
from services.receiver.domain.errors import ConflictError, NotFoundError
from services.receiver.domain.merges import Copy, Merged, name_of_copy
from services.receiver.domain.people import Person, Somebody
from services.receiver.ports import Garbage, Merges, Pictures
from services.receiver.service.images import took_too_long
from services.receiver.service.people import Enrolment

log = structlog.get_logger(__name__)


class Merging:
    """Makes what is one person's another's, and takes that back.

    The recogniser knows people by the folders of their known pictures, so those are copied first.
    Copies are expected before they are stored, and get their rows in one transaction with all else:
    whoever is killed at any point has changed nothing, or all. Of very many faces only the first go
    in it: the rest follows as with those of somebody who is deleted (erasing.py), or, back again,
    in transactions of the same request, which goes on when it is repeated.
    """

    def __init__(
        self, *, enrolment: Enrolment, merges: Merges, garbage: Garbage, pictures: Pictures
    ) -> None:
        self._enrolment = enrolment
        self._merges = merges
        self._garbage = garbage
        self._pictures = pictures

    async def merge(self, who: str, other: str) -> Person:
        """Make all that is another's this person's, who is returned; raise a ``RefusedError``."""
        kept_id, kept = await self._enrolment.somebody(who)
        gone_id, gone = await self._enrolment.somebody(other)
        if kept_id == gone_id:
            raise ConflictError(f"{who!r} and {other!r} are one person already")
        named = [
            picture.image_name
            for picture in (await self._enrolment.person(by_id(gone_id))).pictures
        ]
        copies = await self._copies(kept.folder, named)
        copies += await self._copies_of_strays(kept.folder, gone.folder, set(named))
        while lacking := _checked(await self._merges.merge(kept, gone, copies)):
            copies += await self._copies(kept.folder, lacking)
        await mark_changed(self._pictures, f"{KNOWN_PEOPLE}{kept.folder}/")
        log.info("people merged", person_id=kept_id, gone=gone_id)
        return await self._enrolment.person(by_id(kept_id))

    async def undo(self, who: str, merge_id: int) -> Person:
        """Make somebody anew who was said to be this person, and return them.

        They get the known pictures, names and denials that were theirs, are still there and still
        this person's. Raises a ``RefusedError``.
        """
        kept_id, kept = await self._enrolment.somebody(who)
        merged = await self._merges.find(kept_id, merge_id)
        if merged is None:
            raise NotFoundError(f"{who!r} has no merge {merge_id}")
        if not merged.begun:
            await self._begin_undo(kept, merge_id, merged)
        while await self._merges.undo_more(kept_id, merge_id):
            pass
        log.info("merge taken back", person_id=kept_id, again=merged.person_id)
        return await self._enrolment.person(by_id(merged.person_id))

    async def _begin_undo(self, kept: Somebody, merge_id: int, merged: Merged) -> None:
        folder = merged.folder
        if not merged.is_free:
            folder = (await self._enrolment.who(merged.name, another=True)).folder
        copies = await self._copies(folder, merged.image_names)
        while lacking := _checked(await self._merges.undo(kept, merge_id, folder, copies)):
            copies += await self._copies(folder, lacking)
        await mark_changed(self._pictures, f"{KNOWN_PEOPLE}{folder}/")

    async def _copies(self, folder: str, image_names: Sequence[str]) -> list[Copy]:
        """Copy known pictures that have rows."""
        return [
            Copy(image_name, await self._copy(folder, image_name, must_be_picture=False), None)
            for image_name in image_names
        ]

    async def _copies_of_strays(
        self, folder: str, old_folder: str, named: Collection[str]
    ) -> list[Copy]:
        """Copy the pictures that were put into a folder by hand; what is none stays there."""
        found = [file async for file in self._enrolment.listed(old_folder)]
        copies = []
        for file in found:
            name = file.key.removeprefix(KNOWN_PEOPLE)
            if name not in named:
                copied = await self._copy(folder, name, must_be_picture=True)
                if copied is not None:
                    copies.append(Copy(name, copied, file.tag))
        return copies

    async def _copy(self, folder: str, image_name: str, *, must_be_picture: bool) -> str | None:
        key = KNOWN_PEOPLE + image_name
        try:
            content, _ = await self._pictures.get_tagged(key, max_bytes=MAX_PICTURE_BYTES)
        except (ObjectNotFoundError, ObjectTooLargeError) as error:
            log.warning("known picture not copied", key=key, reason=str(error))
            return None
        if must_be_picture and format_of(content) is None:
            return None
        copy = name_of_copy(folder, image_name, content)
        await self._garbage.expect(KNOWN_PEOPLE + copy)
        await self._pictures.put(KNOWN_PEOPLE + copy, content)
        return copy


def _checked(lacking: Sequence[str] | None) -> Sequence[str]:
    if lacking is None:
        raise took_too_long()
    return lacking
