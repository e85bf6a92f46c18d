"""Groups of unknown faces in the database, and the questions that they raise.

Rows are locked in the order of :mod:`people_changes`, those of groups after those of faces.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.batches import batched
from services.common.clock import database_now
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.group_rows import current_groups
from services.common.person_names import by_id
from services.common.person_rows import BY_HAND, UNKNOWN, note_change
from services.common.tables import (
    erasures,
    face_denials,
    face_groups,
    faces,
    group_denials,
    group_faces,
    group_questions,
    images,
    person_images,
    persons,
    same_face,
)
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.named_faces import (
    are_denied,
    by_hand,
    is_face,
    note_images,
    take_denied_names,
)
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.adapters.rows.people_changes import (
    add_person,
    changing_people,
    lock_person,
    lock_somebody,
    meant_by,
)
from services.receiver.domain.cursors import Page, Pair
from services.receiver.domain.errors import ConflictError, NotFoundError
from services.receiver.domain.faces import FaceKey
from services.receiver.domain.groups import Answer, Group, Member, Question
from services.receiver.domain.people import Somebody

FACES: Final = 8
"""Of a group in a list."""

_AT_ONCE: Final = 500
"""Faces of one statement."""

# The rows follow a moment after the faces.
_MEMBERS: Final = (
    sa.select(group_faces.c.group_id, group_faces.c.image_id, group_faces.c.face_index)
    .join_from(group_faces, faces, same_face(faces, group_faces))
    .where(UNKNOWN)
    .order_by(group_faces.c.image_id, group_faces.c.face_index)
)

_PLACE: Final = sa.tuple_(group_faces.c.image_id, group_faces.c.face_index)


class DatabaseGroups(OnDatabase):
    """The port ``GroupRows`` on a database."""

    async def page(self, *, after: Pair | None, limit: int) -> Page[Group, Pair]:
        query = sa.select(face_groups.c.size, face_groups.c.id).where(face_groups.c.size > 0)
        if after is not None:
            smaller = face_groups.c.size < after.first
            same = sa.and_(face_groups.c.size == after.first, face_groups.c.id < after.second)
            query = query.where(face_groups.c.size <= after.first, sa.or_(smaller, same))
        query = query.order_by(face_groups.c.size.desc(), face_groups.c.id.desc())
        async with self._database.reading() as connection:
            # One more tells whether there is a next page.
            rows = (await connection.execute(query.limit(limit + 1))).all()
            shown = await _with_faces(connection, {row.id: row.size for row in rows[:limit]})
        last = Pair(*rows[limit - 1]) if len(rows) > limit else None
        return Page(tuple(shown.values()), last)

    async def group(self, group_id: int, *, after: Pair | None, limit: int) -> Group | None:
        async with self._database.reading() as connection:
            found = (await _group_sizes(connection, [group_id])).get(group_id)
            if found is None:
                return None
            its, size = found
            query = _MEMBERS.where(group_faces.c.group_id == its)
            if after is not None:
                later = sa.and_(
                    group_faces.c.image_id == after.first, group_faces.c.face_index > after.second
                )
                query = query.where(
                    group_faces.c.image_id >= after.first,
                    sa.or_(group_faces.c.image_id > after.first, later),
                )
            rows = (await connection.execute(query.limit(limit + 1))).all()
        keys = tuple(FaceKey(row.image_id, row.face_index) for row in rows[:limit])
        if not keys and after is None:
            return None
        more = len(rows) > limit
        return Group(its, size, keys, Pair(keys[-1].image_id, keys[-1].index) if more else None)

    async def members(self, group_id: int, person_id: int | None) -> Sequence[Member]:
        query = _MEMBERS.add_columns(faces.c.quality, images.c.processed_at).join(
            images, images.c.id == faces.c.image_id
        )
        async with self._database.reading() as connection:
            its = (await current_groups(connection, [group_id]))[group_id]
            rows = await connection.execute(
                query.where(group_faces.c.group_id == its, ~are_denied(person_id))
            )
        return [
            Member(
                FaceKey(row.image_id, row.face_index),
                row.processed_at,
                row.quality.score if row.quality else 0.0,
            )
            for row in rows
        ]

    async def is_unknown(self, member: Member, person_id: int | None) -> bool:
        query = (
            sa.select(images.c.id)
            .join_from(faces, images)
            .where(
                is_face(faces, member.key),
                UNKNOWN,
                ~are_denied(person_id),
                images.c.processed_at.is_not_distinct_from(member.processed_at),
            )
        )
        async with self._database.reading() as connection:
            return (await connection.execute(query)).first() is not None

    @retry_on_conflict
    async def strike(self, group_id: int, keys: Collection[FaceKey]) -> int:
        struck: list[FaceKey] = []
        async with self._database.transaction() as connection:
            for some in batched(sorted({(key.image_id, key.index) for key in keys}), _AT_ONCE):
                query = sa.select(group_faces).where(_PLACE.in_(some)).with_for_update()
                rows = (await connection.execute(query)).all()
                ends = await current_groups(connection, {group_id, *(row.group_id for row in rows)})
                its = [row for row in rows if ends[row.group_id] == ends[group_id]]
                struck += (FaceKey(row.image_id, row.face_index) for row in its)
                for row in its:
                    denial = {
                        "image_id": row.image_id,
                        "face_index": row.face_index,
                        "group_id": row.group_id,
                    }
                    same = [group_denials.c[name] == value for name, value in denial.items()]
                    await connection.execute(sa.delete(group_denials).where(*same))
                    await connection.execute(
                        sa.insert(group_denials).values(**denial, created_at=database_now())
                    )
            for some in batched([(key.image_id, key.index) for key in struck], _AT_ONCE):
                await connection.execute(sa.delete(group_faces).where(_PLACE.in_(some)))
            ids = sorted({key.image_id for key in struck})
            await note_events(connection, database_now(), EventKind.IMAGE, ids)
        return len(struck)

    async def name(self, members: Sequence[Member], person_id: int) -> int:
        """Name by hand those faces that are still unknown, and return how many.

        So many in a transaction: others wait for one of these, not for all.
        """
        return sum([await self._name(some, person_id) for some in batched(members, _AT_ONCE)])

    @retry_on_conflict
    async def _name(self, members: Sequence[Member], person_id: int) -> int:
        async with changing_people(self._database) as connection:
            same = await _of_same_results(connection, members)
            name = await lock_person(connection, person_id)
            if name is None:
                raise ConflictError(f"the person {by_id(person_id)} has just gone")
            its = sa.tuple_(faces.c.image_id, faces.c.face_index).in_(same)
            unnamed = sa.and_(its, UNKNOWN, ~are_denied(person_id))
            updating = sa.update(faces).where(unnamed).values(by_hand(person_id, name))
            named = (await connection.execute(updating)).rowcount
            theirs = sa.exists().where(
                same_face(faces, group_faces), faces.c.person_id == person_id
            )
            await connection.execute(sa.delete(group_faces).where(_PLACE.in_(same), theirs))
            if named:
                ids = sorted({image_id for image_id, _ in same})
                await note_events(connection, database_now(), EventKind.IMAGE, ids)
                await note_change(connection, person_id)
        return named

    @retry_on_conflict
    async def allow(self, group_id: int, person_id: int) -> None:
        async with changing_people(self._database) as connection:
            its = (await current_groups(connection, [group_id]))[group_id]
            of_person = group_questions.c.person_id == person_id
            answers = await _answers(connection, its, Answer.NO, of_person)
            if answers:
                in_it = sa.exists().where(
                    same_face(group_faces, face_denials), group_faces.c.group_id == its
                )
                said_at = face_denials.c.created_at.in_([row.answered_at for row in answers])
                await _lift_denials(connection, person_id, said_at, in_it)
                ids = [row.id for row in answers]
                await connection.execute(
                    sa.delete(group_questions).where(group_questions.c.id.in_(ids))
                )

    @retry_on_conflict
    async def make_another(self, group_id: int, person: Somebody) -> int | None:
        """Make somebody new for a group, or return who was; None without an unknown face.

        A question that is answered with yes holds who was made.
        """
        async with changing_people(self._database) as connection:
            its = (await current_groups(connection, [group_id]))[group_id]
            made = await _answers(connection, its, Answer.YES, meant_by(person.name))
            if made:
                return int(made[0].person_id)
            there = _MEMBERS.where(group_faces.c.group_id == its).limit(1)
            if (await connection.execute(there)).first() is None:
                return None
            await lock_somebody(connection, person)
            person_id = await add_person(connection, person)
            now = database_now()
            answered = {"answer": Answer.YES, "answered_at": now, "created_at": now}
            await connection.execute(
                sa.insert(group_questions).values(
                    group_id=group_id, person_id=person_id, **answered
                )
            )
            await note_events(connection, now, EventKind.PERSON, [person_id])
        return person_id

    @retry_on_conflict
    async def end_another(self, person_id: int, *, goes_on: bool) -> None:
        """Forget that somebody was made for a group, or them, where nothing is theirs."""
        theirs = [
            sa.exists().where(table.c.person_id == person_id) for table in (faces, person_images)
        ]
        made = sa.and_(
            group_questions.c.person_id == person_id, group_questions.c.answer == Answer.YES
        )
        async with changing_people(self._database) as connection:
            if await lock_person(connection, person_id) is None:
                return
            if not await connection.scalar(sa.select(sa.or_(*theirs))):
                await connection.execute(sa.delete(persons).where(persons.c.id == person_id))
                await note_events(connection, database_now(), EventKind.PERSON, [person_id])
            elif not goes_on:
                await connection.execute(sa.delete(group_questions).where(made))

    async def questions(self, limit: int) -> Sequence[Question]:
        forgotten = sa.exists().where(erasures.c.person_id == group_questions.c.person_id)
        query = (
            sa.select(group_questions)
            .where(
                group_questions.c.answer.is_(None),
                group_questions.c.likeness.is_not(None),
                ~forgotten,
            )
            .order_by(group_questions.c.likeness.desc(), group_questions.c.id)
        )
        found: list[Question] = []
        async with self._database.reading() as connection:
            # They are few, but their faces are not.
            rows = (await connection.execute(query)).all()
            for some in batched(rows, limit):
                found += await _shown(connection, some)
                if len(found) >= limit:
                    break
        return found[:limit]

    async def question(self, question_id: int) -> Question | None:
        query = sa.select(group_questions).where(
            group_questions.c.id == question_id,
            group_questions.c.answer.is_distinct_from(Answer.YES),
        )
        async with self._database.reading() as connection:
            found = await _shown(connection, (await connection.execute(query)).all())
        return found[0] if found else None

    @retry_on_conflict
    async def answer(self, question_id: int, answer: Answer | None) -> None:
        async with changing_people(self._database) as connection:
            its = group_questions.c.id == question_id
            row = (await connection.execute(sa.select(group_questions).where(its))).one_or_none()
            if row is None:
                raise _no_question(question_id)
            said_before = row.answer == Answer.NO
            if said_before and answer != Answer.NO:
                await self._take_back(connection, row)
            # A no that is said once more is of the faces that are there now, too.
            at = row.answered_at if said_before else await self._moment(connection)
            if answer == Answer.NO:
                await self._deny(connection, row, at)
            answered = await connection.execute(
                sa.update(group_questions)
                .where(its)
                .values(answer=answer, answered_at=None if answer is None else at)
            )
            if not answered.rowcount:
                raise _no_question(question_id)

    async def _moment(self, connection: AsyncConnection) -> int:
        """Return the time, of this answer alone: what it denies of faces bears it."""
        last = sa.select(sa.func.max(group_questions.c.answered_at)).scalar_subquery()
        now, before = (await connection.execute(sa.select(database_now(), last))).one()
        return int(max(now, (before or 0) + 1))

    async def _deny(self, connection: AsyncConnection, question: Any, at: int) -> None:
        """Write down of each face that is in the groups now what was said of them."""
        if question.person_id is not None:
            if await lock_person(connection, question.person_id) is None:
                raise _no_question(question.id)
            its = (await current_groups(connection, [question.group_id]))[question.group_id]
            # A machine may have named some just now; what another hand has said counts.
            not_by_hand = sa.and_(~BY_HAND, ~faces.c.struck_out)
            person = face_denials.c.person_id, question.person_id
            await _say_again(connection, its, question.person_id, at)
            await _deny_faces(connection, its, *person, at=at, which=not_by_hand)
            await take_denied_names(connection, question.person_id)
            its_denials = sa.and_(
                face_denials.c.person_id == question.person_id, face_denials.c.created_at == at
            )
            await _note_denials(connection, question.person_id, its_denials)
            return
        ends = await _hold_groups(connection, [question.group_id, question.other_group_id])
        one, other = ends[question.group_id], ends[question.other_group_id]
        if one == other:
            raise _no_question(question.id)
        for mine, its in ((one, other), (other, one)):
            await _deny_faces(connection, mine, group_denials.c.group_id, its, at=at)

    async def _take_back(self, connection: AsyncConnection, question: Any) -> None:
        """Forget what a no said of faces."""
        if question.person_id is not None:
            said_at = face_denials.c.created_at == question.answered_at
            await _lift_denials(connection, question.person_id, said_at)
        else:
            said_at = group_denials.c.created_at == question.answered_at
            await connection.execute(sa.delete(group_denials).where(said_at))

    @retry_on_conflict
    async def settle(self, question_id: int) -> None:
        unanswered = sa.and_(
            group_questions.c.id == question_id, group_questions.c.answer.is_(None)
        )
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(group_questions).where(unanswered))


async def _lift_denials(
    connection: AsyncConnection, person_id: int, *conditions: sa.ColumnElement[bool]
) -> None:
    """Forget of some faces that they are not a person's."""
    which = sa.and_(face_denials.c.person_id == person_id, *conditions)
    await _note_denials(connection, person_id, which)
    await connection.execute(sa.delete(face_denials).where(which))


