"""Groups of unknown faces, and questions about them, in the database.

Rows are locked in this order: group_work, faces, group_faces, face_groups, group_questions.
"""

import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.batches import batched
from services.common.claims import LEASE_MS
from services.common.due_rows import is_due
from services.common.group_rows import FACES_IN_IT, current_groups
from services.common.person_rows import UNKNOWN
from services.common.tables import (
    face_denials,
    face_encodings,
    face_groups,
    faces,
    group_denials,
    group_faces,
    group_questions,
    group_work,
    persons,
    same_face,
)
from services.people.adapters.rows import (
    STORED_ENCODING,
    ClaimedRows,
    among,
    encodings_of,
    last_image,
)
from services.people.domain.grouping import LikelyPair
from services.people.domain.regrouping import AskedPair, FaceId, GroupingClaim, Regrouped
from services.people.ports import RowsChangedError

LATER_MS: Final = 24 * 3_600_000
"""How long nobody is asked again who has said: later."""

_MEANS_OF: Final = 100_000
"""Of so many images, the newest, the named faces say what people look like."""

_AT_ONCE: Final = 1_000
"""Faces, or ids, of one statement."""

_READ: Final = 5_000
"""Images whose encodings are read at a time."""

_COUNTED: Final = 50_000
"""Groups that one statement counts, or says of that they are no more."""

_ENCODED: Final = same_face(face_encodings, faces)
_PLACED: Final = same_face(group_faces, faces)


