"""Images in the database."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import MARIADB_NOW, SQLITE_NOW, database_now
from services.common.database import Database
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.faces import Box
from services.common.groups import FACES_IN_IT
from services.common.images import FINAL, PICTURES, RETRIABLE, RING_AFTER_MS, UPLOADS, Status
from services.common.people import BY_HAND, box_in
from services.common.tables import (
    BOX,
    face_denials,
    face_groups,
    faces,
    group_faces,
    images,
    longest_wait,
    person_images,
)
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.garbage import all_expected, remove_soon, settle
from services.receiver.adapters.rows.image_reading import (
    images_of,
    load_images,
    page_query,
    tag_of_result,
)
from services.receiver.adapters.rows.named_faces import is_face
from services.receiver.domain.faces import FaceKey
from services.receiver.domain.images import Image, Page, StatusReport
from services.receiver.domain.objects import Removal, StoredFace, StoredPicture
from services.receiver.domain.people import Somebody
from services.receiver.domain.submissions import Accepted, Submission, Upload
from services.receiver.domain.thumbnails import face_thumbnails, image_thumbnails

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


class DatabaseImages:
    """The port ``ImageRows`` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = _INSERT_SQLITE if database.is_sqlite else _INSERT_MARIADB

    @retry_on_conflict
    async def add(self, submissions: Sequence[Submission]) -> dict[str, Accepted]:
        """Insert the paths that are not there yet, in one transaction; return all by path."""
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
                missing = [one for one in missing if one.path not in rows]
                if not missing:
                    break
                known = await _find(connection, images.c.path, [one.path for one in missing])
                rows |= await self._send_back(connection, known)
                missing = [one for one in missing if one.path not in rows]
        return rows

    @retry_on_conflict
    async def add_uploads(self, uploads: Sequence[Upload]) -> list[Accepted] | None:
        """Insert a row for each content that has none, in one transaction; return all in order."""
        # Ordered for the reason in add; of equal ones in one request the first gives the name.
        wanted = {one.content_digest: one for one in reversed(uploads)}
        async with self._database.transaction() as connection:
            if not await all_expected(connection, [_key(one) for one in uploads]):
                return None
            # Before there were digests, a content's path was made of nothing else.
            old = await _find(connection, images.c.path, [UPLOADS + digest for digest in wanted])
            rows = await self._send_back(connection, old)
            by_digest = {path.removeprefix(UPLOADS): row for path, row in rows.items()}
            while missing := [one for digest, one in wanted.items() if digest not in by_digest]:
                await self._insert_uploads(connection, sorted(missing, key=_digest_of))
                found = await _find(connection, images.c.content_digest, map(_digest_of, missing))
                own = {one.path for one in missing}
                rows = await self._send_back(
                    connection, [row for row in found if row.path not in own]
                )
                by_digest |= {
                    row.content_digest: rows.get(row.path)
                    or Accepted(row.id, row.path, row.status, duplicate=False)
                    for row in found
                }
            named = {PICTURES + row.path for row in by_digest.values()}
            keys = {_key(one) for one in uploads}
            await settle(connection, named=sorted(keys & named), unnamed=sorted(keys - named))
        found_rows = [by_digest[one.content_digest] for one in uploads]
        return [
            row if row.path == one.path else row._replace(duplicate=True)
            for one, row in zip(uploads, found_rows, strict=True)
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
            [one._asdict() for one in uploads],
        )

    async def _send_back(
        self, connection: AsyncConnection, found: Iterable[Any]
    ) -> dict[str, Accepted]:
        """Set what was rejected or dead back to pending; return all rows by path."""
        rows: dict[str, Accepted] = {}
        for row in found:
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
        """Name an upload's object in the row of this content, whose own is lost."""
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
        """Return an image with its faces."""
        found = await load_images(self._database, [image_id])
        return found[0] if found else None

    async def stored(self, image_id: int) -> StoredPicture | None:
        """Return where an image's picture is."""
        async with self._database.reading() as connection:
            rows = await _find(connection, images.c.id, [image_id])
        if not rows:
            return None
        (row,) = rows
        return StoredPicture(row.path, row.content_digest is not None, tag_of_result(row))

    async def stored_face(self, image_id: int, index: int) -> StoredFace | None:
        """Return where a face is; None of one that was struck out."""
        query = (
            sa.select(images.c.path, images.c.content_digest, images.c.object_tag, *BOX)
            .select_from(faces.join(images))
            .where(is_face(faces, FaceKey(image_id, index)), ~faces.c.struck_out)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        picture = StoredPicture(row.path, row.content_digest is not None, tag_of_result(row))
        return StoredFace(picture, box_in(row))

    async def page(
        self, *, status: str | None, person: Somebody | None, before: int | None, limit: int
    ) -> Page:
        """Return the newest images with an id below ``before``."""
        if person is not None and status not in (None, Status.PROCESSED):
            # Only a processed image has faces; without this, a long search would find nothing.
            return Page((), None)
        # One more tells whether there is a next page.
        query = page_query(status=status, person=person, before=before, limit=limit + 1)
        async with self._database.reading() as connection:
            ids = list(await connection.scalars(query))
        return Page(
            tuple(await load_images(self._database, ids[:limit])),
            ids[limit - 1] if len(ids) > limit else None,
        )

    @retry_on_conflict
    async def retry(self, image_id: int) -> bool:
        """Set a rejected or dead image back to pending; False when it is neither."""
        async with self._database.transaction() as connection:
            return await _retry(connection, image_id)

    @retry_on_conflict
    async def look_again(self, image_id: int, tag: str) -> bool:
        """Set a processed image back to pending, without its faces."""
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
        """Set a final image back to pending, without its faces."""
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
        """Remove an image, whose faces go with it, and have its object removed."""
        its = images.c.id == image_id
        async with self._database.transaction() as connection:
            # Compared here: what was read of a damaged path does not find its row again.
            find_path = sa.select(images.c.path).where(its).with_for_update()
            if await connection.scalar(find_path) != path:
                return False
            thumbnails = [
                *image_thumbnails(image_id),
                *face_thumbnails(image_id, await _boxes(connection, image_id)),
            ]
            in_groups = sa.select(group_faces.c.group_id).where(group_faces.c.image_id == image_id)
            groups = sorted(set(await connection.scalars(in_groups)))
            await connection.execute(sa.delete(images).where(its))
            await _count_members(connection, groups)
            removals = [thumbnail.removal for thumbnail in thumbnails]
            removals += [removal] if removal else []
            await remove_soon(connection, removals)
            await note_events(connection, database_now(), EventKind.IMAGE, [image_id])
        return True

    async def status(self, person: Somebody | None = None) -> StatusReport:
        """Count rows by status, of a person only those with a face of this person."""
        async with self._database.reading() as connection:
            counts = dict.fromkeys(Status, 0)
            if person is not None:
                # As for a page: only a processed image has faces.
                parts = (sa.select(part.subquery()) for part in images_of(person))
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
        images.c.id, images.c.path, images.c.status, images.c.content_digest, images.c.object_tag
    )
    return (await connection.execute(query.where(column.in_(list(values))))).all()


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
    thumbnails = face_thumbnails(image_id, await _boxes(connection, image_id))
    await connection.execute(sa.delete(faces).where(faces.c.image_id == image_id))
    await remove_soon(connection, [thumbnail.removal for thumbnail in thumbnails])
    # Known pictures that were cut out of it stay; its next faces are others.
    await connection.execute(
        sa.update(person_images)
        .where(person_images.c.image_id == image_id)
        .values(image_id=None, face_index=None)
    )
    await note_events(connection, database_now(), EventKind.IMAGE, [image_id])
    return True


async def _count_members(connection: AsyncConnection, groups: Sequence[int]) -> None:
    """Write down the size of groups that faces have left; one without size is of no engine now."""
    its = sa.and_(face_groups.c.id.in_(groups), face_groups.c.size > 0)
    # Locked first, so that whoever puts others into them has done so, or does it afterwards.
    lock = sa.select(face_groups.c.id).where(its).order_by(face_groups.c.id).with_for_update()
    if (await connection.execute(lock)).all():
        await connection.execute(sa.update(face_groups).where(its).values(size=FACES_IN_IT))


async def _boxes(connection: AsyncConnection, image_id: int) -> list[Box]:
    """Return where an image's faces are."""
    rows = await connection.execute(sa.select(*BOX).where(faces.c.image_id == image_id))
    return [box_in(row) for row in rows]


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