async def _note_denials(
    connection: AsyncConnection, person_id: int, which: sa.ColumnElement[bool]
) -> None:
    """Have it told, and stored faces decided again, that these denials come or go."""
    await note_images(connection, face_denials, which)
    await note_change(connection, person_id)


async def _answers(
    connection: AsyncConnection, group_id: int, answer: Answer, whom: sa.ColumnElement[bool]
) -> Sequence[Any]:
    """Return what was answered so about people and a group, or those that it was made of."""
    query = (
        sa.select(group_questions)
        .join_from(group_questions, persons)
        .where(group_questions.c.answer == answer, whom)
    )
    rows = (await connection.execute(query)).all()
    now = await current_groups(connection, {row.group_id for row in rows})
    return [row for row in rows if now[row.group_id] == group_id]


async def _of_same_results(
    connection: AsyncConnection, members: Sequence[Member]
) -> list[tuple[int, int]]:
    """Lock the images of faces, and return the faces that are of the results that there are."""
    query = (
        sa.select(images.c.id, images.c.processed_at)
        .where(images.c.id.in_(sorted({member.key.image_id for member in members})))
        .order_by(images.c.id)
        .with_for_update()
    )
    now = {row.id: row.processed_at for row in await connection.execute(query)}
    return [
        (member.key.image_id, member.key.index)
        for member in members
        if member.key.image_id in now and now[member.key.image_id] == member.processed_at
    ]