class DatabaseGrouping(ClaimedRows[GroupingClaim]):
    """The port ``GroupingRows`` on a database."""

    async def claim(self) -> GroupingClaim | None:
        now = self._clock()
        token = secrets.token_hex(16)
        due = sa.select(group_work.c.engine).where(is_due(group_work, now))
        if not await self._read(due):
            return None
        async with self._database.transaction() as connection:
            row = (await connection.execute(due.with_for_update(skip_locked=True))).first()
            if row is None:
                return None
            await connection.execute(
                sa.update(group_work).values(claim_token=token, due_at=now + LEASE_MS)
            )
        return GroupingClaim(token, row.engine)

    def _update(self, claim: GroupingClaim) -> sa.Update:
        return sa.update(group_work).where(group_work.c.claim_token == claim.token)

    async def begin(self, claim: GroupingClaim, engine: str) -> None:
        """Have groups made anew, of another engine's encodings, or raise ``ClaimLostError``.

        Killed in the middle, it leaves fewer groups of the engine of before, and begins again.
        """
        for low in range(1, await self.next_group(), _COUNTED):
            async with self._database.transaction() as connection:
                await self._hold(connection, claim)
                await connection.execute(
                    sa.update(face_groups)
                    .where(face_groups.c.size > 0, _counted_from(low))
                    .values(size=0)
                )
        async with self._database.transaction() as connection:
            await self._hold(connection, claim, engine=engine)
            await connection.execute(
                sa.delete(group_questions).where(group_questions.c.answer.is_(None))
            )

    async def next_group(self) -> int:
        async with self._database.reading() as connection:
            return (await connection.scalar(sa.select(sa.func.max(face_groups.c.id))) or 0) + 1

    async def grouped(self, images: range, engine: str) -> Sequence[tuple[FaceId, int, bytes]]:
        query = (
            sa.select(faces.c.image_id, faces.c.face_index, group_faces.c.group_id, STORED_ENCODING)
            .join_from(faces, face_encodings, _ENCODED)
            .join(group_faces, _PLACED)
            .join(face_groups, face_groups.c.id == group_faces.c.group_id)
            .where(
                among(faces, images),
                face_encodings.c.engine == engine,
                face_groups.c.size > 0,
                UNKNOWN,
            )
            .order_by(faces.c.image_id, faces.c.face_index)
        )
        rows = await self._read(query)
        return [((row.image_id, row.face_index), row.group_id, row.stored) for row in rows]

    async def unknown(
        self, images: range | Collection[int], engine: str
    ) -> Mapping[FaceId, int | None]:
        query = (
            sa.select(faces.c.image_id, faces.c.face_index, group_faces.c.group_id)
            .join_from(faces, face_encodings, _ENCODED)
            .outerjoin(group_faces, _PLACED)
            .where(among(faces, images), face_encodings.c.engine == engine, UNKNOWN)
        )
        return {(row.image_id, row.face_index): row.group_id for row in await self._read(query)}

    async def strays(self, images: range | Collection[int]) -> Collection[FaceId]:
        query = (
            sa.select(group_faces.c.image_id, group_faces.c.face_index)
            .join_from(group_faces, faces, _PLACED)
            .where(among(group_faces, images), sa.not_(UNKNOWN))
        )
        return [(row[0], row[1]) for row in await self._read(query)]

    async def encodings(self, keys: Collection[FaceId], engine: str) -> Mapping[FaceId, bytes]:
        found = dict[FaceId, bytes]()
        wanted = set(keys)
        for some in batched({image for image, _ in keys}, _AT_ONCE):
            rows = await self._read(encodings_of(some, engine))
            found |= {(image, index): stored for image, index, stored in rows}
        return {key: stored for key, stored in found.items() if key in wanted}

    async def denied(
        self, images: Collection[int] | None = None
    ) -> Mapping[FaceId, Collection[int]]:
        query = sa.select(group_denials)
        if images is not None:
            query = query.where(group_denials.c.image_id.in_(images))
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
            now = await current_groups(connection, {row.group_id for row in rows})
        found = defaultdict[FaceId, set[int]](set)
        for row in rows:
            found[row.image_id, row.face_index].add(now[row.group_id])
        return found

    async def kept_out(self, groups: Collection[int]) -> Mapping[int, Collection[FaceId]]:
        found = defaultdict[int, set[FaceId]](set)
        for some in batched(groups, _AT_ONCE):
            query = sa.select(group_denials).where(group_denials.c.group_id.in_(some))
            for row in await self._read(query):
                found[row.group_id].add((row.image_id, row.face_index))
        return found

    async def miscounted(self) -> Collection[int]:
        query = (
            sa.select(face_groups.c.id)
            .outerjoin(group_faces, group_faces.c.group_id == face_groups.c.id)
            .where(face_groups.c.size > 0)
            .group_by(face_groups.c.id, face_groups.c.size)
            .having(face_groups.c.size != sa.func.count(group_faces.c.image_id))
        )
        found = list[int]()
        for low in range(1, await self.next_group(), _COUNTED):
            found += [row.id for row in await self._read(query.where(_counted_from(low)))]
        return found

    async def write(self, claim: GroupingClaim, regrouped: Regrouped) -> None:
        async with self._database.transaction() as connection:
            await self._hold(connection, claim)
            placed = await _still_unknown(connection, regrouped.placed)
            for gone, kept in regrouped.merged.items():
                await connection.execute(
                    sa.update(group_faces)
                    .where(group_faces.c.group_id == gone)
                    .values(group_id=kept)
                )
            places = sa.tuple_(group_faces.c.image_id, group_faces.c.face_index)
            left = await _places_of_before(connection, placed)
            for keys in batched([*regrouped.gone, *regrouped.placed], _AT_ONCE):
                await connection.execute(sa.delete(group_faces).where(places.in_(keys)))
            now = self._clock()
            for new in batched(sorted(regrouped.new), _AT_ONCE):
                await connection.execute(
                    sa.insert(face_groups).values(size=0, created_at=now),
                    [{"id": group} for group in new],
                )
            for members in batched(placed.items(), _AT_ONCE):
                await connection.execute(
                    sa.insert(group_faces),
                    [
                        {"image_id": key[0], "face_index": key[1], "group_id": group}
                        for key, group in members
                    ],
                )
            for gone, kept in {**dict(left), **regrouped.merged}.items():
                await connection.execute(
                    sa.update(face_groups)
                    .where(face_groups.c.id == gone)
                    .values(size=0, merged_into=kept)
                )
            # By now, whoever says anything about these groups waits for this transaction.
            for gone, kept in {*left, *regrouped.merged.items()}:
                await _inherit(connection, gone, kept)
            await _check_denials(connection, {*placed.values(), *regrouped.merged.values()})
            for groups in batched(regrouped.touched, _AT_ONCE):
                await connection.execute(
                    sa.update(face_groups)
                    .where(face_groups.c.id.in_(groups))
                    .values(size=FACES_IN_IT)
                )
            for questions in batched(regrouped.answered, _AT_ONCE):
                await connection.execute(
                    sa.delete(group_questions).where(group_questions.c.id.in_(questions))
                )

    async def questions(self, answer: str | None = None) -> Sequence[AskedPair]:
        is_over = group_questions.c.answered_at <= self._clock() - LATER_MS
        query = sa.select(group_questions, is_over.label("is_over")).order_by(group_questions.c.id)
        if answer:
            query = query.where(group_questions.c.answer == answer)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
            asked = {group for row in rows for group in (row.group_id, row.other_group_id) if group}
            now = await current_groups(connection, asked)
        found = list[AskedPair]()
        for row in rows:
            is_open = row.answer is None or (row.answer == "later" and bool(row.is_over))
            group, other = now[row.group_id], row.person_id
            if other is None:
                group, other = sorted((group, now[row.other_group_id]))
            is_person = row.person_id is not None
            found.append(AskedPair(row.id, group, other, is_person, row.answer, is_open))
        return found

    async def denied_people(self) -> Collection[tuple[int, int]]:
        its = same_face(group_faces, face_denials)
        query = (
            sa.select(group_faces.c.group_id, face_denials.c.person_id)
            .join_from(face_denials, group_faces, its)
            .distinct()
        )
        return {(row[0], row[1]) for row in await self._read(query)}

    async def means(self, engine: str, size: int) -> Mapping[int, NDArray[np.float32]]:
        sums = dict[int, NDArray[np.float64]]()
        query = (
            sa.select(faces.c.person_id, STORED_ENCODING)
            .join_from(faces, face_encodings, _ENCODED)
            .join(persons, persons.c.id == faces.c.person_id)
            .where(
                face_encodings.c.engine == engine,
                sa.not_(faces.c.struck_out),
                sa.not_(persons.c.hidden),
            )
        )
        async with self._database.reading() as connection:
            last = await last_image(connection)
        for low in range(max(0, last - _MEANS_OF), last, _READ):
            some = range(low + 1, low + _READ + 1)
            for row in await self._read(query.where(among(faces, some))):
                one = np.frombuffer(row.stored, "<f4") if len(row.stored) == 4 * size else None
                length = float(np.linalg.norm(one)) if one is not None else 0.0
                if one is not None and np.isfinite(length) and length > 0:
                    sums[row.person_id] = sums.get(row.person_id, 0.0) + one / length
        return {
            person: (total / length).astype(np.float32)
            for person, total in sums.items()
            if (length := float(np.linalg.norm(total))) > 0
        }

    async def ask(self, claim: GroupingClaim, suggestions: Sequence[LikelyPair]) -> None:
        table = group_questions.c
        wanted = {(pair.group, pair.other, pair.is_person): pair.likeness for pair in suggestions}
        try:
            async with self._database.transaction() as connection:
                await self._hold(connection, claim)
                now = self._clock()
                over = sa.and_(table.answer == "later", table.answered_at <= now - LATER_MS)
                is_open = sa.or_(table.answer.is_(None), over)
                rows = (await connection.execute(sa.select(group_questions).where(is_open))).all()
                there = {
                    (row.group_id, row.person_id or row.other_group_id, bool(row.person_id)): row
                    for row in rows
                }
                idle = [
                    row.id for pair, row in there.items() if pair not in wanted and not row.answer
                ]
                for some in batched(idle, _AT_ONCE):
                    await connection.execute(
                        sa.delete(group_questions).where(table.id.in_(some), table.answer.is_(None))
                    )
                for pair, likeness in wanted.items():
                    if pair in there:
                        await connection.execute(
                            sa.update(group_questions)
                            .where(table.id == there[pair].id, is_open)
                            .values(likeness=likeness, answer=None, answered_at=None)
                        )
                        continue
                    other = "person_id" if pair[2] else "other_group_id"
                    values = {"group_id": pair[0], other: pair[1], "likeness": likeness}
                    await connection.execute(
                        sa.insert(group_questions).values(**values, created_at=now)
                    )
        except sa.exc.IntegrityError as error:
            raise RowsChangedError from error


