"""The parts that changes of people are made of, each in the transaction of the change.

Rows are locked in this order: the turn, notes of objects, the image, the person, known pictures,
faces, people_work. image_processor goes from the image over people to faces, too. The service
people goes the other way, from people_work over faces to persons: both try again after a deadlock.
"""

import itertools
import unicodedata
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now, now_ms
from services.common.database import Database
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.person_names import by_id, id_of
from services.common.person_rows import BEING_FORGOTTEN, FOLDER, bearer, lies_in, take_turns
from services.common.tables import erasures, people_work, person_merges, persons
from services.receiver.adapters.rows.named_faces import adopt, find_bearer
from services.receiver.domain.acts import acting
from services.receiver.domain.errors import ConflictError, NotFoundError
from services.receiver.domain.people import Somebody

_NAMED: Final = 10
"""Of people of one name, so many are told to whoever did not say which one."""

_SOMEBODY: Final = sa.select(
    persons.c.id,
    persons.c.name,
    FOLDER.label("its_folder"),
    (bearer(persons.c.name) == persons.c.id).label("has_name_alone"),
).order_by(persons.c.id)


_FOLDER_LETTERS: Final = 40
"""Of a name in a folder that cannot be the name: at most 160 bytes, with room for a number."""


@asynccontextmanager
async def changing_people(database: Database) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that changes people, or who faces are, when its turn has come."""
    async with database.transaction() as connection:
        await take_turns(connection)
        yield connection


async def find_somebody(
    connection: AsyncConnection, who: str, *, another: bool = False, others: Collection[str] = ()
) -> Somebody:
    """Return who is meant by a name or ``~id``; with ``another``, somebody new of the name.

    The folder of somebody new is none of the ``others``. Raises ``NotFoundError`` when nobody has
    the id, ``ConflictError`` when several people have the name.
    """
    if not another:
        found = (await connection.execute(_SOMEBODY.where(meant_by(who)).limit(_NAMED))).all()
        if len(found) > 1:
            raise ConflictError(
                f"{_several(found)} are called {who!r}: say which one, "
                + " or ".join(by_id(person.id) for person in found)
            )
        if found:
            return Somebody(*found[0])
        if (person_id := id_of(who)) is not None:
            raise NotFoundError(f"there is nobody with the id {person_id}")
    folder = await _new_folder(connection, who, others)
    return Somebody(None, who, folder, has_name_alone=not another, another=another)


def meant_by(who: str) -> sa.ColumnElement[bool]:
    """Return the condition of the people whom a name or ``~id`` may mean."""
    person_id = id_of(who)
    its = persons.c.name == who if person_id is None else persons.c.id == person_id
    return sa.and_(its, ~BEING_FORGOTTEN)


def _several(found: Sequence[object]) -> str:
    return f"{len(found)} people" if len(found) < _NAMED else "many people"


async def _new_folder(connection: AsyncConnection, name: str, others: Collection[str]) -> str:
    if name not in others and not await is_taken(connection, name):
        return name
    # Somebody has it, or who was called so before. Others find the same one at the same time.
    letters = "".join(
        letter for letter in name[:_FOLDER_LETTERS] if letter.isalnum() or letter == " "
    )
    stem = unicodedata.normalize("NFC", letters).strip()
    for number in itertools.count(2):
        numbered = f"{stem}~{number}"
        if numbered not in others and not await is_taken(connection, numbered):
            return numbered
    raise AssertionError("unreachable")


async def is_taken(connection: AsyncConnection, folder: str) -> bool:
    """Tell whether somebody's known pictures lie in a folder, or would lie there."""
    return bool(await connection.scalar(sa.select(sa.exists().where(lies_in([folder])))))


async def lock_somebody(connection: AsyncConnection, person: Somebody) -> int | None:
    """Lock the person who is meant and return the id, None when there is no row yet.

    Raises :class:`ConflictError` when that is somebody else by now.
    """
    person_id = person.id
    if person_id is None and not person.another:
        now = await find_somebody(connection, person.name)
        if now.id is not None and now.folder == person.folder:
            person_id = now.id  # has just come
            _note_act(person_id)
    if person_id is None:
        if not await is_taken(connection, person.folder):
            return None
    elif await lock_person(connection, person_id) is not None:
        return person_id
    raise ConflictError(f"{person.name!r} has just come, gone or got another name: try again")


