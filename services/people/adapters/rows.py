"""Changed people, stored faces and events in the database."""

import json
import secrets
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.batches import batched
from services.common.claims import LEASE_MS
from services.common.clock import DatabaseClock, now_ms
from services.common.database import Database
from services.common.due_rows import is_due
from services.common.errors import ClaimLostError
from services.common.event_rows import is_lost, latest_position, note_events, read_events
from services.common.events import Event, EventKind, Position
from services.common.faces import DecidedBy, Likely, Says, Whose
from services.common.image_states import Status
from services.common.object_keys import KNOWN_PEOPLE, forms_of
from services.common.person_rows import (
    BY_HAND,
    FOLDER,
    LEFT_ITS_ID,
    bearer,
    find_likely,
    take_turns,
)
from services.common.tables import (
    erasures,
    face_denials,
    face_encodings,
    faces,
    garbage,
    images,
    people_work,
    person_images,
    persons,
    same_face,
)
from services.people.domain.deciding import NEXT_PASS_MS, RecordedFace, RecordedPicture, Work
from services.people.domain.regrouping import GroupingClaim
from services.people.ports import RowsChangedError

SCANNED: Final = 50_000
"""Images whose faces one statement reads without an index."""

_SAID: Final = [field.name for field in fields(Says)]
_RENAMED: Final = 500
_AT_ONCE: Final = 5_000
"""Values of one statement."""


# Whoever takes very many checks all of them at once.
STORED_ENCODING: Final = sa.type_coerce(face_encodings.c.encoding, sa.LargeBinary).label("stored")

_Claim = TypeVar("_Claim", Work, GroupingClaim)


class ClaimedRows(Generic[_Claim]):
    """Rows that are claimed: a claim is what one conditional UPDATE says it is."""

    def __init__(self, database: Database, clock: DatabaseClock) -> None:
        self._database = database
        self._clock = clock

    async def renew(self, claim: _Claim) -> None:
        async with self._database.transaction() as connection:
            await self._hold(connection, claim)

    async def give_back(self, claim: _Claim, due_in: int = 0) -> None:
        due_at = self._clock() + due_in
        async with self._database.transaction() as connection:
            await connection.execute(self._update(claim).values(claim_token=None, due_at=due_at))

    def _update(self, claim: _Claim) -> sa.Update:
        """Return what changes the row of work while the claim is not lost."""
        raise NotImplementedError

    async def _hold(self, connection: AsyncConnection, claim: _Claim, **values: Any) -> None:
        """Prolong the lease in a transaction, which by that is the claim's alone."""
        holding = self._update(claim).values(due_at=self._clock() + LEASE_MS, **values)
        if (await connection.execute(holding)).rowcount != 1:
            raise ClaimLostError

    async def _read(self, query: sa.Select[Any]) -> Sequence[Any]:
        async with self._database.reading() as connection:
            rows: Sequence[Any] = (await connection.execute(query)).all()
            return rows


