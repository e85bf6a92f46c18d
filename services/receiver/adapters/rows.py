"""Images in the database."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import orjson
import sqlalchemy as sa
import structlog

from services.common.clock import MARIADB_NOW, SQLITE_NOW, database_now
from services.common.database import Database, DatabaseUnavailableError
from services.common.images import RETRIABLE, RING_AFTER_MS, Status
from services.common.tables import faces, images, longest_wait
from services.receiver.domain import (
    Accepted,
    Box,
    Candidate,
    Face,
    Image,
    Page,
    StatusReport,
    Submission,
)

_RETRY_CODES: Final = frozenset({1205, 1213})
"""Lock wait timeout and deadlock: MariaDB asks to run the transaction again."""

log = structlog.get_logger(__name__)

_RUNS: Final = 4

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


class DatabaseRows:
    """The port ``Rows`` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = _INSERT_SQLITE if database.is_sqlite else _INSERT_MARIADB

    async def add(self, submissions: Sequence[Submission]) -> dict[str, Accepted]:
        """Insert the paths that are not there yet, in one transaction; return all by path."""
        # In one order everywhere, so that replicas with the same paths do not deadlock.
        ordered = sorted(submissions, key=lambda one: one.path)
        for run in range(1, _RUNS + 1):
            try:
                return await self._add(ordered)
            except DatabaseUnavailableError as error:
                if run == _RUNS or _code(error) not in _RETRY_CODES:
                    raise
        raise AssertionError("unreachable")

    async def _add(self, submissions: Sequence[Submission]) -> dict[str, Accepted]:
        rows: dict[str, Accepted] = {}
        missing: Sequence[Submission] = submissions
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
                known = await connection.execute(
                    sa.select(images.c.id, images.c.path, images.c.status).where(
                        images.c.path.in_([one.path for one in missing])
                    )
                )
                for found in known:
                    rows[found.path] = Accepted(found.id, found.path, found.status, duplicate=True)
                missing = [one for one in missing if one.path not in rows]
        return rows

    async def get(self, image_id: int) -> Image | None:
        """Return an image with its faces."""
        found = await self._load([image_id])
        return found[0] if found else None

    async def path(self, image_id: int) -> str | None:
        """Return an image's path."""
        async with self._database.reading() as connection:
            path: str | None = await connection.scalar(
                sa.select(images.c.path).where(images.c.id == image_id)
            )
        return path

    async def page(
        self, *, status: str | None, person: str | None, before: int | None, limit: int
    ) -> Page:
        """Return the newest images with an id below ``before``."""
        if person is not None and status not in (None, Status.PROCESSED):
            # Only a processed image has faces; without this, a long search would find nothing.
            return Page((), None)
        ids = await self._ids(page_query(status=status, person=person, before=before), limit + 1)
        return Page(
            tuple(await self._load(ids[:limit])), ids[limit - 1] if len(ids) > limit else None
        )

    async def _ids(self, query: sa.Select[int], limit: int) -> list[int]:
        async with self._database.reading() as connection:
            return list(await connection.scalars(query.limit(limit)))

    async def retry(self, image_id: int) -> bool:
        """Set a rejected or dead image back to pending; False when it is neither."""
        now = database_now()
        async with self._database.transaction() as connection:
            result = await connection.execute(
                sa.update(images)
                .where(images.c.id == image_id, images.c.status.in_(sorted(RETRIABLE)))
                .values(
                    status=Status.PENDING,
                    attempt=0,
                    error=None,
                    claim_token=None,
                    processed_at=None,
                    due_at=now + RING_AFTER_MS,
                    updated_at=now,
                )
            )
        return result.rowcount == 1

    async def delete(self, image_id: int) -> None:
        """Remove an image; its faces go with it."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(images).where(images.c.id == image_id))

    async def status(self, person: str | None = None) -> StatusReport:
        """Count rows by status, of a person only those with a face of this person."""
        async with self._database.reading() as connection:
            counts = dict.fromkeys(Status, 0)
            if person is not None:
                # As for a page: only a processed image has faces.
                query = sa.select(sa.func.count(faces.c.image_id.distinct())).where(
                    faces.c.person == person
                )
                counts[Status.PROCESSED] = await connection.scalar(query) or 0
                return StatusReport({one.value: count for one, count in counts.items()}, None)
            for status, count in await connection.execute(
                sa.select(images.c.status, sa.func.count()).group_by(images.c.status)
            ):
                if status in counts:  # a newer version may have others
                    counts[status] = count
            wait = await connection.scalar(longest_wait(database_now()))
        age = None if wait is None else wait / 1000
        return StatusReport({status.value: count for status, count in counts.items()}, age)

    async def _load(self, ids: Sequence[int]) -> list[Image]:
        """Return the images that still exist, newest first.

        One statement, so that nobody sees an image of before a change with faces of after it.
        """
        if not ids:
            return []
        query = (
            sa.select(images, faces)
            .select_from(images.outerjoin(faces))
            .where(images.c.id.in_(ids))
            .order_by(images.c.id.desc(), faces.c.face_index)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [
            _image(first, [_face(row) for row in (first, *others) if row.face_index is not None])
            for _, (first, *others) in itertools.groupby(rows, key=lambda row: row.id)
        ]


def page_query(*, status: str | None, person: str | None, before: int | None) -> sa.Select[int]:
    """Return the query for ids of a page; each form walks one index backwards.

    A person's images are all processed, so their status need not be looked at.
    """
    if person is not None:
        column = faces.c.image_id
        query = sa.select(column).where(faces.c.person == person).distinct()
    else:
        column = images.c.id
        query = sa.select(column)
        if status is not None:
            # Told, because MariaDB walks all rows when it believes most of them to match.
            query = query.where(images.c.status == status).with_hint(
                images, "FORCE INDEX (ix_images_status_id)", "mysql"
            )
    if before is not None:
        query = query.where(column < before)
    return query.order_by(column.desc())


def _image(row: Any, its_faces: Iterable[Face]) -> Image:
    return Image(
        id=row.id,
        path=row.path,
        name=row.name,
        status=row.status,
        attempt=row.attempt,
        error=row.error,
        created_at=row.created_at,
        updated_at=row.updated_at,
        processed_at=row.processed_at,
        due_at=row.due_at,
        width=row.width,
        height=row.height,
        engine=row.engine,
        faces=tuple(its_faces),
    )


def _face(row: Any) -> Face:
    return Face(
        index=row.face_index,
        box=Box(row.left, row.top, row.right, row.bottom),
        detection_score=row.detection_score,
        ambiguous=row.ambiguous,
        person=row.person,
        distance=row.distance,
        candidates=tuple(_candidates(row.candidates)),
    )


def _candidates(stored: Any) -> Iterator[Candidate]:
    """Yield what can be read of a face's candidates; a damaged one takes nothing else with it."""
    for one in stored if isinstance(stored, list) else ():
        match one:
            case {
                "person": str(person),
                "image_name": str(image_name),
                "distance": int() | float() as distance,
            }:
                yield Candidate(person, image_name, distance)
            case _:
                log.warning("a candidate in a row cannot be read", found=repr(one)[:100])


def _code(error: DatabaseUnavailableError) -> object:
    original = getattr(error.__cause__, "orig", None)
    arguments: tuple[object, ...] = getattr(original, "args", ())
    return arguments[0] if arguments else None
