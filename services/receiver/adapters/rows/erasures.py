"""People who are being forgotten, in the database.

Rows are locked in the order of :mod:`people_changes`, behind the row of ``erasures``.
"""

import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.claims import LEASE_MS
from services.common.clock import database_now
from services.common.due_rows import is_due
from services.common.errors import ClaimLostError
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.face_rows import box_in
from services.common.faces import DecidedBy
from services.common.object_info import ObjectInfo
from services.common.object_keys import KNOWN_PEOPLE, folder_of, forms_of
from services.common.person_rows import FOLDER, lies_in, note_change, take_turns
from services.common.picture_rows import remove_soon
from services.common.stored_pictures import Removal
from services.common.tables import (
    BOX,
    erasures,
    face_denials,
    face_encodings,
    faces,
    garbage,
    group_denials,
    group_faces,
    images,
    person_images,
    person_merges,
    persons,
)
from services.common.thumbnails import face_thumbnails, known_thumbnail
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.garbage import find_owners, not_noted
from services.receiver.adapters.rows.named_faces import (
    CHANGED,
    adopt,
    are_of,
    have_name_alone,
    move_faces,
    take_names,
)
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.adapters.rows.people_changes import (
    add_person,
    begin_leaving,
    changing_people,
    check_settled,
    check_whole,
    is_taken,
    lock_somebody,
)
from services.receiver.domain.erasing import Erased, Erasure, Stage
from services.receiver.domain.people import Somebody
from services.receiver.service.erasing import BATCH

_SCANNED: Final = 50_000
"""Images whose faces one statement reads without an index."""

_IMAGES: Final = 20
"""Images that are deleted one by one within a lease."""


_FORGOTTEN: Final[Mapping[str, Any]] = {
    "person": None,
    "person_id": None,
    "distance": None,
    "ambiguous": False,
    "candidates": [],
    "quality": None,
    "likeness": None,
    "calibration": None,
    # No machine says anything of it any more, not even one of before.
    "decided_by": DecidedBy.HAND,
    "struck_out": True,
    "forgotten": True,
}

_OF_ROW: Final = ("person_id", "name", "folders", "pictures", "after_image_id")
"""What of an erasure is as its row has it."""

_OF_FACES: Final = (face_encodings, face_denials, group_faces, group_denials)


