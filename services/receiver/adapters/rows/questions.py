"""Questions whether two groups, or a group and a person, are the same, and their answers."""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now
from services.common.database import Database
from services.common.groups import current_groups
from services.common.people import BY_HAND
from services.common.tables import (
    erasures,
    face_denials,
    face_groups,
    faces,
    group_denials,
    group_faces,
    group_questions,
    same_face,
)
from services.common.turns import in_turns
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.groups import (
    group_sizes,
    lift_denials,
    note_denials,
    with_faces,
)
from services.receiver.adapters.rows.named_faces import take_denied_names
from services.receiver.adapters.rows.people_changes import changing_people, lock_person
from services.receiver.domain.errors import NotFoundError
from services.receiver.domain.groups import Answer, Question


class DatabaseQuestions:
    """The port ``QuestionRows`` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def questions(self, limit: int) -> Sequence[Question]:
        """Return questions that wait for a person, the most alike first."""
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
            for some in in_turns(rows, limit):
                found += await _shown(connection, some)
                if len(found) >= limit:
                    break
        return found[:limit]

    async def question(self, question_id: int) -> Question | None:
        """Return a question; None when it is gone, or its yes is being done.

        It is gone, too, when all faces of a group have a name by now.
        """
        query = sa.select(group_questions).where(
            group_questions.c.id == question_id,
            group_questions.c.answer.is_distinct_from(Answer.YES),
        )
        async with self._database.reading() as connection:
            found = await _shown(connection, (await connection.execute(query)).all())
        return found[0] if found else None

    @retry_on_conflict
    async def answer(self, question_id: int, answer: Answer | None) -> None:
        """Write down what a person says, None for nothing yet, in place of what was said before.

        Raises ``NotFoundError`` when nobody asks any more.
        """
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
            undecided = sa.and_(~BY_HAND, ~faces.c.struck_out)
            person = face_denials.c.person_id, question.person_id
            await _say_again(connection, its, question.person_id, at)
            await _deny_faces(connection, its, *person, at=at, which=undecided)
            await take_denied_names(connection, question.person_id)
            its_denials = sa.and_(
                face_denials.c.person_id == question.person_id, face_denials.c.created_at == at
            )
            await note_denials(connection, question.person_id, its_denials)
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
            await lift_denials(connection, question.person_id, said_at)
        else:
            said_at = group_denials.c.created_at == question.answered_at
            await connection.execute(sa.delete(group_denials).where(said_at))

    @retry_on_conflict
    async def settle(self, question_id: int) -> None:
        """Forget a question that is answered for good, unless somebody has just answered it."""
        unanswered = sa.and_(
            group_questions.c.id == question_id, group_questions.c.answer.is_(None)
        )
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(group_questions).where(unanswered))


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
    now = await group_sizes(connection, asked)
    shown = await with_faces(connection, dict(now.values()))
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
