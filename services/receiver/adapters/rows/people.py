"""People in the database: found, listed, named, hidden and deleted."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.batches import batched
from services.common.clock import database_now
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.object_info import ObjectInfo
from services.common.person_names import by_id
from services.common.person_rows import BEING_FORGOTTEN, FOLDER, LEFT_ITS_ID, lies_in, note_change
from services.common.picture_rows import forget_pictures, remove_soon
from services.common.tables import (
    face_denials,
    faces,
    person_images,
    person_merges,
    persons,
    same_face,
)
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.garbage import find_strays
from services.receiver.adapters.rows.known_pictures import PICTURE_COLUMNS, known_picture
from services.receiver.adapters.rows.named_faces import (
    CHANGED,
    adopt,
    find_bearer,
    lock_face,
    take_names,
)
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.adapters.rows.people_changes import (
    add_person,
    begin_leaving,
    changing_people,
    check_settled,
    check_whole,
    find_somebody,
    lock_person,
    lock_somebody,
    meant_by,
    settle_names,
)
from services.receiver.domain.cursors import Page, PersonKey
from services.receiver.domain.erasing import Stage
from services.receiver.domain.errors import ConflictError
from services.receiver.domain.faces import FaceKey, no_face
from services.receiver.domain.merges import Merge
from services.receiver.domain.people import Person, Somebody

_AT_ONCE: Final = 5_000
"""Values of one statement."""


class DatabasePeople(OnDatabase):
    """The port ``People`` on a database."""

    async def all(self) -> tuple[Person, ...]:
        return await self._load(sa.select(persons).where(~persons.c.hidden))

    async def page(
        self,
        *,
        who: str | None,
        part: str | None,
        hidden: bool,
        after: PersonKey | None,
        limit: int,
    ) -> Page[Person, PersonKey]:
        # Told, because MariaDB sorts everybody where it believes that to be as quick.
        query = sa.select(persons).with_hint(persons, "FORCE INDEX (ix_persons_name)", "mysql")
        if who is not None:
            query = sa.select(persons).where(meant_by(who))
        if part:
            # SQLite's lower() knows no letters but those of ASCII, so of others it finds the usual
            # forms: as they are, small, and capital at the start of words.
            query = query.where(
                sa.or_(
                    sa.func.lower(persons.c.name).contains(part.lower(), autoescape=True),
                    persons.c.name.contains(part.title(), autoescape=True),
                )
            )
        if after is not None:
            beyond = sa.or_(persons.c.name > after.name, persons.c.id > after.id)
            query = query.where(persons.c.name >= after.name, beyond)
        query = query.where(persons.c.hidden == hidden, ~BEING_FORGOTTEN)
        # One more tells whether there is a next page.
        found = await self._load(query.order_by(persons.c.name, persons.c.id).limit(limit + 1))
        last = found[limit - 1] if len(found) > limit else None
        return Page(found[:limit], PersonKey(last.name, last.id) if last else None)

    async def get(self, person_id: int) -> Person | None:
        found = await self._load(sa.select(persons).where(persons.c.id == person_id))
        if not found:
            return None
        columns = person_merges.c.id, person_merges.c.name, person_merges.c.created_at
        its = sa.select(*columns).where(person_merges.c.person_id == person_id)
        async with self._database.reading() as connection:
            merges = await connection.execute(its.order_by(person_merges.c.id))
            return replace(found[0], merges=tuple(Merge(*row) for row in merges))

    async def _load(self, people: sa.Select[Any]) -> tuple[Person, ...]:
        chosen = people.subquery()
        async with self._database.reading() as connection:
            found = await connection.execute(
                sa.select(
                    chosen.c.id.label("person_id"),
                    chosen.c.name.label("person"),
                    chosen.c.hidden,
                    *PICTURE_COLUMNS,
                )
                .select_from(
                    chosen.outerjoin(person_images, person_images.c.person_id == chosen.c.id)
                )
                .order_by(chosen.c.name, chosen.c.id, person_images.c.id)
            )
            rows = found.all()
            stand_for = await _faces_for(connection, [row.person_id for row in rows])
        return tuple(
            Person(
                first.person_id,
                first.person,
                bool(first.hidden),
                stand_for.get(first.person_id),
                tuple(known_picture(row) for row in (first, *others) if row.id is not None),
            )
            for _, (first, *others) in itertools.groupby(rows, key=lambda row: row.person_id)
        )

    async def who(
        self, who: str, *, another: bool = False, others: Collection[str] = ()
    ) -> Somebody:
        async with self._database.reading() as connection:
            return await find_somebody(connection, who, another=another, others=others)

    async def of_folder(self, folder: str) -> Somebody:
        its = sa.select(persons.c.id, persons.c.name).where(lies_in([folder]))
        async with self._database.reading() as connection:
            found = (await connection.execute(its)).first()
        return Somebody(found.id, found.name, folder) if found else Somebody(None, folder, folder)

    async def bearer(self, name: str) -> int | None:
        async with self._database.reading() as connection:
            return await find_bearer(connection, name)

    @retry_on_conflict
    async def rename(
        self, person_id: int, new: str, *, another: bool = False, beside: bool = False
    ) -> bool:
        its = persons.c.id == person_id
        async with changing_people(self._database) as connection:
            name = await lock_person(connection, person_id)
            if name is None:
                return False
            if new == name:
                return True
            others = sa.select(persons.c.id).where(persons.c.name == new, ~BEING_FORGOTTEN)
            other = await connection.scalar(others.order_by(persons.c.id).limit(1))
            if other is not None and not another:
                raise ConflictError(
                    f"{new!r} is the name of somebody else, {by_id(other)}: if both are to have it,"
                    ' say "another": true'
                )
            await settle_names(connection, name)
            await settle_names(connection, new, beside=beside)
            # Who has no folder yet keeps the one that the name was. In a statement of its own:
            # MariaDB sets one column after the other.
            await connection.execute(sa.update(persons).where(its).values(folder=FOLDER))
            await connection.execute(sa.update(persons).where(its).values(name=new))
            await note_change(connection, person_id)
        return True

    @retry_on_conflict
    async def hide(self, person_id: int, *, hidden: bool) -> bool:
        async with changing_people(self._database) as connection:
            if await lock_person(connection, person_id) is None:
                return False
            await connection.execute(
                sa.update(persons).where(persons.c.id == person_id).values(hidden=hidden)
            )
            await note_events(connection, database_now(), EventKind.PERSON, [person_id])
        return True

    @retry_on_conflict
    async def choose_face(self, person_id: int, face: FaceKey | None) -> bool:
        chosen = {
            "face_image_id": face.image_id if face else None,
            "face_index": face.index if face else None,
        }
        async with changing_people(self._database) as connection:
            stored = await lock_face(connection, face) if face else None
            if face and stored is None:
                raise no_face(face.image_id, face.index)
            if await lock_person(connection, person_id) is None:
                return False
            if face and stored and stored.person_id != person_id:
                raise ConflictError(
                    f"face {face.index} of image {face.image_id} is not a face of this person:"
                    " name it first"
                )
            await connection.execute(
                sa.update(persons).where(persons.c.id == person_id).values(chosen)
            )
            await note_events(connection, database_now(), EventKind.PERSON, [person_id])
        return True

    @retry_on_conflict
    async def delete(self, person: Somebody, found: Sequence[ObjectInfo]) -> int:
        async with changing_people(self._database) as connection:
            person_id = await lock_somebody(connection, person)
            if person_id is None and person.folder != person.name:
                return 0  # nobody is called so, and what lies there is not theirs
            await check_settled(connection, person_id)
            await check_whole(connection, person_id)
            gone: set[str] = set()
            if person_id is not None:
                gone = await forget_pictures(connection, person_images.c.person_id == person_id)
            strays = await find_strays(connection, found, gone)
            await remove_soon(connection, strays)
            removed = (person_id is not None) + len(gone) + len(strays)
            if removed:
                if person_id is None:
                    # An id to call them by, for those who look at all faces that were theirs.
                    person_id = await add_person(connection, person)
                if await find_bearer(connection, person.name) == person_id:
                    await adopt(connection, person_id, person.name)
                denied = sa.select(face_denials.c.image_id).where(
                    face_denials.c.person_id == person_id
                )
                if (
                    await take_names(connection, person_id, CHANGED)
                    or await connection.scalar(denied.offset(CHANGED).limit(1)) is not None
                ):
                    await begin_leaving(
                        connection,
                        person_id,
                        person,
                        folders=[person.folder],
                        pictures=False,
                        stage=Stage.NAMES,
                    )
                    return removed
                await connection.execute(sa.delete(persons).where(persons.c.id == person_id))
                await note_change(connection, person_id, person.folder, removed=True)
        return removed


async def _faces_for(connection: AsyncConnection, person_ids: Sequence[int]) -> dict[int, FaceKey]:
    """Return a face that stands for each of some people, who have one.

    That is the chosen one, else the best that a hand has named, else the first of theirs.
    """
    best: dict[int, tuple[tuple[int, float], FaceKey]] = {}
    for some in batched(sorted(set(person_ids)), _AT_ONCE):
        for row in await connection.execute(_faces_of_theirs(persons.c.id.in_(some))):
            rank = (row.rank, row.quality.score if row.quality else 0.0)
            if row.id not in best or rank > best[row.id][0]:
                best[row.id] = rank, FaceKey(row.image_id, row.face_index)
    return {person_id: key for person_id, (_, key) in best.items()}


def _faces_of_theirs(its: sa.ColumnElement[bool]) -> sa.CompoundSelect[Any]:
    def ranked(rank: int, source: sa.FromClause, *conditions: sa.ColumnElement[bool]) -> Any:
        columns = faces.c.image_id, faces.c.face_index, faces.c.quality
        return (
            sa.select(persons.c.id, sa.literal(rank).label("rank"), *columns)
            .select_from(source)
            .where(its, faces.c.person_id == persons.c.id, ~LEFT_ITS_ID, *conditions)
        )

    chosen = sa.and_(
        faces.c.image_id == persons.c.face_image_id, faces.c.face_index == persons.c.face_index
    )
    cut_out = same_face(faces, person_images)
    one = faces.alias()
    first = sa.select(sa.func.min(one.c.image_id)).where(one.c.person_id == persons.c.id)
    return sa.union_all(
        ranked(2, persons.join(faces, chosen)),
        ranked(
            1,
            persons.join(person_images, person_images.c.person_id == persons.c.id).join(
                faces, cut_out
            ),
        ),
        ranked(
            0,
            persons.join(faces, faces.c.person_id == persons.c.id),
            faces.c.image_id == first.scalar_subquery(),
        ),
    )