async def _group_sizes(
    connection: AsyncConnection, groups: Iterable[int]
) -> dict[int, tuple[int, int]]:
    """Return of each group, if it is there, in which one its faces are, and the size of that."""
    ends = await current_groups(connection, groups)
    query = sa.select(face_groups.c.id, face_groups.c.size).where(
        face_groups.c.id.in_(set(ends.values()))
    )
    sizes = {row.id: row.size for row in await connection.execute(query)}
    return {group_id: (end, sizes[end]) for group_id, end in ends.items() if end in sizes}


async def _with_faces(connection: AsyncConnection, sizes: Mapping[int, int]) -> dict[int, Group]:
    """Return those groups, by id with their size, that have a face, each with its first faces."""
    if not sizes:
        return {}
    first = [
        _MEMBERS.where(group_faces.c.group_id == group_id).limit(FACES).subquery().select()
        for group_id in sizes
    ]
    rows = (await connection.execute(sa.union_all(*first))).all()
    found = {
        group_id: tuple(FaceKey(row.image_id, row.face_index) for row in its)
        for group_id, its in itertools.groupby(rows, key=lambda row: row.group_id)
    }
    return {
        group_id: Group(group_id, size, found[group_id])
        for group_id, size in sizes.items()
        if group_id in found
    }