def _counted_from(group: int) -> sa.ColumnElement[bool]:
    return sa.and_(face_groups.c.id >= group, face_groups.c.id < group + _COUNTED)


async def _still_unknown(
    connection: AsyncConnection, placed: Mapping[FaceId, int]
) -> dict[FaceId, int]:
    """Lock the faces that are there without a name, so that they stay so; return where they are."""
    found = dict[FaceId, int]()
    for some in batched(sorted({image for image, _ in placed}), _AT_ONCE):
        query = (
            sa.select(faces.c.image_id, faces.c.face_index)
            .where(faces.c.image_id.in_(some), UNKNOWN)
            .order_by(faces.c.image_id, faces.c.face_index)
            .with_for_update(read=True)
        )
        rows = await connection.execute(query)
        found |= {key: placed[key] for row in rows if (key := (row[0], row[1])) in placed}
    return found


async def _places_of_before(
    connection: AsyncConnection, placed: Mapping[FaceId, int]
) -> list[tuple[int, int]]:
    """Return the groups of another engine that these faces leave, each with one they go to."""
    found = dict[tuple[int, int], None]()
    places = sa.tuple_(group_faces.c.image_id, group_faces.c.face_index)
    not_its = sa.exists().where(
        same_face(group_denials, group_faces), group_denials.c.group_id == group_faces.c.group_id
    )
    for some in batched(placed, _AT_ONCE):
        query = (
            sa.select(group_faces)
            .join(face_groups, face_groups.c.id == group_faces.c.group_id)
            .where(places.in_(some), face_groups.c.size == 0, ~not_its)
        )
        for row in await connection.execute(query):
            found[row.group_id, placed[row.image_id, row.face_index]] = None
    return list(found)


async def _inherit(connection: AsyncConnection, gone: int, kept: int) -> None:
    """Have what is not to be in a group not in that which its faces go to, either."""
    other = group_denials.alias()
    there = sa.exists().where(same_face(other, group_denials), other.c.group_id == kept)
    its = sa.select(
        group_denials.c.image_id,
        group_denials.c.face_index,
        sa.literal(kept),
        group_denials.c.created_at,
    ).where(group_denials.c.group_id == gone, ~there)
    columns = ["image_id", "face_index", "group_id", "created_at"]
    await connection.execute(sa.insert(group_denials).from_select(columns, its))


async def _check_denials(connection: AsyncConnection, groups: Iterable[int]) -> None:
    """Raise when a face is in one of these groups that a person has said it is not in."""
    for some in batched(groups, _AT_ONCE):
        query = (
            sa.select(group_faces.c.group_id)
            .join_from(group_faces, group_denials, same_face(group_faces, group_denials))
            .where(
                group_faces.c.group_id.in_(some),
                group_denials.c.group_id == group_faces.c.group_id,
            )
            .limit(1)
        )
        if (group := await connection.scalar(query)) is not None:
            raise RowsChangedError(f"a face has just been said not to be in group {group}")
