"""Pictures in the database: what of them goes together, in the transaction of whoever removes."""

from collections.abc import Collection, Iterable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.face_rows import box_in
from services.common.group_rows import FACES_IN_IT
from services.common.object_keys import KNOWN_PEOPLE
from services.common.stored_pictures import Removal, StoredPicture
from services.common.tables import (
    BOX,
    face_groups,
    faces,
    garbage,
    group_faces,
    group_questions,
    images,
    person_images,
)
from services.common.thumbnails import face_thumbnails, image_thumbnails, known_thumbnail

RENEWED_MS: Final = 3_600_000
"""Only a submission that comes so much later than the last is noted: most of those that repeat one
write nothing."""

SUBMITTED_AT: Final = sa.func.coalesce(images.c.submitted_at, images.c.created_at)
"""When an image was submitted last, or up to ``RENEWED_MS`` before that."""


def tag_of_result(row: Any) -> str | None:
    """Return the tag of the picture that an image's result is about; None of an upload."""
    # Nobody replaces what was uploaded.
    tag: str | None = row.object_tag if row.content_digest is None else None
    return tag


def stored_picture(row: Any) -> StoredPicture:
    """Return the picture of a row of ``images``."""
    return StoredPicture(row.path, row.content_digest is not None, tag_of_result(row))


async def delete_images(
    connection: AsyncConnection, image_ids: Collection[int], removals: Iterable[Removal]
) -> None:
    """Remove images that are locked, with their results; have their objects and thumbnails go.

    Faces, their encodings, and what was said of them go with the rows by their foreign keys. Groups
    without faces keep their address and lose their questions.
    """
    every = [*removals, *await thumbnails_of_faces(connection, image_ids)]
    of_these = group_faces.c.image_id.in_(image_ids)
    groups = set(await connection.scalars(sa.select(group_faces.c.group_id).where(of_these)))
    await connection.execute(sa.delete(images).where(images.c.id.in_(image_ids)))
    await _count_members(connection, groups)
    every += [small.removal for image_id in image_ids for small in image_thumbnails(image_id)]
    await remove_soon(connection, every)
    await note_events(connection, database_now(), EventKind.IMAGE, image_ids)


async def _count_members(connection: AsyncConnection, groups: Collection[int]) -> None:
    """Write down the size of groups that faces have left; one without size is of no engine now."""
    its = sa.and_(face_groups.c.id.in_(groups), face_groups.c.size > 0)
    # Locked first, so that whoever puts others into them has done so, or does it afterwards.
    lock = sa.select(face_groups.c.id).where(its).order_by(face_groups.c.id).with_for_update()
    counted = (await connection.scalars(lock)).all()
    if counted:
        await connection.execute(sa.update(face_groups).where(its).values(size=FACES_IN_IT))
        query = sa.select(face_groups.c.id).where(
            face_groups.c.id.in_(counted), face_groups.c.size == 0
        )
        empty = (await connection.scalars(query)).all()
        if empty:
            about = sa.or_(
                group_questions.c.group_id.in_(empty), group_questions.c.other_group_id.in_(empty)
            )
            await connection.execute(sa.delete(group_questions).where(about))


async def thumbnails_of_faces(
    connection: AsyncConnection, image_ids: Collection[int]
) -> list[Removal]:
    """Return what removes the thumbnails of some images' faces."""
    query = sa.select(faces.c.image_id, *BOX).where(faces.c.image_id.in_(image_ids))
    return [
        thumbnail.removal
        for row in await connection.execute(query)
        for thumbnail in face_thumbnails(row.image_id, [box_in(row)])
    ]


async def forget_pictures(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> set[str]:
    """Remove known pictures; have their objects, whose keys are returned, and thumbnails go."""
    query = sa.select(person_images.c.id, person_images.c.image_name).where(which)
    names = {row.id: row.image_name for row in await connection.execute(query)}
    keys = {KNOWN_PEOPLE + name for name in names.values()}
    await connection.execute(sa.delete(person_images).where(which))
    removals = [Removal(key, None) for key in keys]
    removals += [known_thumbnail(picture_id).removal for picture_id in names]
    await remove_soon(connection, removals)
    return keys


async def remove_soon(connection: AsyncConnection, removals: Collection[Removal]) -> None:
    """Have objects removed that no row names any more, whatever was noted of their keys."""
    tags = {removal.key: removal.tag for removal in removals}
    if not tags:
        return
    await connection.execute(sa.delete(garbage).where(garbage.c.object_key.in_(sorted(tags))))
    await connection.execute(
        sa.insert(garbage).values(
            object_key=sa.bindparam("key"), due_at=database_now(), object_tag=sa.bindparam("tag")
        ),
        [{"key": key, "tag": tags[key]} for key in sorted(tags)],
    )
