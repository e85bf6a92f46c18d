"""People who were said to be one, in the database."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.batches import batched
from services.common.clock import database_now, now_ms
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.object_info import ObjectInfo
from services.common.object_keys import KNOWN_PEOPLE
from services.common.person_rows import BY_HAND, note_change
from services.common.picture_rows import remove_soon
from services.common.stored_pictures import Removal
from services.common.tables import (
    face_denials,
    faces,
    group_questions,
    images,
    person_images,
    person_merges,
    persons,
)
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.garbage import all_expected, find_strays, settle
from services.receiver.adapters.rows.named_faces import (
    CHANGED,
    are_of,
    move_faces,
    note_images,
    take_denied_names,
)
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.adapters.rows.people_changes import (
    begin_leaving,
    changing_people,
    check_settled,
    check_whole,
    insert_person,
    is_taken,
    lock_somebody,
    settle_names,
)
from services.receiver.domain.erasing import Stage
from services.receiver.domain.errors import ConflictError, NotFoundError
from services.receiver.domain.groups import Answer
from services.receiver.domain.merges import Copy, Merged
from services.receiver.domain.people import Somebody, nobody

_OF_FACES: Final = ("faces", "denials", "both", "dropped", "lifted")
"""What in a merge has keys of faces."""

FaceId = tuple[int, int]
"""Of a face: its image and index."""

_AT_ONCE: Final = 1_000
"""Faces or pictures of one statement."""


class DatabaseMerges(OnDatabase):
    """The port ``Merges`` on a database."""

    @retry_on_conflict
    async def merge(
        self, kept: Somebody, gone: Somebody, copies: Sequence[Copy]
    ) -> Sequence[str] | None:
        """Make all that is one person's another's; of very many faces, only the first."""
        async with changing_people(self._database) as connection:
            if not await all_expected(connection, _keys(copies)):
                return None
            kept_id, gone_id = [await _lock(connection, person) for person in (kept, gone)]
            if kept_id == gone_id:
                raise ConflictError(f"{gone.name!r} is {kept.name!r} already")
            await check_whole(connection, gone_id)
            pictures = await _pictures(connection, person_images.c.person_id == gone_id)
            if lacking := set(pictures.values()) - {copy.original for copy in copies}:
                return sorted(lacking)
            its = persons.c.id == gone_id
            row = (await connection.execute(sa.select(persons).where(its))).one()
            kept_name = persons.c.id == kept_id
            name = (await connection.scalars(sa.select(persons.c.name).where(kept_name))).one()
            await settle_names(connection, row.name)
            moved: dict[str, Any] = {
                "id": gone_id,
                "folder": gone.folder,
                "hidden": bool(row.hidden),
                "face": None if row.face_image_id is None else [row.face_image_id, row.face_index],
                "created_at": row.created_at,
                **await _move_denials(connection, kept_id, gone_id),
                "faces": await _face_keys(connection, _named_by_hand(gone_id)),
                "merges": await self._move_merges(connection, gone_id, kept_id),
                "pictures": await self._move_pictures(connection, kept_id, pictures, copies),
                **await _move_answers(connection, kept_id, gone_id),
            }
            moved["results"] = await _results(connection, _images_of(moved))
            await take_denied_names(connection, kept_id)
            await connection.execute(
                sa.insert(person_merges).values(
                    person_id=kept_id, name=row.name, moved=moved, created_at=database_now()
                )
            )
            await note_change(connection, kept_id, kept.folder)
            if await move_faces(connection, gone_id, kept_id, CHANGED):
                somebody = Somebody(gone_id, row.name, gone.folder)
                rest = {"folders": [gone.folder], "pictures": False, "stage": Stage.MERGED}
                await begin_leaving(connection, gone_id, somebody, name=name, **rest)
            else:
                await connection.execute(sa.delete(persons).where(its))
                await note_change(connection, gone_id, gone.folder, removed=True)
        return []

    async def find(self, person_id: int, merge_id: int) -> Merged | None:
        async with self._database.reading() as connection:
            row = await _merge(connection, person_id, merge_id)
            if row is None:
                return None
            pictures = await _pictures(connection, _still(row, person_id))
            is_free = not await is_taken(connection, row.moved["folder"])
        moved = row.moved
        return Merged(
            moved["id"],
            row.name,
            moved["folder"],
            is_free,
            list(pictures.values()),
            "begun" in moved,
        )

    @retry_on_conflict
    async def undo(
        self, kept: Somebody, merge_id: int, folder: str, copies: Sequence[Copy]
    ) -> Sequence[str] | None:
        async with changing_people(self._database) as connection:
            if not await all_expected(connection, _keys(copies)):
                return None
            kept_id = await _lock(connection, kept)
            row = await _merge(connection, kept_id, merge_id)
            if row is None:
                raise NotFoundError(f"{kept.name!r} has no merge {merge_id}")
            if "begun" in row.moved:  # by somebody else, just now
                await settle(connection, named=[], unnamed=_keys(copies))
                return []
            moved, new_id = await _as_far_as_it_is_there(connection, row.moved), row.moved["id"]
            await _share_denials(connection, moved, row)
            pictures = await _pictures(connection, _still(row, kept_id))
            if lacking := set(pictures.values()) - {copy.original for copy in copies}:
                return sorted(lacking)
            await check_settled(connection, kept_id)
            if await is_taken(connection, folder):
                raise ConflictError(f"somebody has just come to the folder {folder!r}: try again")
            await settle_names(connection, row.name)
            face = moved["face"] or (None, None)
            await insert_person(
                connection,
                row.name,
                folder,
                created_at=moved["created_at"],
                id=new_id,
                hidden=moved["hidden"],
                face_image_id=face[0],
                face_index=face[1],
            )
            await self._move_pictures(connection, new_id, pictures, copies)
            its_faces = await _faces_of_pictures(connection, moved["faces"], kept_id, new_id)
            await _return_denials(connection, moved, kept_id, its_faces)
            await _return_answers(connection, moved, kept_id)
            its_merges = person_merges.c.id.in_(moved["merges"])
            await connection.execute(
                sa.update(person_merges)
                .where(its_merges, person_merges.c.person_id == kept_id)
                .values(person_id=new_id)
            )
            moved |= {"faces": its_faces, "begun": True}
            known = {image_id for image_id, _ in moved["results"]}
            more = {image_id for image_id, _ in its_faces} - known
            moved["results"] += await _results(connection, more)
            await self._return_faces(connection, row, moved)
        return []

    @retry_on_conflict
    async def undo_more(self, person_id: int, merge_id: int) -> bool:
        async with changing_people(self._database) as connection:
            row = await _merge(connection, person_id, merge_id)
            return row is not None and await self._return_faces(connection, row, row.moved)

    async def _return_faces(
        self, connection: AsyncConnection, merge: Any, moved: dict[str, Any]
    ) -> bool:
        """Give some faces back that a hand had named; tell whether there are more."""
        some, rest = moved["faces"][:CHANGED], moved["faces"][CHANGED:]
        its = persons.c.id == moved["id"]
        its_name = await connection.scalar(sa.select(persons.c.name).where(its).with_for_update())
        if its_name is not None and some:
            same = await _still_there(connection, moved, (image_id for image_id, _ in some))
            keys = [key for key in _as_keys(some) if key[0] in same]
            which = sa.and_(_named_by_hand(merge.person_id), _among(faces, keys))
            await note_images(connection, faces, which)
            named = {"person_id": moved["id"], "person": its_name}
            await connection.execute(sa.update(faces).where(which).values(named))
        there = person_merges.c.id == merge.id
        if its_name is not None and rest:
            left = {**moved, "faces": rest}
            await connection.execute(sa.update(person_merges).where(there).values(moved=left))
        else:
            await connection.execute(sa.delete(person_merges).where(there))
        await note_change(connection, moved["id"])
        await note_change(connection, merge.person_id, removed=True)
        return its_name is not None and bool(rest)

    async def _move_pictures(
        self,
        connection: AsyncConnection,
        person_id: int,
        pictures: dict[int, str],
        copies: Sequence[Copy],
    ) -> list[int]:
        """Give known pictures to a person, with the strays that were copied; return their ids."""
        copied = {copy.original: copy.image_name for copy in copies}
        strays = [
            ObjectInfo(KNOWN_PEOPLE + copy.original, 0, copy.tag, 0.0)
            for copy in copies
            if copy.tag
        ]
        removals = await find_strays(connection, strays)
        moved = list(pictures)
        named = {copied[stray.key.removeprefix(KNOWN_PEOPLE)] for stray in removals}
        for image_name in sorted(filter(None, named)):
            inserted: sa.CursorResult[tuple[()]] = await connection.execute(
                sa.insert(person_images).values(
                    person_id=person_id, image_name=image_name, created_at=now_ms()
                )
            )
            moved.append(int(inserted.lastrowid))
        for picture_id, image_name in pictures.items():
            new = copied[image_name]
            if new is not None:
                removals.append(Removal(KNOWN_PEOPLE + image_name, None))
                named.add(new)
            await connection.execute(
                sa.update(person_images)
                .where(person_images.c.id == picture_id)
                .values(person_id=person_id, image_name=new or image_name)
            )
        keys = {KNOWN_PEOPLE + image_name for image_name in named if image_name is not None}
        unnamed = set(_keys(copies)) - keys
        await settle(connection, named=sorted(keys), unnamed=sorted(unnamed))
        await remove_soon(connection, removals)
        return moved

    async def _move_merges(
        self, connection: AsyncConnection, old_id: int, new_id: int
    ) -> list[int]:
        its = person_merges.c.person_id == old_id
        ids = list(await connection.scalars(sa.select(person_merges.c.id).where(its)))
        await connection.execute(sa.update(person_merges).where(its).values(person_id=new_id))
        return ids


async def _lock(connection: AsyncConnection, person: Somebody) -> int:
    person_id = await lock_somebody(connection, person)
    if person_id is None:
        raise nobody(person.name)
    return person_id


async def _merge(connection: AsyncConnection, person_id: int, merge_id: int) -> Any | None:
    its = sa.and_(person_merges.c.id == merge_id, person_merges.c.person_id == person_id)
    return (await connection.execute(sa.select(person_merges).where(its))).first()


def _still(merge: Any, person_id: int) -> sa.ColumnElement[bool]:
    """Return the condition of known pictures that went over and are still that person's."""
    return sa.and_(
        person_images.c.person_id == person_id, person_images.c.id.in_(merge.moved["pictures"])
    )


