"""What the tables mean by a person and a face's name, in SQL, for all who read or change them."""

from collections.abc import Collection, Iterable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.batches import batched
from services.common.clock import database_now
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.faces import DecidedBy, Likely, Whose
from services.common.object_keys import folder_of
from services.common.tables import erasures, faces, people_work, person_images, persons

_AT_ONCE: Final = 5_000
"""Known pictures of one statement."""

_PASSES: Final = 2
"""The second is over faces that were being recognised during the first by people of before."""

_SAID_BY_HAND: Final = faces.c.decided_by.is_not_distinct_from(DecidedBy.HAND)
# A receiver of before leaves there what it finds, but no distance beside a name.
_NAMED_WITHOUT_DISTANCE: Final = sa.and_(faces.c.person.is_not(None), faces.c.distance.is_(None))

BY_HAND: Final = sa.or_(_SAID_BY_HAND, _NAMED_WITHOUT_DISTANCE)
"""A person has said whose face it is; never NULL."""

LEFT_ITS_ID: Final = sa.and_(_NAMED_WITHOUT_DISTANCE, sa.not_(_SAID_BY_HAND))
"""A receiver of before has named the face by hand: the name counts, the person's id may be that of
whom the face was before."""

_BY_NAME_ALONE: Final = sa.or_(persons.c.id.is_(None), LEFT_ITS_ID)

WHOSE: Final = sa.case((_BY_NAME_ALONE, faces.c.person), else_=persons.c.name)
"""The name of whose face it is, where persons are joined to faces, outer."""

WHOSE_ID: Final = sa.case((_BY_NAME_ALONE, None), else_=persons.c.id)
"""The id of whose face it is; NULL, too, where only a name says it."""

BEING_FORGOTTEN: Final = sa.exists().where(erasures.c.person_id == persons.c.id)
"""For everybody else the person is gone already; the row keeps what is still to go."""

SHOWN_ID: Final = sa.case((BEING_FORGOTTEN, None), else_=WHOSE_ID)
"""What others are told of that id: none of who is gone."""

UNKNOWN: Final = sa.and_(
    faces.c.person.is_(None), faces.c.person_id.is_(None), sa.not_(faces.c.struck_out)
)
"""A face that has no name, and is one."""

FOLDER: Final = sa.func.coalesce(persons.c.folder, persons.c.name)
"""Where a person's known pictures lie."""


def bearer(name: sa.ColumnElement[str] | str) -> sa.ScalarSelect[int]:
    """Return the id of whom a face is that has only this name, as older services write it.

    Of several people who bear it, that is who has it as the folder, else the first.
    """
    one = persons.alias("bearer")
    folder = sa.func.coalesce(one.c.folder, one.c.name)
    return (
        sa.select(one.c.id)
        .where(one.c.name == name)
        .order_by((folder == one.c.name).desc(), one.c.id)
        .limit(1)
        .scalar_subquery()
    )


def lies_in(folders: Collection[str]) -> sa.ColumnElement[bool]:
    """Return the condition that a person's known pictures lie in one of these folders."""
    # Not "folder IS NULL", for which SQLite would walk all who have none.
    return sa.or_(
        persons.c.folder.in_(folders),
        sa.and_(persons.c.name.in_(folders), persons.c.name == FOLDER),
    )


async def whose_pictures(connection: AsyncConnection, image_names: Iterable[str]) -> dict[str, int]:
    """Return the ids of those whose known pictures these are: its row decides, then its folder."""
    found: dict[str, int] = {}
    for some in batched(set(image_names), _AT_ONCE):
        folder_by_name = {name: folder_of(name) for name in some}
        folders = set(folder_by_name.values())
        by_row = sa.select(person_images.c.image_name.label("its_key"), person_images.c.person_id)
        by_folder = sa.select(persons.c.folder, persons.c.id)
        by_name = sa.select(persons.c.name, persons.c.id)
        # A picture's name has a slash, and a folder has none.
        query = by_row.where(person_images.c.image_name.in_(some)).union_all(
            by_folder.where(persons.c.folder.in_(folders)),
            by_name.where(persons.c.name.in_(folders), persons.c.name == FOLDER),
        )
        ids = {row.its_key: row.person_id for row in await connection.execute(query)}
        for name, folder in folder_by_name.items():
            person_id = ids.get(name) or ids.get(folder)
            if person_id is not None:
                found[name] = person_id
    return found


async def find_likely(
    connection: AsyncConnection, candidates: Iterable[Likely], *, lock: bool = False
) -> Whose:
    """Return who each candidate is; with ``lock``, nobody of them goes until the commit.

    Of somebody whose pictures were all put there by hand there may be no row.
    """
    every = list(candidates)
    ids = await whose_pictures(connection, (likely.image_name for likely in every))
    names: dict[int, str] = {}
    # In one order, so that two who lock some of the same do not wait for each other.
    for some in batched(sorted(set(ids.values())), _AT_ONCE):
        query = (
            sa.select(persons.c.id, persons.c.name)
            .where(persons.c.id.in_(some))
            .order_by(persons.c.id)
        )
        if lock:
            query = query.with_for_update(read=True)
        names |= {row.id: row.name for row in await connection.execute(query)}

    def whose(one: Likely) -> tuple[int | None, str]:
        person_id = ids.get(one.image_name)
        return (person_id, names[person_id]) if person_id in names else (None, one.folder)

    return {likely: whose(likely) for likely in every}


async def take_turns(connection: AsyncConnection) -> None:
    """Let one change of people be made at a time.

    Two people could get one picture at once, and a person could go while a picture comes. This row
    is the one that every database has; SQLite has one writer anyway.
    """
    await connection.execute(
        sa.select(sa.column("version_num"))
        .select_from(sa.table("alembic_version"))
        .with_for_update()
    )


async def note_change(
    connection: AsyncConnection, person_id: int, folder: str | None = None, *, removed: bool = False
) -> None:
    """Have stored faces decided again, because a person has changed; tell those who follow along.

    The folder is looked up unless it is told; of whom there is none, nothing is done. ``removed``:
    known pictures went.
    """
    if folder is None:
        its = sa.select(FOLDER).where(persons.c.id == person_id)
        if (folder := await connection.scalar(its)) is None:
            return
    changed: dict[str, Any] = {
        "folder": folder,
        "due_at": database_now(),
        "claim_token": None,
        "after_image_id": 0,
        "passes_left": _PASSES,
        **({"removed": True} if removed else {}),
    }
    values = {"person_id": person_id, "removed": removed, **changed}
    insert: sa.Insert
    if connection.dialect.name == "sqlite":
        insert = (
            sqlite.insert(people_work)
            .values(values)
            .on_conflict_do_update(index_elements=[people_work.c.person_id], set_=changed)
        )
    else:
        insert = mysql.insert(people_work).values(values).on_duplicate_key_update(changed)
    await connection.execute(insert)
    await note_events(connection, database_now(), EventKind.PERSON, [person_id])