class DatabaseStoredFaces(ClaimedRows[Work]):
    """The ports ``WorkRows`` and ``FaceRows`` on a database."""

    async def claim(self) -> Work | None:
        now = self._clock()
        token = secrets.token_hex(16)
        due = (
            sa.select(people_work)
            .where(
                is_due(people_work, now),
                # Whoever is being forgotten is found by the faces' names, so these stay for now.
                people_work.c.person_id.not_in(sa.select(erasures.c.person_id)),
            )
            .order_by(people_work.c.due_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        async with self._database.transaction() as connection:
            row = (await connection.execute(due)).first()
            if row is None:
                return None
            await connection.execute(
                sa.update(people_work)
                .where(people_work.c.person_id == row.person_id)
                .values(claim_token=token, due_at=now + LEASE_MS)
            )
        return Work(
            row.person_id, row.folder, row.removed, token, row.after_image_id, row.passes_left
        )

    async def waiting(self) -> int:
        async with self._database.reading() as connection:
            count = await connection.scalar(sa.select(sa.func.count()).select_from(people_work))
        return count or 0

    async def end_pass(self, work: Work) -> None:
        left = work.passes_left - 1
        due_at = self._clock() + NEXT_PASS_MS
        again = {"claim_token": None, "due_at": due_at, "after_image_id": 0, "passes_left": left}
        async with self._database.transaction() as connection:
            await connection.execute(
                self._update(work).values(again)
                if left > 0
                else sa.delete(people_work).where(*_ours(work))
            )

    def _update(self, claim: Work) -> sa.Update:
        return sa.update(people_work).where(*_ours(claim))

    async def disagreement(
        self, work: Work, pictures: Mapping[str, bool]
    ) -> tuple[Collection[str], Collection[str]]:
        named = sa.select(person_images.c.image_name).where(
            person_images.c.person_id == work.person_id
        )
        keys = [KNOWN_PEOPLE + name for name, is_known in pictures.items() if is_known]
        # Noted, too, is what is being enrolled and has no row yet; but that is due only later.
        going = sa.select(garbage.c.object_key).where(
            garbage.c.object_key.in_(keys),
            garbage.c.removed_at.is_(None),
            sa.or_(garbage.c.claim_token.is_not(None), garbage.c.due_at <= self._clock()),
        )
        async with self._database.reading() as connection:
            lacking = set(await connection.scalars(named)) - pictures.keys()
            return lacking, set(await connection.scalars(going))

    async def rename(self, work: Work) -> bool:
        name = sa.select(persons.c.name).where(persons.c.id == work.person_id)
        async with self._database.transaction() as connection:
            await self._hold(connection, work)
            its = await connection.scalar(name)
            if its is None:
                return False
            old = (
                sa.select(faces.c.image_id)
                .where(faces.c.person_id == work.person_id, faces.c.person != its, ~LEFT_ITS_ID)
                .order_by(faces.c.image_id)
                .limit(_RENAMED)
            )
            ids = sorted(set(await connection.scalars(old)))
            if ids:
                await connection.execute(
                    sa.update(faces)
                    .where(
                        faces.c.image_id.in_(ids),
                        faces.c.person_id == work.person_id,
                        ~LEFT_ITS_ID,
                    )
                    .values(person=its)
                )
                await note_events(connection, self._clock(), EventKind.IMAGE, ids)
        return bool(ids)

    async def touched(self, work: Work) -> set[int]:
        after = work.after_image_id
        names = sa.select(persons.c.name).where(persons.c.id == work.person_id)
        async with self._database.reading() as connection:
            texts = {work.folder, *await connection.scalars(names)}
            found = set[int]()
            for table, condition in (
                (faces, faces.c.person_id == work.person_id),
                (faces, sa.and_(faces.c.person.in_(texts), faces.c.person_id.is_(None))),
                (face_denials, face_denials.c.person_id == work.person_id),
            ):
                found |= set(
                    await connection.scalars(
                        sa.select(table.c.image_id).where(condition, table.c.image_id > after)
                    )
                )
            if work.removed:
                found |= await _asked_about(connection, work.folder, after)
        return found

    async def pictures(
        self, image_ids: Collection[int], engine: str, size: int = 0
    ) -> list[RecordedPicture]:
        query = (
            sa.select(
                faces.c.image_id,
                faces.c.face_index,
                *(faces.c[name] for name in _SAID),
                images.c.processed_at,
                face_encodings.c.encoding,
                BY_HAND.label("by_hand"),
            )
            .join_from(faces, images)
            .outerjoin(
                face_encodings,
                sa.and_(
                    same_face(face_encodings, faces),
                    face_encodings.c.engine == engine,
                ),
            )
            # One that was struck out may have an encoding: by an image_processor of before.
            .where(faces.c.image_id.in_(image_ids), ~faces.c.struck_out)
            .order_by(faces.c.image_id, faces.c.face_index)
        )
        denying = sa.select(face_denials).where(face_denials.c.image_id.in_(image_ids))
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
            denied = defaultdict[tuple[int, int], set[int]](set)
            for row in await connection.execute(denying):
                denied[row.image_id, row.face_index].add(row.person_id)
            ids = {person_id for denied_people in denied.values() for person_id in denied_people}
            texts = {row.person for row in rows if row.person and row.person_id is None}
            by_name = await _ids(connection, texts)
            ids |= {row.person_id for row in rows if row.person_id} | set(by_name.values())
            folders = await _folders(connection, ids)
        found = dict[int, RecordedPicture]()
        for row in rows:
            person_id = row.person_id or by_name.get(row.person)
            unknown = {row.person} if row.person else set()
            says = Says(*(getattr(row, name) for name in _SAID))
            face = RecordedFace(
                row.face_index,
                says,
                bool(row.by_hand),
                # What has another size can be compared with nobody.
                row.encoding if len(row.encoding or b"") == size or not size else None,
                frozenset(folders.get(person_id, unknown) if person_id else unknown),
                frozenset().union(
                    *(
                        folders.get(person_id, ())
                        for person_id in denied[row.image_id, row.face_index]
                    )
                ),
            )
            before = found.get(row.image_id)
            found[row.image_id] = RecordedPicture(
                row.image_id, row.processed_at, [*(before.faces if before else ()), face]
            )
        return list(found.values())

    async def whose(self, candidates: Iterable[Likely]) -> Whose:
        async with self._database.reading() as connection:
            return await find_likely(connection, candidates)

    async def write(
        self,
        work: Work,
        changes: Sequence[tuple[RecordedPicture, RecordedFace, Says]],
        through: int,
    ) -> None:
        same_result = sa.exists().where(
            images.c.id == faces.c.image_id,
            images.c.processed_at.is_not_distinct_from(sa.bindparam("seen", type_=sa.BigInteger)),
        )
        denied = sa.exists().where(
            same_face(face_denials, faces),
            face_denials.c.person_id == sa.bindparam("new_person_id", type_=sa.BigInteger),
        )
        updating = (
            sa.update(faces)
            .where(
                faces.c.image_id == sa.bindparam("its_image_id"),
                faces.c.face_index == sa.bindparam("its_index"),
                ~BY_HAND,
                ~faces.c.struck_out,
                same_result,
                ~denied,
            )
            .values(
                {name: sa.bindparam(f"new_{name}", type_=faces.c[name].type) for name in _SAID}
                | {"decided_by": DecidedBy.MACHINE}
            )
        )
        values = [
            {
                "its_image_id": picture.image_id,
                "its_index": face.index,
                "seen": picture.processed_at,
                **{f"new_{name}": getattr(says, name) for name in _SAID},
            }
            for picture, face, says in changes
        ]
        try:
            async with self._database.transaction() as connection:
                await self._hold(connection, work, after_image_id=through)
                if values:
                    await connection.execute(updating, values)
                    ids = sorted({picture.image_id for picture, _, _ in changes})
                    await note_events(connection, self._clock(), EventKind.IMAGE, ids)
        except sa.exc.IntegrityError as error:
            raise RowsChangedError from error

    async def newest_engine(self) -> str | None:
        query = (
            sa.select(images.c.engine)
            .where(images.c.status == Status.PROCESSED)
            .order_by(images.c.id.desc())
            .limit(1)
        )
        async with self._database.reading() as connection:
            return await connection.scalar(query)

    async def last_image_id(self) -> int:
        async with self._database.reading() as connection:
            return await last_image(connection)

    async def encodings(
        self, images: range | Collection[int], engine: str
    ) -> list[tuple[int, int, bytes]]:
        return [tuple(row) for row in await self._read(encodings_of(images, engine))]

    async def latest(self) -> Position:
        async with self._database.reading() as connection:
            return await latest_position(connection, self._clock())

    async def lost(self, position: Position) -> bool:
        async with self._database.reading() as connection:
            return await is_lost(connection, self._clock(), position)

    async def after(self, position: Position) -> tuple[list[Event], Position]:
        async with self._database.reading() as connection:
            return await read_events(connection, self._clock(), position)

    async def adopt(self, images: range | Collection[int]) -> None:
        no_id = sa.and_(faces.c.person.is_not(None), faces.c.person_id.is_(None))
        alone = sa.and_(among(faces, images), sa.or_(no_id, LEFT_ITS_ID))
        decided_by = sa.case((LEFT_ITS_ID, DecidedBy.HAND), else_=faces.c.decided_by)
        async with self._database.reading() as connection:
            texts = set(await connection.scalars(sa.select(faces.c.person).where(alone).distinct()))
            found = await _ids(connection, texts)
        for text in sorted(texts - found.keys()):
            if person_id := await self._new_person(text):
                found[text] = person_id
        for text, person_id in found.items():
            async with self._database.transaction() as connection:
                await connection.execute(
                    sa.update(faces)
                    .where(alone, faces.c.person == text)
                    .values(person_id=person_id, decided_by=decided_by)
                )

    async def _new_person(self, name: str) -> int | None:
        """Return the id of somebody, who is made; None for who was removed just now."""
        async with self._database.transaction() as connection:
            await take_turns(connection)
            if found := await _ids(connection, {name}):
                return found[name]
            # A picture may be stored late that was recognised when they were known.
            going = sa.select(people_work.c.folder).where(
                people_work.c.folder == name, people_work.c.removed
            )
            if (await connection.execute(going)).first():
                return None
            inserted: sa.CursorResult[tuple[()]] = await connection.execute(
                sa.insert(persons).values(name=name, folder=name, created_at=now_ms())
            )
            return int(inserted.lastrowid)


def among(table: sa.Table, images: range | Collection[int]) -> sa.ColumnElement[bool]:
    """Select the rows of these images, of all in a range."""
    column = table.c.image_id
    if isinstance(images, range):
        return sa.and_(column >= images.start, column < images.stop)
    return column.in_(images)


def encodings_of(images: range | Collection[int], engine: str) -> sa.Select[tuple[int, int, bytes]]:
    """Select image, index and encoding of faces."""
    return sa.select(face_encodings.c.image_id, face_encodings.c.face_index, STORED_ENCODING).where(
        among(face_encodings, images), face_encodings.c.engine == engine
    )


async def last_image(connection: AsyncConnection) -> int:
    """Return the highest id of an image; 0 when there is none."""
    return await connection.scalar(sa.select(sa.func.max(images.c.id))) or 0


def _ours(work: Work) -> Sequence[sa.ColumnElement[bool]]:
    return people_work.c.person_id == work.person_id, people_work.c.claim_token == work.token


async def _asked_about(connection: AsyncConnection, folder: str, after: int) -> set[int]:
    """Return images over one with a face of which a known picture in the folder is a candidate.

    Also those with a face whose name was taken back, on which no rule has decided since.
    """
    # As the driver writes it, the name's beginning with a quotation mark before it.
    starts = {json.dumps(f"{form}/")[:-1] for form in forms_of(folder)}
    asked = [
        sa.func.instr(faces.c.candidates, sa.literal(start, sa.String)) > 0 for start in starts
    ]
    not_decided = sa.and_(faces.c.decided_by == DecidedBy.MACHINE, faces.c.calibration.is_(None))
    last = await last_image(connection)
    found = set[int]()
    for low in range(after, last, SCANNED):
        query = sa.select(faces.c.image_id).where(
            faces.c.image_id > low,
            faces.c.image_id <= low + SCANNED,
            sa.or_(*asked, not_decided),
        )
        found |= set(await connection.scalars(query))
    return found


async def _ids(connection: AsyncConnection, names: Collection[str]) -> dict[str, int]:
    """Return the ids of people by name, or where nobody is called so, by folder.

    Of several who have a name it is who ``bearer`` says.
    """
    found = dict[str, int]()
    for some in batched(names, _AT_ONCE):
        by_folder = sa.select(persons.c.folder, persons.c.id).where(persons.c.folder.in_(some))
        found |= {row.folder: row.id for row in await connection.execute(by_folder)}
        by_name = (
            sa.select(persons.c.name, bearer(persons.c.name).label("its_id"))
            .where(persons.c.name.in_(some))
            .distinct()
        )
        found |= {row.name: row.its_id for row in await connection.execute(by_name)}
    return found


async def _folders(connection: AsyncConnection, person_ids: Collection[int]) -> dict[int, set[str]]:
    """Return the folders in which people's known pictures are looked for, and lie, in NFC."""
    found = defaultdict[int, set[str]](set)
    name = person_images.c.image_name
    of_pictures = sa.func.substr(name, 1, sa.func.instr(name, sa.literal("/", sa.String)) - 1)
    for some in batched(person_ids, _AT_ONCE):
        for query in (
            sa.select(persons.c.id, FOLDER).where(persons.c.id.in_(some)),
            sa.select(person_images.c.person_id, of_pictures)
            .where(person_images.c.person_id.in_(some))
            .distinct(),
        ):
            for person_id, folder in await connection.execute(query):
                found[person_id].add(unicodedata.normalize("NFC", folder))
    return dict(found)
