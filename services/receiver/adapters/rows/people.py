"""People and their known pictures in the database."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import Clock, DatabaseClock, database_now
from services.common.database import Database
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.images import KNOWN_PEOPLE
from services.common.names import by_id
from services.common.object_info import ObjectInfo
from services.common.people import (
    BEING_FORGOTTEN,
    FOLDER,
    LEFT_ITS_ID,
    lies_in,
    take_turns,
    whose_pictures,
)
from services.common.tables import (
    face_denials,
    faces,
    person_images,
    person_merges,
    persons,
    same_face,
)
from services.common.turns import in_turns
from services.receiver.adapters.rows.conflicts import again
from services.receiver.adapters.rows.garbage import all_expected, remove_soon, settle
from services.receiver.adapters.rows.people_changes import (
    CHANGED,
    LockedFace,
    add_person,
    adopt,
    begin_leaving,
    check_settled,
    check_whole,
    find_bearer,
    find_somebody,
    find_strays,
    lock_face,
    lock_person,
    lock_somebody,
    meant_by,
    name_by_hand,
    note_change,
    note_change_by_id,
    set_candidates,
    settle_names,
    take_name,
    take_names,
)
from services.receiver.domain.cursors import PersonKey
from services.receiver.domain.erasing import Stage
from services.receiver.domain.errors import ConflictError, NotFoundError
from services.receiver.domain.faces import FaceKey, FaceOfResult
from services.receiver.domain.merges import Merge
from services.receiver.domain.objects import Removal
from services.receiver.domain.people import (
    KnownPicture,
    NewKnownPicture,
    PeoplePage,
    Person,
    Somebody,
)
from services.receiver.domain.thumbnails import known_thumbnail

_AT_ONCE: Final = 5_000
"""Values of one statement."""


class DatabasePeople:
    """The port ``People`` on a database."""

    def __init__(self, database: Database, now: Clock, clock: DatabaseClock = database_now) -> None:
        self._database = database
        self._now = now
        self._clock = clock

    async def all(self) -> tuple[Person, ...]:
        """Return everybody who is not hidden, by name."""
        return await self._load(sa.select(persons).where(~persons.c.hidden))

    async def page(
        self,
        *,
        who: str | None,
        part: str | None,
        hidden: bool,
        after: PersonKey | None,
        limit: int,
    ) -> PeoplePage:
        """Return the first people by name, behind ``after``, who are hidden, or who are not."""
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
        return PeoplePage(found[:limit], PersonKey(last.name, last.id) if last else None)

    async def get(self, person_id: int) -> Person | None:
        """Return one person."""
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
                    *_PICTURE,
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
                tuple(_known(row) for row in (first, *others) if row.id is not None),
            )
            for _, (first, *others) in itertools.groupby(rows, key=lambda row: row.person_id)
        )

    async def who(
        self, who: str, *, another: bool = False, others: Collection[str] = ()
    ) -> Somebody:
        """Return who is meant by a name or ``~id``; with ``another``, somebody new of the name."""
        async with self._database.reading() as connection:
            return await find_somebody(connection, who, another=another, others=others)

    async def of_folder(self, folder: str) -> Somebody:
        """Return the person whose known pictures lie there; without a row, who is called so."""
        its = sa.select(persons.c.id, persons.c.name).where(lies_in([folder]))
        async with self._database.reading() as connection:
            found = (await connection.execute(its)).first()
        return Somebody(found.id, found.name, folder) if found else Somebody(None, folder, folder)

    async def bearer(self, name: str) -> int | None:
        """Return the id of whom a face is that has only this name."""
        async with self._database.reading() as connection:
            return await find_bearer(connection, name)

    async def find(self, content_digest: str) -> KnownPicture | None:
        """Return the known picture with this content, whose ever it is."""
        async with self._database.reading() as connection:
            return await _find(connection, content_digest)

    async def picture(self, picture_id: int) -> KnownPicture | None:
        """Return a known picture."""
        async with self._database.reading() as connection:
            return await _first(connection, person_images.c.id == picture_id)

    @again
    async def add(self, picture: NewKnownPicture, face: FaceOfResult | None) -> KnownPicture | None:
        """Make content a known picture of a person, unless it is somebody's already."""
        key = _key(picture.image_name)
        async with self._database.transaction() as connection:
            await take_turns(connection)
            if not await all_expected(connection, self._clock, [key]):
                return None
            shown = await _shown(connection, face) if face else None
            person_id = await lock_somebody(connection, picture.person)
            known = await _find(connection, picture.content_digest)
            left: set[int] = set()
            if known and known.person_id != person_id:
                if not (shown and known.is_cut_from(shown.key, shown.named)):
                    await settle(connection, self._clock, named=[], unnamed=[key])
                    return known
                left.add(known.person_id)
                await self._forget(connection, person_images.c.id == known.id)
                known = None
            if person_id is None:
                person_id = await add_person(connection, picture.person, self._now())
            if known:
                await settle(connection, self._clock, named=[], unnamed=[key])
            else:
                known = await self._insert(connection, person_id, picture)
                await settle(connection, self._clock, named=[key], unnamed=[])
            if shown:
                left |= await self._name_face(connection, shown, known)
            for one in sorted(left):
                await note_change_by_id(connection, self._clock, one, removed=True)
            await note_change(connection, self._clock, person_id, picture.person.folder)
        return known

    async def _insert(
        self, connection: AsyncConnection, person_id: int, picture: NewKnownPicture
    ) -> KnownPicture:
        now = self._now()
        inserted: sa.CursorResult[tuple[()]] = await connection.execute(
            sa.insert(person_images).values(
                person_id=person_id, image_name=picture.image_name, created_at=now
            )
        )
        picture_id = int(inserted.lastrowid)
        return KnownPicture(picture_id, person_id, picture.person.name, picture.image_name, now)

    async def _name_face(
        self, connection: AsyncConnection, face: LockedFace, known: KnownPicture
    ) -> set[int]:
        """Name a face by hand; return the person whom another hand had named, if any."""
        left = set()
        if face.by_hand and face.person_id not in (None, known.person_id):
            left.add(face.person_id)
            await self._forget(connection, _cut_from(face))
        # Of two faces of one content, the picture is the first one's as long as that is there.
        there = sa.exists().where(
            same_face(faces, person_images),
        )
        await connection.execute(
            sa.update(person_images)
            .where(person_images.c.id == known.id, ~there)
            .values(image_id=face.key.image_id, face_index=face.key.index)
        )
        await connection.execute(sa.delete(face_denials).where(_denial(face.key, known.person_id)))
        await name_by_hand(connection, self._clock, face.key, known.person_id, known.person)
        return {one for one in left if one is not None}

    @again
    async def replace_object(
        self, known: KnownPicture, picture: NewKnownPicture
    ) -> KnownPicture | None:
        """Name a new object in the row of a known picture, whose own is lost."""
        async with self._database.transaction() as connection:
            await take_turns(connection)
            if not await all_expected(connection, self._clock, [_key(picture.image_name)]):
                return None
            result = await connection.execute(
                sa.update(person_images)
                .where(
                    person_images.c.id == known.id,
                    person_images.c.image_name == known.image_name,
                )
                .values(image_name=picture.image_name)
            )
            if result.rowcount != 1:
                return known
            await settle(connection, self._clock, named=[_key(picture.image_name)], unnamed=[])
        return replace(known, image_name=picture.image_name)

    @again
    async def rename(
        self, person_id: int, new: str, *, another: bool = False, beside: bool = False
    ) -> bool:
        """Give a person another name; False when nobody has the id."""
        its = persons.c.id == person_id
        async with self._database.transaction() as connection:
            await take_turns(connection)
            if not await lock_person(connection, person_id):
                return False
            name = (await connection.scalars(sa.select(persons.c.name).where(its))).one()
            if new == name:
                return True
            others = sa.select(persons.c.id).where(persons.c.name == new, ~BEING_FORGOTTEN)
            other = await connection.scalar(others.order_by(persons.c.id).limit(1))
            if other is not None and not another:
                raise ConflictError(
                    f"{new!r} is the name of somebody else, {by_id(other)}: if both are to have it,"
                    ' say "another": true'
                )
            await settle_names(connection, name, self._now())
            await settle_names(connection, new, self._now(), beside=beside)
            # Who has no folder yet keeps the one that the name was. In a statement of its own:
            # MariaDB sets one column after the other.
            await connection.execute(sa.update(persons).where(its).values(folder=FOLDER))
            await connection.execute(sa.update(persons).where(its).values(name=new))
            await note_change_by_id(connection, self._clock, person_id)
        return True

    @again
    async def hide(self, person_id: int, *, hidden: bool) -> bool:
        """Hide a person, or hide them no more; False when nobody has the id."""
        async with self._database.transaction() as connection:
            await take_turns(connection)
            if not await lock_person(connection, person_id):
                return False
            await connection.execute(
                sa.update(persons).where(persons.c.id == person_id).values(hidden=hidden)
            )
            await note_events(connection, self._clock(), EventKind.PERSON, [person_id])
        return True

    @again
    async def choose_face(self, person_id: int, face: FaceKey | None) -> bool:
        """Have a face of a person's stand for them, or none; False when nobody has the id."""
        chosen = {
            "face_image_id": face.image_id if face else None,
            "face_index": face.index if face else None,
        }
        async with self._database.transaction() as connection:
            await take_turns(connection)
            stored = await lock_face(connection, face) if face else None
            if face and stored is None:
                raise NotFoundError(f"image {face.image_id} has no face {face.index}")
            if not await lock_person(connection, person_id):
                return False
            if face and stored and stored.person_id != person_id:
                raise ConflictError(
                    f"face {face.index} of image {face.image_id} is not a face of this person:"
                    " name it first"
                )
            await connection.execute(
                sa.update(persons).where(persons.c.id == person_id).values(chosen)
            )
            await note_events(connection, self._clock(), EventKind.PERSON, [person_id])
        return True

    @again
    async def delete_picture(self, picture_id: int) -> None:
        """Remove a known picture, and have its object and its thumbnail removed."""
        its = person_images.c.id == picture_id
        async with self._database.transaction() as connection:
            await take_turns(connection)
            known = await _first(connection, its)
            if known is None:
                return
            face = await lock_face(connection, known.face) if known.face else None
            await self._forget(connection, its)
            if face and face.by_hand and face.person_id == known.person_id:
                other = sa.select(person_images.c.id).where(_cut_from(face)).limit(1)
                if await connection.scalar(other) is None:
                    await take_name(connection, self._clock, face.key)
            await note_change_by_id(connection, self._clock, known.person_id, removed=True)

    @again
    async def delete(self, person: Somebody, found: Sequence[ObjectInfo]) -> int:
        """Remove a person and all known pictures, and have their objects and thumbnails removed."""
        async with self._database.transaction() as connection:
            await take_turns(connection)
            person_id = await lock_somebody(connection, person)
            if person_id is None and person.folder != person.name:
                return 0  # nobody is called so, and what lies there is not theirs
            await check_settled(connection, person_id)
            await check_whole(connection, person_id)
            gone: set[str] = set()
            if person_id is not None:
                gone = await self._forget(connection, person_images.c.person_id == person_id)
            strays = await find_strays(connection, found, gone)
            await remove_soon(connection, self._clock, strays)
            removed = (person_id is not None) + len(gone) + len(strays)
            if removed:
                if person_id is None:
                    # An id to call them by, for those who look at all faces that were theirs.
                    person_id = await add_person(connection, person, self._now())
                if await find_bearer(connection, person.name) == person_id:
                    await adopt(connection, person_id, person.name)
                denied = sa.select(face_denials.c.image_id).where(
                    face_denials.c.person_id == person_id
                )
                if (
                    await take_names(connection, self._clock, person_id, CHANGED)
                    or await connection.scalar(denied.offset(CHANGED).limit(1)) is not None
                ):
                    await begin_leaving(
                        connection,
                        self._clock,
                        person_id,
                        person,
                        folders=[person.folder],
                        pictures=False,
                        stage=Stage.NAMES,
                    )
                    return removed
                await connection.execute(sa.delete(persons).where(persons.c.id == person_id))
                await note_change(connection, self._clock, person_id, person.folder, removed=True)
        return removed

    @again
    async def unname(self, key: FaceKey, digests: Sequence[str]) -> bool:
        """Take back what a hand named a face; False when there is no such face."""
        async with self._database.transaction() as connection:
            await take_turns(connection)
            face = await lock_face(connection, key)
            if face is None:
                return False
            if face.by_hand:
                person_id = face.person_id
                if person_id is not None:
                    await self._forget_cut(connection, face, person_id, digests)
                elif face.person is not None:
                    # Work is somebody's, and without it nobody decides on the face.
                    person = await find_somebody(connection, face.person)
                    person_id = await add_person(connection, person, self._now())
                await take_name(connection, self._clock, key)
                if person_id is not None:
                    await note_change_by_id(connection, self._clock, person_id, removed=True)
        return True

    @again
    async def deny(
        self,
        key: FaceKey,
        person: Somebody,
        *,
        is_known: bool,
        digests: Sequence[str] | None = None,
    ) -> bool:
        """Write down that a face is not this person's; False when there is no such face or person.

        ``is_known``: pictures of theirs are there, though there may be no row. With ``digests``
        also when a hand has named it so, which is taken back as :meth:`unname` does.
        """
        async with self._database.transaction() as connection:
            await take_turns(connection)
            face = await lock_face(connection, key)
            if face is None:
                return False
            person_id = await lock_somebody(connection, person)
            is_theirs = face.person_id == person_id and face.person is not None
            if person_id is None:
                is_theirs = face.person_id is None and face.person == person.name
                if not (is_known or is_theirs or person.name in map(_person, face.candidates)):
                    return False
                person_id = await add_person(connection, person, self._now())
            taken_back = is_theirs and face.by_hand
            if taken_back:
                if digests is None:
                    raise ConflictError(
                        f"face {key.index} of image {key.image_id} was named {person.name!r} by"
                        " hand: take that name back first"
                    )
                await self._forget_cut(connection, face, person_id, digests)
            # What a group's answer has said of it is said of this face alone from now on.
            said = sa.update(face_denials).where(_denial(key, person_id))
            said_again = await connection.execute(said.values(created_at=self._clock()))
            if not said_again.rowcount:
                await connection.execute(
                    sa.insert(face_denials).values(
                        image_id=key.image_id,
                        face_index=key.index,
                        person_id=person_id,
                        created_at=self._clock(),
                    )
                )
            whose = await whose_pictures(connection, map(_image_name, face.candidates))
            others = [
                one
                for one in face.candidates
                if (whose.get(_image_name(one)) or _person(one)) not in (person_id, person.name)
            ]
            if is_theirs:
                await take_name(
                    connection, self._clock, key, candidates=others, ambiguous=bool(others)
                )
            else:
                await set_candidates(connection, self._clock, key, others)
            await note_change(connection, self._clock, person_id, person.folder, removed=taken_back)
        return True

    @again
    async def allow(self, key: FaceKey, person: Somebody) -> bool:
        """Take a denial back; False when there is no such face."""
        async with self._database.transaction() as connection:
            await take_turns(connection)
            if await lock_face(connection, key) is None:
                return False
            person_id = await lock_somebody(connection, person)
            if person_id is not None:
                gone = await connection.execute(
                    sa.delete(face_denials).where(_denial(key, person_id))
                )
                if gone.rowcount:
                    await note_events(connection, self._clock(), EventKind.IMAGE, [key.image_id])
                    await note_change_by_id(connection, self._clock, person_id)
        return True

    async def _forget_cut(
        self, connection: AsyncConnection, face: LockedFace, person_id: int, digests: Sequence[str]
    ) -> None:
        """Remove known pictures of whom a hand has said that a face is, that were cut out of it."""
        shown = sa.or_(
            sa.false(),
            *(person_images.c.image_name.like(f"%/{digest}.%") for digest in digests),
        )
        unnoted = sa.and_(
            person_images.c.person_id == person_id, person_images.c.image_id.is_(None), shown
        )
        await self._forget(connection, sa.or_(_cut_from(face), unnoted))

    async def _forget(self, connection: AsyncConnection, which: sa.ColumnElement[bool]) -> set[str]:
        """Remove known pictures; have their objects, whose keys are returned, and thumbnails go."""
        query = sa.select(person_images.c.id, person_images.c.image_name).where(which)
        names = {row.id: row.image_name for row in await connection.execute(query)}
        keys = {_key(name) for name in names.values()}
        await connection.execute(sa.delete(person_images).where(which))
        thumbnails = {known_thumbnail(picture_id).key for picture_id in names}
        removals = [Removal(key, None) for key in keys | thumbnails]
        await remove_soon(connection, self._clock, removals)
        return keys