async def _pictures(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> dict[int, str]:
    query = sa.select(person_images.c.id, person_images.c.image_name).where(which)
    rows = await connection.execute(query.order_by(person_images.c.id))
    return {row.id: row.image_name for row in rows}


async def _faces_of_pictures(
    connection: AsyncConnection, moved: Iterable[Sequence[int]], kept_id: int, new_id: int
) -> list[FaceId]:
    """Return the faces that a hand has named and that go back as known pictures did.

    Not those that were named anew since, of which a known picture has stayed.
    """
    cut_out = sa.select(person_images.c.image_id, person_images.c.face_index).where(
        person_images.c.face_index.is_not(None)
    )
    its = await connection.execute(cut_out.where(person_images.c.person_id == new_id))
    stayed = await connection.execute(cut_out.where(person_images.c.person_id == kept_id))
    keys = {*_as_keys(moved), *_as_keys(its)} - set(_as_keys(stayed))
    return [key for key in await _face_keys(connection, _named_by_hand(kept_id)) if key in keys]


async def _results(
    connection: AsyncConnection, image_ids: Iterable[int]
) -> list[tuple[int, int | None]]:
    """Return images, each with when its result was made."""
    return [
        (row.id, row.processed_at)
        for some in batched(sorted(set(image_ids)), _AT_ONCE)
        for row in await connection.execute(
            sa.select(images.c.id, images.c.processed_at).where(images.c.id.in_(some))
        )
    ]


async def _still_there(
    connection: AsyncConnection, moved: Mapping[str, Any], image_ids: Iterable[int]
) -> set[int]:
    """Return those images whose results are the ones of a merge: faces of others are others."""
    then = {(image_id, processed_at) for image_id, processed_at in moved["results"]}
    return {now[0] for now in await _results(connection, image_ids) if now in then}


def _images_of(moved: Mapping[str, Any]) -> set[int]:
    return {key[0] for name in _OF_FACES for key in moved[name]}


async def _as_far_as_it_is_there(
    connection: AsyncConnection, moved: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what went over, but for faces of images that were recognised again since."""
    same = await _still_there(connection, moved, _images_of(moved))
    return {
        name: [key for key in its if key[0] in same] if name in _OF_FACES else its
        for name, its in moved.items()
    }


def _keys(copies: Iterable[Copy]) -> list[str]:
    return [KNOWN_PEOPLE + copy.image_name for copy in copies if copy.image_name is not None]


async def _move_denials(
    connection: AsyncConnection, kept_id: int, gone_id: int
) -> dict[str, list[FaceId]]:
    """Give a person's denials to another, where no hand has named the face so.

    Returns those that were the one's alone, those that were of both, those of a face that is
    the other's by hand, and those of the other's of a face that was the one's by hand.
    """
    theirs, others = [await _denied(connection, person_id) for person_id in (gone_id, kept_id)]
    named = [
        set(await _face_keys(connection, _named_by_hand(person_id)))
        for person_id in (gone_id, kept_id)
    ]
    dropped, lifted = theirs & named[1], others & named[0]
    both = (theirs & others) - dropped
    alone = theirs - both - dropped
    for some in batched(lifted, _AT_ONCE):
        of_kept = sa.and_(face_denials.c.person_id == kept_id, _among(face_denials, some))
        await connection.execute(sa.delete(face_denials).where(of_kept))
    await _give_denials(connection, gone_id, kept_id, alone)
    # The others go with the row of who had them.
    images = {image_id for image_id, _ in theirs | lifted}
    await note_events(connection, database_now(), EventKind.IMAGE, sorted(images))
    return {
        "denials": sorted(alone),
        "both": sorted(both),
        "dropped": sorted(dropped),
        "lifted": sorted(lifted),
    }


async def _return_denials(
    connection: AsyncConnection, moved: dict[str, Any], kept_id: int, its_faces: Collection[FaceId]
) -> None:
    """Bring back who was not whom, as far as it still says so."""
    new_id = moved["id"]
    still = await _denied(connection, kept_id)
    alone = still & set(_as_keys(moved["denials"]))
    both = still & set(_as_keys(moved["both"]))
    dropped = set(_as_keys(moved["dropped"])) & set(
        await _face_keys(connection, _named_by_hand(kept_id))
    )
    lifted = (set(_as_keys(moved["lifted"])) & set(its_faces)) - still
    # With the time of the answer to a question that made them, if one did.
    await _give_denials(connection, kept_id, new_id, alone)
    for some in batched(both, _AT_ONCE):
        copied = sa.select(
            face_denials.c.image_id,
            face_denials.c.face_index,
            sa.literal(new_id),
            face_denials.c.created_at,
        ).where(face_denials.c.person_id == kept_id, _among(face_denials, some))
        columns = ["image_id", "face_index", "person_id", "created_at"]
        await connection.execute(sa.insert(face_denials).from_select(columns, copied))
    anew = [(*key, new_id) for key in sorted(dropped)] + [(*key, kept_id) for key in sorted(lifted)]
    for some_anew in batched(anew, _AT_ONCE):
        await connection.execute(
            sa.insert(face_denials).values(created_at=database_now()),
            [
                {"image_id": image_id, "face_index": index, "person_id": person_id}
                for image_id, index, person_id in some_anew
            ],
        )
    touched = {image_id for image_id, _ in alone | both | dropped | lifted}
    await note_events(connection, database_now(), EventKind.IMAGE, sorted(touched))


async def _face_keys(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> list[FaceId]:
    """Return the keys of some faces, sorted."""
    query = sa.select(faces.c.image_id, faces.c.face_index).where(which)
    return sorted((row.image_id, row.face_index) for row in await connection.execute(query))


def _named_by_hand(person_id: int) -> sa.ColumnElement[bool]:
    """Return the condition of the faces of which a hand has said that they are a person's."""
    return sa.and_(are_of(person_id), BY_HAND)


async def _share_denials(connection: AsyncConnection, moved: dict[str, Any], merge: Any) -> None:
    """Have denials be of both that were also of whom the one they went to was merged into since."""
    its = sa.select(person_merges.c.moved).where(person_merges.c.person_id == merge.person_id)
    later = [
        other for other in await connection.scalars(its) if merge.id in other.get("merges", [])
    ]
    theirs = {key for other in later for key in _as_keys(other["both"])}
    alone = _as_keys(moved["denials"])
    moved["denials"] = [key for key in alone if key not in theirs]
    moved["both"] = [*_as_keys(moved["both"]), *(key for key in alone if key in theirs)]


async def _denied(connection: AsyncConnection, person_id: int) -> set[FaceId]:
    query = sa.select(face_denials).where(face_denials.c.person_id == person_id)
    return {(row.image_id, row.face_index) for row in await connection.execute(query)}


async def _give_denials(
    connection: AsyncConnection, old_id: int, new_id: int, keys: Iterable[FaceId]
) -> None:
    for some in batched(keys, _AT_ONCE):
        await connection.execute(
            sa.update(face_denials)
            .where(face_denials.c.person_id == old_id, _among(face_denials, some))
            .values(person_id=new_id)
        )


async def _move_answers(
    connection: AsyncConnection, kept_id: int, gone_id: int
) -> dict[str, list[Any]]:
    """Have what was answered about a person, and groups, count for another: they are one.

    Returns the questions that went over, and the answers that made room: of two about one group a
    no stays, and the other's. Questions that are open go with the row of who had them.
    """
    table = group_questions.c
    answered = table.answer.in_([Answer.NO, Answer.LATER])
    query = sa.select(group_questions).where(answered)
    theirs, others = [
        {
            row["group_id"]: row
            for row in (await connection.execute(query.where(table.person_id == whose))).mappings()
        }
        for whose in (gone_id, kept_id)
    ]
    moved: list[int] = []
    dropped: list[dict[str, Any]] = []
    for group_id, row in theirs.items():
        other = others.get(group_id)
        if other and (other["answer"] == Answer.NO or row["answer"] != Answer.NO):
            dropped.append(dict(row))
            if row["answer"] == Answer.NO:  # what either says of faces, both say
                its = face_denials.c.created_at == row["answered_at"]
                await connection.execute(
                    sa.update(face_denials)
                    .where(face_denials.c.person_id == kept_id, its)
                    .values(created_at=other["answered_at"])
                )
        else:
            moved.append(row["id"])
            dropped += [dict(other)] if other else []
            same = sa.and_(table.group_id == group_id, table.person_id == kept_id)
            await connection.execute(sa.delete(group_questions).where(same))
    await connection.execute(
        sa.update(group_questions).where(table.id.in_(moved)).values(person_id=kept_id)
    )
    return {"questions": moved, "answers": dropped}


async def _return_answers(connection: AsyncConnection, moved: dict[str, Any], kept_id: int) -> None:
    """Bring back what was answered about either, as far as it still says so."""
    table, new_id = group_questions.c, moved["id"]
    # A merge of before has none.
    its = sa.and_(table.id.in_(moved.get("questions", [])), table.person_id == kept_id)
    await connection.execute(sa.update(group_questions).where(its).values(person_id=new_id))
    for row in moved.get("answers", []):
        # What was not theirs is now of whoever that person was merged into since.
        whose = new_id if row["person_id"] == new_id else kept_id
        same = sa.and_(table.group_id == row["group_id"], table.person_id == kept_id)
        other = (await connection.execute(sa.select(group_questions).where(same))).one_or_none()
        values = {**row, "person_id": whose}
        if row["answer"] == Answer.NO:
            if other is None or other.answer != Answer.NO:
                continue  # taken back
            values["answered_at"] = other.answered_at
        elif other is not None and whose == kept_id:
            continue
        await connection.execute(sa.insert(group_questions).values(values))


def _among(table: sa.Table, keys: Sequence[FaceId]) -> sa.ColumnElement[bool]:
    """Return the condition of a table's rows that are of one of these faces."""
    return sa.tuple_(table.c.image_id, table.c.face_index).in_(keys)


def _as_keys(entries: Iterable[Sequence[int]]) -> list[FaceId]:
    """Return keys of faces, which JSON has as lists."""
    return [(image_id, index) for image_id, index in entries]