async def lock_person(connection: AsyncConnection, person_id: int) -> str | None:
    """Lock a person and return their name; None when nobody has the id."""
    its = sa.select(persons.c.name).where(persons.c.id == person_id, ~BEING_FORGOTTEN)
    name: str | None = await connection.scalar(its.with_for_update())
    return name


async def add_person(connection: AsyncConnection, person: Somebody) -> int:
    """Make the row of a person and return its id."""
    await settle_names(connection, person.name, beside=person.beside)
    person_id = await insert_person(connection, person.name, person.folder)
    _note_act(person_id)
    return person_id


def _note_act(person_id: int) -> None:
    if act := acting.get():
        act.about_new_person(person_id)


async def settle_names(connection: AsyncConnection, name: str, *, beside: bool = False) -> None:
    """Give the faces that have a name alone to who bears it, before another does.

    ``beside``: that is whose pictures lie in the folder of the name, and who has no row yet.
    """
    if beside and not await is_taken(connection, name):
        await insert_person(connection, name, name)
    if person_id := await find_bearer(connection, name):
        await adopt(connection, person_id, name)


async def insert_person(connection: AsyncConnection, name: str, folder: str, **more: Any) -> int:
    """Make the row of a person, with these values, too, and return its id."""
    inserted: sa.CursorResult[tuple[()]] = await connection.execute(
        sa.insert(persons).values({"name": name, "folder": folder, "created_at": now_ms(), **more})
    )
    return int(inserted.lastrowid)


async def check_settled(connection: AsyncConnection, person_id: int | None) -> None:
    """Raise ``ConflictError`` while faces of somebody who was merged still become this person's."""
    still = sa.exists().where(
        person_merges.c.person_id == person_id,
        person_merges.c.moved["id"].as_integer() == erasures.c.person_id,
    )
    if await connection.scalar(sa.select(still)):
        raise ConflictError(
            "somebody was just said to be this person, and their faces are still coming:"
            " try again in a moment"
        )


async def check_whole(connection: AsyncConnection, person_id: int | None) -> None:
    """Raise ``ConflictError`` while faces return, to or from this person, as a merge was wrong."""
    gone = person_merges.c.moved["id"].as_integer()
    # Of somebody who is there, only such a merge is.
    is_there = sa.exists().where(persons.c.id == gone, ~BEING_FORGOTTEN)
    theirs = sa.and_(person_merges.c.person_id == person_id, is_there)
    still = sa.exists().where(sa.or_(gone == person_id, theirs))
    if person_id is not None and await connection.scalar(sa.select(still)):
        raise ConflictError(
            "a merge of this person is still being taken back: take it back once more"
        )


async def begin_leaving(
    connection: AsyncConnection,
    person_id: int,
    person: Somebody,
    *,
    name: str | None = None,
    **erasure: Any,
) -> None:
    """Have somebody be gone for all others from now on; the rest is done in parts.

    Faces that are still theirs show the name, None: none at all.
    """
    await connection.execute(
        sa.insert(erasures).values(
            person_id=person_id,
            name=person.name,
            after_image_id=0,
            due_at=database_now(),
            **erasure,
        )
    )
    its = persons.c.id == person_id
    # In a statement of its own: MariaDB sets one column after the other.
    await connection.execute(sa.update(persons).where(its).values(folder=FOLDER))
    await connection.execute(
        sa.update(persons).where(its).values(name=name or by_id(person_id), hidden=True)
    )
    # Whoever is deciding on their faces loses the claim, and nobody takes it up.
    await connection.execute(
        sa.update(people_work).where(people_work.c.person_id == person_id).values(claim_token=None)
    )
    await note_events(connection, database_now(), EventKind.PERSON, [person_id])
