"""Images in the database."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.claims import RING_AFTER_MS
from services.common.clock import MARIADB_NOW, SQLITE_NOW, database_now
from services.common.database import Database
from services.common.due_rows import longest_wait
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.face_rows import box_in, measured_in
from services.common.faces import DecidedBy
from services.common.image_states import FINAL, RETRIABLE, Status
from services.common.object_keys import PICTURES, UPLOADS, folder_of
from services.common.person_names import known_name
from services.common.person_rows import BY_HAND, WHOSE, WHOSE_ID, whose_pictures
from services.common.picture_rows import (
    RENEWED_MS,
    SUBMITTED_AT,
    delete_images,
    remove_soon,
    stored_picture,
    tag_of_result,
    thumbnails_of_faces,
)
from services.common.stored_pictures import Removal, StoredPicture
from services.common.tables import (
    BOX,
    erasures,
    face_denials,
    faces,
    images,
    person_images,
    persons,
    same_face,
)
from services.common.thumbnails import image_thumbnails
from services.receiver.adapters.rows.audit import add_records
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.garbage import all_expected, settle
from services.receiver.adapters.rows.named_faces import is_face
from services.receiver.domain.acts import ActOnPaths, acting
from services.receiver.domain.cursors import Page
from services.receiver.domain.erasing import Stage
from services.receiver.domain.faces import Candidate, Face, FaceKey, StruckOut
from services.receiver.domain.images import Image, StatusReport
from services.receiver.domain.objects import StoredFace
from services.receiver.domain.people import Somebody
from services.receiver.domain.submissions import Accepted, Submission, Upload

# One INSERT of all rows that leaves out the paths that exist. The rows come as one JSON array,
# [[path, name], ...]: the database takes it apart in half the time that the driver needs to quote
# every value. Path and name fit their columns, so IGNORE has nothing else to ignore.
_INSERT_SQLITE: Final = f"""
INSERT OR IGNORE INTO images (status, attempt, due_at, created_at, updated_at, path, name)
SELECT ?, 0, {SQLITE_NOW} + ?, {SQLITE_NOW}, {SQLITE_NOW},
  json_extract(value, '$[0]'), json_extract(value, '$[1]')