_PICTURE = (
    person_images.c.id,
    person_images.c.image_name,
    person_images.c.created_at,
    person_images.c.image_id,
    person_images.c.face_index,
)


async def _faces_for(connection: AsyncConnection, person_ids: Sequence[int]) -> dict[int, FaceKey]:
    """Return a face that stands for each of some people, who have one.

    That is the chosen one, else the best that a hand has named, else the first of theirs.
    """
    best: dict[int, tuple[tuple[int, float], FaceKey]] = {}
    for some in in_turns(sorted(set(person_ids)), _AT_ONCE):
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


def _known(row: Any) -> KnownPicture:
    face = None if row.image_id is None else FaceKey(row.image_id, row.face_index)
    return KnownPicture(row.id, row.person_id, row.person, row.image_name, row.created_at, face)


def _person(candidate: dict[str, Any]) -> str:
    name: str = candidate["person"]
    return name


def _image_name(candidate: dict[str, Any]) -> str:
    name: str = candidate["image_name"]
    return name


async def _shown(connection: AsyncConnection, face: FaceOfResult) -> LockedFace | None:
    """Return a face, unless the image has been looked at again: then its faces are others."""
    found = await lock_face(connection, FaceKey(face.image_id, face.index))
    return found if found and found.processed_at == face.processed_at else None


def _cut_from(face: LockedFace) -> sa.ColumnElement[bool]:
    """Return the condition of the known pictures of its person that were cut out of a face."""
    return sa.and_(
        person_images.c.image_id == face.key.image_id,
        person_images.c.face_index == face.key.index,
        person_images.c.person_id == face.person_id,
    )


def _denial(key: FaceKey, person_id: int) -> sa.ColumnElement[bool]:
    return sa.and_(
        face_denials.c.image_id == key.image_id,
        face_denials.c.face_index == key.index,
        face_denials.c.person_id == person_id,
    )


def _key(image_name: str) -> str:
    return KNOWN_PEOPLE + image_name


async def _find(connection: AsyncConnection, content_digest: str) -> KnownPicture | None:
    # Names end in the digest, which no index leads to; a scan of the names is a few milliseconds.
    return await _first(connection, person_images.c.image_name.like(f"%/{content_digest}.%"))


async def _first(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> KnownPicture | None:
    query = (
        sa.select(persons.c.id.label("person_id"), persons.c.name.label("person"), *_PICTURE)
        .join_from(person_images, persons)
        .where(which, ~BEING_FORGOTTEN)
        .limit(1)
    )
    row = (await connection.execute(query)).first()
    return _known(row) if row else None
