"""What was said of faces and groups, when two people become one, and when they are two again."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.people import BY_HAND
from services.common.tables import face_denials, faces, group_questions, person_merges
from services.common.turns import in_turns
from services.receiver.adapters.rows.named_faces import are_of
from services.receiver.domain.groups import Answer

FaceId = tuple[int, int]
"""Of a face: its image and index."""

AT_ONCE: Final = 1_000
"""Faces or pictures of one statement."""


async def move_denials(
    connection: AsyncConnection, kept_id: int, gone_id: int
) -> dict[str, list[FaceId]]:
    """Give a person's denials to another, where no hand has named the face so.

    Returns those that were the one's alone, those that were of both, those of a face that is
    the other's by hand, and those of the other's of a face that was the one's by hand.
    """
    theirs, others = [await _denied(connection, person_id) for person_id in (gone_id, kept_id)]
    named = [
        set(await face_keys(connection, named_by_hand(person_id)))
        for person_id in (gone_id, kept_id)
    ]
    dropped, lifted = theirs & named[1], others & named[0]
    both = (theirs & others) - dropped
    alone = theirs - both - dropped
    await _delete_denials(connection, kept_id, lifted)
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


async def return_denials(
    connection: AsyncConnection, moved: dict[str, Any], kept_id: int, its_faces: Collection[FaceId]
) -> None:
    """Bring back who was not whom, as far as it still says so."""
    new_id = moved["id"]
    still = await _denied(connection, kept_id)
    alone = still & set(as_keys(moved["denials"]))
    both = still & set(as_keys(moved["both"]))
    dropped = set(as_keys(moved["dropped"])) & set(
        await face_keys(connection, named_by_hand(kept_id))
    )
    lifted = (set(as_keys(moved["lifted"])) & set(its_faces)) - still
    # With the time of the answer to a question that made them, if one did.
    await _give_denials(connection, kept_id, new_id, alone)
    for some in in_turns(both, AT_ONCE):
        copied = sa.select(
            face_denials.c.image_id,
            face_denials.c.face_index,
            sa.literal(new_id),
            face_denials.c.created_at,
        ).where(face_denials.c.person_id == kept_id, among(face_denials, some))
        columns = ["image_id", "face_index", "person_id", "created_at"]
        await connection.execute(sa.insert(face_denials).from_select(columns, copied))
    anew = [(*key, new_id) for key in sorted(dropped)] + [(*key, kept_id) for key in sorted(lifted)]
    for some_anew in in_turns(anew, AT_ONCE):
        await connection.execute(
            sa.insert(face_denials).values(created_at=database_now()),
            [
                {"image_id": image_id, "face_index": index, "person_id": person_id}
                for image_id, index, person_id in some_anew
            ],
        )
    touched = {image_id for image_id, _ in alone | both | dropped | lifted}
    await note_events(connection, database_now(), EventKind.IMAGE, sorted(touched))


async def face_keys(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> list[FaceId]:
    """Return the keys of some faces, sorted."""
    query = sa.select(faces.c.image_id, faces.c.face_index).where(which)
    return sorted((row.image_id, row.face_index) for row in await connection.execute(query))


def named_by_hand(person_id: int) -> sa.ColumnElement[bool]:
    """Return the condition of the faces of which a hand has said that they are a person's."""
    return sa.and_(are_of(person_id), BY_HAND)


async def share_denials(connection: AsyncConnection, moved: dict[str, Any], merge: Any) -> None:
    """Have denials be of both that were also of whom the one they went to was merged into since."""
    its = sa.select(person_merges.c.moved).where(person_merges.c.person_id == merge.person_id)
    later = [
        other for other in await connection.scalars(its) if merge.id in other.get("merges", [])
    ]
    theirs = {key for other in later for key in as_keys(other["both"])}
    alone = as_keys(moved["denials"])
    moved["denials"] = [key for key in alone if key not in theirs]
    moved["both"] = [*as_keys(moved["both"]), *(key for key in alone if key in theirs)]


async def _denied(connection: AsyncConnection, person_id: int) -> set[FaceId]:
    query = sa.select(face_denials).where(face_denials.c.person_id == person_id)
    return {(row.image_id, row.face_index) for row in await connection.execute(query)}


async def _give_denials(
    connection: AsyncConnection, old_id: int, new_id: int, keys: Iterable[FaceId]
) -> None:
    for some in in_turns(keys, AT_ONCE):
        await connection.execute(
            sa.update(face_denials)
            .where(face_denials.c.person_id == old_id, among(face_denials, some))
            .values(person_id=new_id)
        )


async def _delete_denials(
    connection: AsyncConnection, person_id: int, keys: Iterable[FaceId]
) -> None:
    for some in in_turns(keys, AT_ONCE):
        await connection.execute(
            sa.delete(face_denials).where(
                face_denials.c.person_id == person_id, among(face_denials, some)
            )
        )


async def move_answers(
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


async def return_answers(connection: AsyncConnection, moved: dict[str, Any], kept_id: int) -> None:
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


def among(table: sa.Table, keys: Sequence[FaceId]) -> sa.ColumnElement[bool]:
    """Return the condition of a table's rows that are of one of these faces."""
    return sa.tuple_(table.c.image_id, table.c.face_index).in_(keys)


def as_keys(entries: Iterable[Sequence[int]]) -> list[FaceId]:
    """Return keys of faces, which JSON has as lists."""
    return [(image_id, index) for image_id, index in entries]