class DatabaseErasures(OnDatabase):
    """The port ``Erasures`` on a database; a claim holds while an UPDATE finds its token."""

    @retry_on_conflict
    async def begin(
        self, person: Somebody, files: Sequence[ObjectInfo], *, pictures: bool
    ) -> Erased | None:
        async with changing_people(self._database) as connection:
            person_id = await lock_somebody(connection, person)
            if person_id is None:
                alone = sa.select(sa.exists().where(have_name_alone(person.name)))
                if not files and not (person.has_name_alone and await connection.scalar(alone)):
                    return None
                person_id = await add_person(connection, person)
            await check_settled(connection, person_id)
            await check_whole(connection, person_id)
            if person.has_name_alone:
                await adopt(connection, person_id, person.name)
            names = set(
                await connection.scalars(
                    sa.select(person_images.c.image_name).where(
                        person_images.c.person_id == person_id
                    )
                )
            )
            folders = {person.folder, *map(folder_of, names)}
            # Of whom they were, too: who may be whom is asked by that until it is decided again.
            merges = sa.select(person_merges.c.moved).where(person_merges.c.person_id == person_id)
            for moved in await connection.scalars(merges):
                if not await is_taken(connection, moved["folder"]):
                    folders.add(moved["folder"])
            await begin_leaving(
                connection,
                person_id,
                person,
                folders=sorted(folders),
                pictures=pictures,
                stage=Stage.FIRST,
            )
            counts = sa.select(sa.func.count(), sa.func.count(faces.c.image_id.distinct())).where(
                are_of(person_id)
            )
            number, shown = (await connection.execute(counts)).one()
        known = {file.key.removeprefix(KNOWN_PEOPLE) for file in files} | names
        return Erased(len(known), number, shown if pictures else 0)

    async def claim(self) -> Erasure | None:
        now = database_now()
        token = secrets.token_hex(16)
        due = sa.select(erasures).where(is_due(erasures, now)).order_by(erasures.c.due_at).limit(1)
        async with self._database.reading() as connection:
            if (await connection.execute(due)).first() is None:
                return None  # the usual case, without a lock
        async with self._database.transaction() as connection:
            row = (await connection.execute(due.with_for_update(skip_locked=True))).first()
            if row is None:
                return None
            await connection.execute(
                sa.update(erasures)
                .where(erasures.c.person_id == row.person_id)
                .values(claim_token=token, due_at=now + LEASE_MS)
            )
        its = {name: getattr(row, name) for name in _OF_ROW}
        return Erasure(**its, stage=Stage(row.stage), token=token)

    async def give_back(self, erasure: Erasure, due_in: int, stage: Stage | None = None) -> None:
        values: dict[str, Any] = {"claim_token": None, "due_at": database_now() + due_in}
        if stage is not None:
            values |= {"stage": stage, "after_image_id": 0}
        async with self._database.transaction() as connection:
            await connection.execute(sa.update(erasures).where(*_ours(erasure)).values(values))

    @asynccontextmanager
    async def _holding(self, erasure: Erasure, **values: Any) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that prolongs the lease, and by that is the claim's alone."""
        values["due_at"] = database_now() + LEASE_MS
        async with self._database.transaction() as connection:
            held = await connection.execute(
                sa.update(erasures).where(*_ours(erasure)).values(**values)
            )
            if held.rowcount != 1:
                raise ClaimLostError
            yield connection

    @retry_on_conflict
    async def images(self, erasure: Erasure) -> Sequence[int]:
        async with self._holding(erasure) as connection:
            return await _first_images(connection, erasure, _IMAGES)

    @retry_on_conflict
    async def strike_out(self, erasure: Erasure) -> bool:
        async with self._holding(erasure) as connection:
            ids = await _lock_images(connection, await _first_images(connection, erasure, BATCH))
            of_images = sa.and_(faces.c.image_id.in_(ids), are_of(erasure.person_id))
            found = (
                await connection.execute(
                    sa.select(faces.c.image_id, faces.c.face_index, *BOX)
                    .where(of_images)
                    .with_for_update()
                )
            ).all()
            keys = [(row.image_id, row.face_index) for row in found]
            for table in _OF_FACES:
                await connection.execute(
                    sa.delete(table).where(
                        table.c.image_id.in_(ids),
                        sa.tuple_(table.c.image_id, table.c.face_index).in_(keys),
                    )
                )
            await connection.execute(sa.update(faces).where(of_images).values(**_FORGOTTEN))
            thumbnails = [
                thumbnail.removal
                for row in found
                for thumbnail in face_thumbnails(row.image_id, [box_in(row)])
            ]
            await remove_soon(connection, thumbnails)
            await note_events(connection, database_now(), EventKind.IMAGE, ids)
        return bool(ids)

    @retry_on_conflict
    async def remove_known(self, erasure: Erasure, files: Sequence[ObjectInfo]) -> None:
        async with self._holding(erasure) as connection:
            owners = await find_owners(connection, files)
            of_others = set(
                await connection.scalars(
                    sa.select(FOLDER).where(
                        lies_in(erasure.folders), persons.c.id != erasure.person_id
                    )
                )
            )
            not_removed = set(await not_noted(connection, files))

            def goes(file: ObjectInfo) -> bool:
                if file.key in owners:
                    return owners[file.key] == erasure.person_id
                folder = folder_of(file.key.removeprefix(KNOWN_PEOPLE))
                return folder not in of_others and file in not_removed

            gone = [file for file in files if goes(file)]
            names = [file.key.removeprefix(KNOWN_PEOPLE) for file in gone]
            theirs = person_images.c.person_id == erasure.person_id
            await self._remove_rows(
                connection, sa.and_(theirs, person_images.c.image_name.in_(names))
            )
            # With the tag the note, which has the name, goes with the object: nobody is still
            # writing what has a row.
            removals = [Removal(file.key, file.tag) for file in gone]
            await remove_soon(connection, removals)

    @retry_on_conflict
    async def remove_lost(self, erasure: Erasure) -> bool:
        async with self._holding(erasure) as connection:
            ids = await connection.scalars(
                sa.select(person_images.c.id)
                .where(person_images.c.person_id == erasure.person_id)
                .limit(BATCH)
            )
            return await self._remove_rows(connection, person_images.c.id.in_(ids.all()))

    async def _remove_rows(
        self, connection: AsyncConnection, which: sa.ColumnElement[bool]
    ) -> bool:
        ids = (await connection.scalars(sa.select(person_images.c.id).where(which))).all()
        await connection.execute(sa.delete(person_images).where(person_images.c.id.in_(ids)))
        thumbnails = [known_thumbnail(picture_id).removal for picture_id in ids]
        await remove_soon(connection, thumbnails)
        return bool(ids)

    @retry_on_conflict
    async def remove_denials(self, erasure: Erasure) -> bool:
        async with self._holding(erasure) as connection:
            some = (
                sa.select(face_denials.c.image_id)
                .where(face_denials.c.person_id == erasure.person_id)
                .limit(BATCH)
            )
            ids = await _lock_images(connection, set(await connection.scalars(some)))
            await connection.execute(
                sa.delete(face_denials).where(
                    face_denials.c.person_id == erasure.person_id, face_denials.c.image_id.in_(ids)
                )
            )
            await note_events(connection, database_now(), EventKind.IMAGE, ids)
        return bool(ids)

    @retry_on_conflict
    async def remove_questions(self, erasure: Erasure) -> Erasure | None:
        low = erasure.after_image_id
        high = low + _SCANNED
        asked = sa.and_(faces.c.image_id > low, faces.c.image_id <= high, _may_mention(erasure))
        async with self._database.reading() as connection:
            last = await connection.scalar(sa.select(sa.func.max(images.c.id))) or 0
            found = sa.select(faces.c.image_id).distinct().where(asked)
            # One more tells whether there are more.
            ids = (
                await connection.scalars(found.order_by(faces.c.image_id).limit(BATCH + 1))
            ).all()
        if len(ids) > BATCH:
            high = ids[BATCH - 1]
        async with self._holding(erasure, after_image_id=high) as connection:
            await self._leave_out(
                connection, erasure, [image_id for image_id in ids if image_id <= high]
            )
        if high >= last:
            return None
        return dataclasses.replace(erasure, after_image_id=high)

    async def _leave_out(
        self, connection: AsyncConnection, erasure: Erasure, image_ids: Collection[int]
    ) -> None:
        ids = await _lock_images(connection, image_ids)
        rows = (
            await connection.execute(
                sa.select(
                    faces.c.image_id, faces.c.face_index, faces.c.person, faces.c.candidates
                ).where(faces.c.image_id.in_(ids), _may_mention(erasure))
            )
        ).all()
        names = {candidate["image_name"] for row in rows for candidate in row.candidates}
        of_others = set(
            await connection.scalars(
                sa.select(person_images.c.image_name).where(
                    person_images.c.image_name.in_(sorted(names)),
                    person_images.c.person_id != erasure.person_id,
                )
            )
        )
        namesakes = sa.select(sa.exists().where(persons.c.name == erasure.name))
        is_only = not await connection.scalar(namesakes)

        def is_theirs(candidate: Mapping[str, Any]) -> bool:
            if candidate["image_name"] in of_others:
                return False
            return folder_of(candidate["image_name"]) in erasure.folders or (
                is_only and candidate["person"] == erasure.name
            )

        for row in rows:
            left = [candidate for candidate in row.candidates if not is_theirs(candidate)]
            values: dict[str, Any] = {"candidates": left}
            if row.person is None:
                # Without a calibration no rule has decided, so one does in the end.
                values |= {"ambiguous": bool(left), "likeness": None, "calibration": None}
            if len(left) < len(row.candidates):
                await connection.execute(
                    sa.update(faces)
                    .where(faces.c.image_id == row.image_id, faces.c.face_index == row.face_index)
                    .values(**values)
                )
        await note_events(connection, database_now(), EventKind.IMAGE, ids)

    async def is_leaving(self, erasure: Erasure) -> bool:
        below = [f"{KNOWN_PEOPLE}{form}" for folder in erasure.folders for form in forms_of(folder)]
        # What comes behind a slash in every collation that is exact.
        its = [garbage.c.object_key.between(f"{prefix}/", f"{prefix}0") for prefix in below]
        noted = sa.exists().where(sa.or_(*its), garbage.c.removed_at.is_(None))
        async with self._database.reading() as connection:
            return bool(await connection.scalar(sa.select(noted)))

    @retry_on_conflict
    async def move(self, erasure: Erasure) -> bool:
        merged = person_merges.c.moved["id"].as_integer() == erasure.person_id
        async with self._holding(erasure) as connection:
            await take_turns(connection)
            kept_id = (
                await connection.scalars(sa.select(person_merges.c.person_id).where(merged))
            ).one()
            both = persons.c.id.in_([erasure.person_id, kept_id])
            lock = sa.select(persons.c.id).where(both).order_by(persons.c.id)
            await connection.execute(lock.with_for_update())
            more = await move_faces(connection, erasure.person_id, kept_id, CHANGED)
            if not more:
                await note_change(connection, kept_id)
        return more

    @retry_on_conflict
    async def end(self, erasure: Erasure) -> bool:
        its = persons.c.id == erasure.person_id
        async with self._holding(erasure) as connection:
            await take_turns(connection)
            # Locked, nobody stores a face as theirs any more.
            folder = await connection.scalar(sa.select(FOLDER).where(its).with_for_update())
            if await take_names(connection, erasure.person_id, CHANGED):
                return False
            await connection.execute(sa.delete(persons).where(its))
            await connection.execute(sa.delete(erasures).where(*_ours(erasure)))
            await note_change(
                connection, erasure.person_id, folder or erasure.folders[0], removed=True
            )
        return True