def _no_question(question_id: int) -> NotFoundError:
    return NotFoundError(f"there is no question {question_id} any more")


async def _shown(connection: AsyncConnection, rows: Sequence[Any]) -> list[Question]:
    """Return questions, but those of groups that are one by now, or without a face."""
    asked = {
        group_id
        for row in rows
        for group_id in (row.group_id, row.other_group_id)
        if group_id is not None
    }
    now = await _group_sizes(connection, asked)
    shown = await _with_faces(connection, dict(now.values()))
    found = {group_id: shown[its] for group_id, (its, _) in now.items() if its in shown}
    return [
        Question(
            row.id,
            row.likeness or 0.0,
            found[row.group_id],
            None if row.other_group_id is None else found[row.other_group_id],
            row.person_id,
        )
        for row in rows
        if row.group_id in found
        and (row.other_group_id is None or row.other_group_id in found)
        and found.get(row.other_group_id) != found[row.group_id]
    ]


async def _hold_groups(connection: AsyncConnection, groups: Collection[int]) -> dict[int, int]:
    """Return in which group the faces of each are; nobody joins these until the commit."""
    while True:
        ends = await current_groups(connection, groups)
        lock = sa.select(face_groups.c.merged_into).where(face_groups.c.id.in_(ends.values()))
        if not any(await connection.scalars(lock.with_for_update(read=True))):
            return ends