FROM json_each(?)
RETURNING id, path
"""  # noqa: S608, constants
_INSERT_MARIADB: Final = f"""
INSERT IGNORE INTO images (status, attempt, due_at, created_at, updated_at, path, name)
SELECT %s, 0, {MARIADB_NOW} + %s, {MARIADB_NOW}, {MARIADB_NOW},
  path, name FROM JSON_TABLE(%s, '$[*]' COLUMNS (
  path VARCHAR(512) CHARACTER SET utf8mb4 PATH '$[0]',
  name VARCHAR(255) CHARACTER SET utf8mb4 PATH '$[1]'
)) AS submitted
RETURNING id, path
"""  # noqa: S608

_OF_ROW: Final = [field.name for field in fields(Image) if field.name in images.c]
"""What an image has as its row does."""


class DatabaseImages:
    """The port ``ImageRows`` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = _INSERT_SQLITE if database.is_sqlite else _INSERT_MARIADB

    @retry_on_conflict
    async def add(
        self,
        submissions: Sequence[Submission],
        acts: Sequence[ActOnPaths] = (),
    ) -> dict[str, Accepted]:
        rows: dict[str, Accepted] = {}
        # In one order everywhere, so that replicas with the same paths do not deadlock.
        missing = sorted(submissions, key=lambda one: one.path)
        async with self._database.transaction() as connection:
            # A row that is deleted between the two statements is inserted in the next turn.
            while missing:
                content = orjson.dumps(missing, default=tuple).decode()
                inserted = await connection.exec_driver_sql(
                    self._insert, (Status.PENDING, RING_AFTER_MS, content)
                )
                for row in inserted:
                    rows[row.path] = Accepted(row.id, row.path, Status.PENDING, duplicate=False)
                missing = [submission for submission in missing if submission.path not in rows]
                if not missing:
                    break
                known = await _find(
                    connection, images.c.path, [submission.path for submission in missing]
                )
                rows |= await self._send_back(connection, known)
                missing = [submission for submission in missing if submission.path not in rows]
            for act, its in acts:
                act.about_pictures([rows[submission.path].id for submission in its])
            await add_records(connection, [act.done() for act, _ in acts])
        for act, _ in acts:
            act.recorded = True
        return rows

    @retry_on_conflict
    async def add_uploads(self, uploads: Sequence[Upload]) -> list[Accepted] | None:
        # Ordered for the reason in add; of equal ones in one request the first gives the name.
        wanted = {upload.content_digest: upload for upload in reversed(uploads)}
        async with self._database.transaction() as connection:
            if not await all_expected(connection, [_key(upload) for upload in uploads]):
                return None
            # Before there were digests, a content's path was made of nothing else.
            old = await _find(connection, images.c.path, [UPLOADS + digest for digest in wanted])
            rows = await self._send_back(connection, old)
            by_digest = {path.removeprefix(UPLOADS): row for path, row in rows.items()}
            while missing := [
                upload for digest, upload in wanted.items() if digest not in by_digest
            ]:
                await self._insert_uploads(connection, sorted(missing, key=_digest_of))
                found = await _find(connection, images.c.content_digest, map(_digest_of, missing))
                own = {upload.path for upload in missing}
                rows = await self._send_back(
                    connection, [row for row in found if row.path not in own]
                )
                by_digest |= {
                    row.content_digest: rows.get(row.path)
                    or Accepted(row.id, row.path, row.status, duplicate=False)
                    for row in found
                }
            named = {PICTURES + row.path for row in by_digest.values()}
            keys = {_key(upload) for upload in uploads}
            await settle(connection, named=sorted(keys & named), unnamed=sorted(keys - named))
            if act := acting.get():
                act.about_pictures([row.id for row in by_digest.values()])
        found_rows = [by_digest[upload.content_digest] for upload in uploads]
        return [
            row if row.path == upload.path else row._replace(duplicate=True)
            for upload, row in zip(uploads, found_rows, strict=True)
        ]

    async def _insert_uploads(self, connection: AsyncConnection, uploads: Sequence[Upload]) -> None:
        now = database_now()
        values = {
            "path": sa.bindparam("path"),
            "name": sa.bindparam("name"),
            "content_digest": sa.bindparam("content_digest"),
            "status": Status.PENDING,
            "attempt": 0,
            "due_at": now + RING_AFTER_MS,
            "created_at": now,
            "updated_at": now,
        }
        await connection.execute(
            sa.insert(images)
            .values(values)
            .prefix_with("OR IGNORE", dialect="sqlite")
            .prefix_with("IGNORE", dialect="mysql"),
            [upload._asdict() for upload in uploads],
        )

    async def _send_back(
        self, connection: AsyncConnection, found: Iterable[Any]
    ) -> dict[str, Accepted]:
        """Set what was rejected or dead back to pending; return all rows by path."""
        every = list(found)
        await _renew(connection, [row.id for row in every if row.is_old])
        rows: dict[str, Accepted] = {}
        for row in every:
            sent_back = row.status in RETRIABLE and await _retry(connection, row.id)
            rows[row.path] = Accepted(
                row.id,
                row.path,
                Status.PENDING if sent_back else row.status,
                duplicate=True,
                sent_back=sent_back,
                tag=tag_of_result(row) if row.status == Status.PROCESSED else None,
            )
        return rows

    @retry_on_conflict
    async def replace_object(self, accepted: Accepted, upload: Upload) -> Accepted | None:
        now = database_now()
        async with self._database.transaction() as connection:
            if not await all_expected(connection, [_key(upload)]):
                return None
            its = sa.update(images).where(
                images.c.id == accepted.id, images.c.path == accepted.path
            )
            if (await connection.execute(its.values(path=upload.path))).rowcount != 1:
                return accepted
            # Whoever works on it looks for the lost object.
            sent_back = await connection.execute(
                sa.update(images)
                .where(images.c.id == accepted.id, images.c.status != Status.PROCESSED)
                .values(_pending(now))
            )
            if sent_back.rowcount:
                await note_events(connection, now, EventKind.IMAGE, [accepted.id])
            await settle(connection, named=[_key(upload)], unnamed=[])
        return accepted._replace(path=upload.path)

    async def get(self, image_id: int) -> Image | None:
        found = await _load_images(self._database, [image_id])
        return found[0] if found else None

    async def stored(self, image_id: int) -> StoredPicture | None:
        async with self._database.reading() as connection:
            rows = await _find(connection, images.c.id, [image_id])
        if not rows:
            return None
        (row,) = rows
        return stored_picture(row)

    async def stored_face(self, image_id: int, index: int) -> StoredFace | None:
        query = (
            sa.select(images.c.path, images.c.content_digest, images.c.object_tag, *BOX)
            .select_from(faces.join(images))
            .where(is_face(faces, FaceKey(image_id, index)), ~faces.c.struck_out)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        return StoredFace(stored_picture(row), box_in(row))

    async def page(
        self, *, status: str | None, person: Somebody | None, before: int | None, limit: int
    ) -> Page[Image, int]:
        if person is not None and status not in (None, Status.PROCESSED):
            # Only a processed image has faces; without this, a long search would find nothing.
            return Page((), None)
        # One more tells whether there is a next page.
        query = page_query(status=status, person=person, before=before, limit=limit + 1)
        async with self._database.reading() as connection:
            ids = list(await connection.scalars(query))
        return Page(
            tuple(await _load_images(self._database, ids[:limit])),
            ids[limit - 1] if len(ids) > limit else None,
        )

    @retry_on_conflict
    async def retry(self, image_id: int) -> bool:
        async with self._database.transaction() as connection:
            return await _retry(connection, image_id)

    @retry_on_conflict
    async def look_again(self, image_id: int, tag: str) -> bool:
        same = sa.and_(images.c.status == Status.PROCESSED, images.c.object_tag == tag)
        async with self._database.transaction() as connection:
            if not await _forget_result(connection, image_id, same):
                return False
            # They show the picture that was replaced.
            thumbnails = [thumbnail.removal for thumbnail in image_thumbnails(image_id)]
            await remove_soon(connection, thumbnails)
        return True

    @retry_on_conflict
    async def recognise(self, image_id: int) -> bool:
        async with self._database.transaction() as connection:
            # Locked, the row as well, so that nobody names a face between this look and their end.
            status = await connection.scalar(
                sa.select(images.c.status).where(images.c.id == image_id).with_for_update()
            )
            if status not in FINAL:
                return False
            its_faces = await connection.execute(
                sa.select(sa.or_(BY_HAND, faces.c.drawn, faces.c.struck_out).label("by_hand"))
                .where(faces.c.image_id == image_id)
                .with_for_update()
            )
            if any(face.by_hand for face in its_faces):
                return False
            denial = sa.select(face_denials.c.face_index).where(face_denials.c.image_id == image_id)
            if await connection.scalar(denial.limit(1)) is not None:
                return False
            return await _forget_result(connection, image_id, sa.true())

    @retry_on_conflict
    async def delete(self, image_id: int, path: str, removal: Removal | None) -> bool:
        its = images.c.id == image_id
        async with self._database.transaction() as connection:
            # Compared here: what was read of a damaged path does not find its row again.
            find_path = sa.select(images.c.path).where(its).with_for_update()
            if await connection.scalar(find_path) != path:
                return False
            await delete_images(connection, [image_id], [removal] if removal else [])
        return True

    async def status(self, person: Somebody | None = None) -> StatusReport:
        async with self._database.reading() as connection:
            counts = dict.fromkeys(Status, 0)
            if person is not None:
                # As for a page: only a processed image has faces.
                parts = (sa.select(part.subquery()) for part in _images_of(person))
                query = sa.select(sa.func.count()).select_from(sa.union(*parts).subquery())
                counts[Status.PROCESSED] = await connection.scalar(query) or 0
                return StatusReport({status.value: count for status, count in counts.items()}, None)
            for status, count in await connection.execute(
                sa.select(images.c.status, sa.func.count()).group_by(images.c.status)
            ):
                if status in counts:  # a newer version may have others
                    counts[status] = count
            wait = await connection.scalar(longest_wait(database_now()))
        age = None if wait is None else wait / 1000
        return StatusReport({status.value: count for status, count in counts.items()}, age)


async def _find(
    connection: AsyncConnection, column: sa.Column[Any], values: Iterable[Any]
) -> Sequence[Any]:
    query = sa.select(
        images.c.id,
        images.c.path,
        images.c.status,
        images.c.content_digest,
        images.c.object_tag,
        (database_now() - RENEWED_MS > SUBMITTED_AT).label("is_old"),
    )
    return (await connection.execute(query.where(column.in_(list(values))))).all()


async def _renew(connection: AsyncConnection, image_ids: Sequence[int]) -> None:
    """Note that images are submitted again.

    The INSERT that found them has locked their keys, so the redeemer erases none of them meanwhile.
    """
    if image_ids:
        its = images.c.id.in_(sorted(image_ids))
        await connection.execute(sa.update(images).where(its).values(submitted_at=database_now()))


def _digest_of(upload: Upload) -> str:
    return upload.content_digest


def _key(upload: Upload) -> str:
    return PICTURES + upload.path


async def _retry(connection: AsyncConnection, image_id: int) -> bool:
    result = await connection.execute(
        sa.update(images)
        .where(images.c.id == image_id, images.c.status.in_(sorted(RETRIABLE)))
        .values(_pending(database_now()))
    )
    if result.rowcount != 1:
        return False
    await note_events(connection, database_now(), EventKind.IMAGE, [image_id])
    return True


async def _forget_result(
    connection: AsyncConnection, image_id: int, which: sa.ColumnElement[bool]
) -> bool:
    """Set an image back to pending without its faces; False when it is not such a one."""
    result = await connection.execute(
        sa.update(images)
        .where(images.c.id == image_id, which)
        .values(**_pending(database_now()), object_tag=None, width=None, height=None, engine=None)
    )
    if result.rowcount != 1:
        return False
    removals = await thumbnails_of_faces(connection, [image_id])
    await connection.execute(sa.delete(faces).where(faces.c.image_id == image_id))
    await remove_soon(connection, removals)
    # Known pictures that were cut out of it stay as long as it; its next faces are others.
    await connection.execute(
        sa.update(person_images).where(person_images.c.image_id == image_id).values(face_index=None)
    )
    await note_events(connection, database_now(), EventKind.IMAGE, [image_id])
    return True


def _pending(now: sa.ColumnElement[int]) -> Mapping[str, Any]:
    """Return the columns of an image that is looked at as if for the first time."""
    return {
        "status": Status.PENDING,
        "attempt": 0,
        "error": None,
        "claim_token": None,
        "processed_at": None,
        "due_at": now + RING_AFTER_MS,
        "updated_at": now,
    }


async def _load_images(database: Database, ids: Sequence[int]) -> list[Image]:
    """Return the images that still exist, newest first.

    Images and faces come by one statement, so that nobody sees an image of before a change with
    faces of after it.
    """
    if not ids:
        return []
    denied = persons.alias()
    query = (
        sa.select(
            images,
            faces,
            BY_HAND.label("by_hand"),
            WHOSE.label("whose"),
            WHOSE_ID.label("whose_id"),
            denied.c.name.label("denied"),
            denied.c.id.label("denied_id"),
        )
        .select_from(
            images.outerjoin(faces)
            .outerjoin(persons, persons.c.id == faces.c.person_id)
            .outerjoin(face_denials, same_face(face_denials, faces))
            .outerjoin(denied, denied.c.id == face_denials.c.person_id)
        )
        .where(images.c.id.in_(ids))
        .order_by(images.c.id.desc(), faces.c.face_index, denied.c.name, denied.c.id)
    )
    async with database.reading() as connection:
        rows = (await connection.execute(query)).all()
        whose = await whose_pictures(
            connection, (guess["image_name"] for row in rows for guess in row.candidates)
        )
        leaving = (await connection.execute(sa.select(erasures))).all()
    found = [
        _image(first, [row for row in (first, *others) if row.face_index is not None], whose)
        for _, (first, *others) in itertools.groupby(rows, key=lambda row: row.id)
    ]
    merged = {row.person_id for row in leaving if row.stage == Stage.MERGED}
    gone = {row.person_id for row in leaving} - merged
    folders = {folder for row in leaving for folder in row.folders if row.person_id in gone}
    return [
        replace(image, faces=tuple(_without(face, gone, folders, merged) for face in image.faces))
        for image in found
    ]


def page_query(
    *, status: str | None, person: Somebody | None, before: int | None, limit: int
) -> sa.Select[int]:
    """Return the query for the first ids of a page; each form walks indexes backwards.

    A person's images are all processed, so their status need not be looked at.
    """
    if person is not None:
        # Each limited by itself, so that of neither more is read than a page.
        parts = [
            _first(part, part.selected_columns[0], before, limit) for part in _images_of(person)
        ]
        found = sa.union(*(sa.select(part.subquery()) for part in parts)).subquery()
        return sa.select(found.c.image_id).order_by(found.c.image_id.desc()).limit(limit)
    query = sa.select(images.c.id)
    if status is not None:
        # Told, because MariaDB walks all rows when it believes most of them to match.
        query = query.where(images.c.status == status).with_hint(
            images, "FORCE INDEX (ix_images_status_id)", "mysql"
        )
    return _first(query, images.c.id, before, limit)


def _first(
    query: sa.Select[int], column: sa.ColumnElement[int], before: int | None, limit: int
) -> sa.Select[int]:
    if before is not None:
        query = query.where(column < before)
    return query.order_by(column.desc()).limit(limit)


def _images_of(person: Somebody) -> list[sa.Select[int]]:
    """Return the queries for the images with a face of a person, by id and by name alone."""
    query = sa.select(faces.c.image_id).distinct()
    parts = []
    if person.id is not None:
        parts.append(query.where(faces.c.person_id == person.id))
    if person.has_name_alone:
        # Told, because MariaDB walks all faces of nobody when it believes them to be fewer.
        parts.append(
            query.where(faces.c.person == person.name, faces.c.person_id.is_(None)).with_hint(
                faces, "FORCE INDEX (ix_faces_person)", "mysql"
            )
        )
    return parts


def _image(row: Any, its_faces: Sequence[Any], whose: Mapping[str, int]) -> Image:
    return Image(
        **{name: getattr(row, name) for name in _OF_ROW},
        tag=tag_of_result(row),
        faces=tuple(_faces((face for face in its_faces if not face.struck_out), whose)),
        struck_out=tuple(
            # A face that has denials has a row for each.
            {
                face.face_index: StruckOut(face.face_index, box_in(face), bool(face.forgotten))
                for face in its_faces
                if face.struck_out
            }.values()
        ),
    )


def _faces(rows: Iterable[Any], whose: Mapping[str, int]) -> list[Face]:
    """Return the faces of rows, of which a face has one for each denial, and one without any."""
    found = []
    for _, (first, *others) in itertools.groupby(rows, key=lambda row: row.face_index):
        denials = [row for row in (first, *others) if row.denied is not None]
        found.append(_face(first, denials, whose))
    return found


def _face(row: Any, denials: Sequence[Any], whose: Mapping[str, int]) -> Face:
    return Face(
        index=row.face_index,
        **measured_in(row),
        ambiguous=row.ambiguous,
        person=row.whose,
        person_id=row.whose_id,
        distance=row.distance,
        decided_by=DecidedBy.HAND if row.by_hand else DecidedBy.MACHINE,
        candidates=tuple(
            Candidate(
                candidate["person"],
                candidate["image_name"],
                candidate["distance"],
                whose.get(candidate["image_name"]),
            )
            for candidate in row.candidates
        ),
        denials=tuple(denial.denied for denial in denials),
        denial_ids=tuple(denial.denied_id for denial in denials),
        drawn=bool(row.drawn),
    )


def _without(
    face: Face, ids: Collection[int], folders: Collection[str], merged: Collection[int]
) -> Face:
    """Return a face without people who are being forgotten, with these ids and folders.

    Who they are is gone for all others, though it is still to be removed from the rows. Of those
    who are ``merged`` it shows the name that it is to have, and no id any more.
    """
    denied = [
        (name, person_id)
        for name, person_id in zip(face.denials, face.denial_ids, strict=True)
        if known_name(name) is not None
    ]
    left = [
        candidate
        for candidate in face.candidates
        if candidate.person_id not in ids
        and not (candidate.person_id is None and folder_of(candidate.image_name) in folders)
    ]
    changed: dict[str, Any] = {}
    if face.person is not None and known_name(face.person) is None:
        changed = {
            "person": None,
            "person_id": None,
            "distance": None,
            "decided_by": DecidedBy.MACHINE,
            "ambiguous": False,
            "candidates": (),
        }
    elif len(left) < len(face.candidates):
        changed = {"ambiguous": face.ambiguous and bool(left), "candidates": tuple(left)}
    if face.person_id in merged:
        changed["person_id"] = None
    if len(denied) < len(face.denials):
        changed["denials"] = tuple(name for name, _ in denied)
        changed["denial_ids"] = tuple(person_id for _, person_id in denied)
    return replace(face, **changed) if changed else face