def _ours(erasure: Erasure) -> Sequence[sa.ColumnElement[bool]]:
    return (erasures.c.person_id == erasure.person_id, erasures.c.claim_token == erasure.token)


async def _first_images(connection: AsyncConnection, erasure: Erasure, limit: int) -> Sequence[int]:
    query = sa.select(faces.c.image_id).distinct().where(are_of(erasure.person_id))
    return (await connection.scalars(query.order_by(faces.c.image_id).limit(limit))).all()


async def _lock_images(connection: AsyncConnection, ids: Collection[int]) -> list[int]:
    """Lock images, as whoever stores or gives up a result does; return their ids, sorted."""
    query = sa.select(images.c.id).where(images.c.id.in_(sorted(ids))).order_by(images.c.id)
    return list(await connection.scalars(query.with_for_update()))


def _may_mention(erasure: Erasure) -> sa.ColumnElement[bool]:
    """Return the condition that a face's candidates may name a person or a picture of theirs."""
    # As the driver writes it, with a quotation mark before it.
    pieces = {
        json.dumps(f"{form}/")[:-1] for folder in erasure.folders for form in forms_of(folder)
    } | {json.dumps(erasure.name)}
    return sa.or_(
        *(
            sa.func.instr(faces.c.candidates, sa.literal(piece, sa.String)) > 0
            for piece in sorted(pieces)
        )
    )