async def _say_again(connection: AsyncConnection, group_id: int, person_id: int, at: int) -> None:
    """Have denials that another answer made of faces of a group be of this one: the last counts."""
    answers = sa.select(group_questions.c.answered_at).where(
        group_questions.c.person_id == person_id, group_questions.c.answer == Answer.NO
    )
    await connection.execute(
        sa.update(face_denials)
        .where(
            face_denials.c.person_id == person_id,
            face_denials.c.created_at.in_(answers),
            sa.exists().where(
                same_face(group_faces, face_denials), group_faces.c.group_id == group_id
            ),
        )
        .values(created_at=at)
    )


async def _deny_faces(
    connection: AsyncConnection,
    group_id: int,
    column: sa.Column[int],
    value: int,
    *,
    at: int,
    which: sa.ColumnElement[bool] | None = None,
) -> None:
    """Write a denial of this value of each such face of a group, where there is none yet."""
    table = column.table
    there = sa.exists().where(same_face(table, group_faces), column == value)
    found = (
        sa.select(
            group_faces.c.image_id, group_faces.c.face_index, sa.literal(value), sa.literal(at)
        )
        .join_from(group_faces, faces, same_face(faces, group_faces))
        .where(group_faces.c.group_id == group_id, ~there, sa.true() if which is None else which)
    )
    columns = ["image_id", "face_index", column.name, "created_at"]
    await connection.execute(sa.insert(table).from_select(columns, found))
