"""The rows of what thumbnails are of, in the database."""

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.database import Database
from services.common.people import box_in
from services.common.tables import BOX, faces, images, person_images
from services.common.thumbnails import OF_FACES, OF_IMAGES, OF_KNOWN, FacePlace, place_of


class DatabaseThumbnailRows:
    """The port ``ThumbnailRows`` on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def gone(self, thumbnails: Mapping[str, int]) -> Sequence[str]:
        """Return those of the keys whose picture, or face, has no row any more."""
        of_faces = {key for key in thumbnails if key.startswith(OF_FACES)}
        async with self._database.reading() as connection:
            gone = sorted(of_faces - await of_faces_there(connection, of_faces))
        for prefix, column in ((OF_IMAGES, images.c.id), (OF_KNOWN, person_images.c.id)):
            of_these = {
                key: picture_id for key, picture_id in thumbnails.items() if key.startswith(prefix)
            }
            query = sa.select(column).where(column.in_(sorted(set(of_these.values()))))
            async with self._database.reading() as connection:
                there = set(await connection.scalars(query))
            gone += [key for key, picture_id in of_these.items() if picture_id not in there]
        return gone


async def of_faces_there(connection: AsyncConnection, keys: Iterable[str]) -> set[str]:
    """Return those of the keys that are of a face which is there."""
    places = {key: place for key in keys if (place := place_of(key))}
    if not places:
        return set()
    query = sa.select(faces.c.image_id, *BOX).where(
        faces.c.image_id.in_(sorted({place.image_id for place in places.values()})),
        ~faces.c.struck_out,
    )
    there = {FacePlace(row.image_id, box_in(row)) for row in await connection.execute(query)}
    return {key for key, place in places.items() if place in there}
