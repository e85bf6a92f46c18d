"""Images with results of before, and what is asked of their encodings."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from services.common.availability import AvailabilityLog
from services.common.events import EventKind
from services.common.facerecog import face_pb2
from services.common.facerecog.client import RecogniserClient
from services.common.faces import Box, SeenFace
from services.common.tables import (
    encoding_work,
    events,
    face_encodings,
    faces,
    images,
    people_work,
    persons,
)
from services.image_processor.adapters.encoding_rows import DatabaseEncodingRows
from services.image_processor.adapters.face_finder import GrpcFaceFinder
from services.image_processor.domain import Processed
from services.image_processor.service.breaker import Breaker
from services.image_processor.service.encoding import Encoder
from services.image_processor.service.pictures import StoredPictures
from services.image_processor.tests.conftest import Images
from services.image_processor.tests.virtual_time import VirtualTime
from services.receiver.adapters.rows.encoding import DatabaseEncoding
from services.testing.recogniser import RecogniserServer, encoding_of_box

HOUR = 3600.0
BOXES = ((1, 2, 30, 40), (50, 2, 80, 40))


def face(box: tuple[int, int, int, int], encoding: bytes | None = None) -> SeenFace:
    return SeenFace(Box(*box), 0.5, False, (), encoding=encoding)


def encodings_by(engine: str, *image_ids: int) -> dict[tuple[int, int, str], bytes]:
    """What the server makes of the stored faces of these images."""
    return {
        (image_id, index, engine): encoding_of_box(
            engine, face_pb2.Box(left=left, top=top, right=right, bottom=bottom)
        )
        for image_id in image_ids
        for index, (left, top, right, bottom) in enumerate(BOXES)
    }


class Archive:
    """Images with results of before, a server in face_recog's place, and whoever encodes."""

    def __init__(self, images: Images, server: RecogniserServer, client: RecogniserClient) -> None:
        self.images = images
        self.server = server
        self.client = client
        self.time = VirtualTime()
        self.report = DatabaseEncoding(images.database)
        self.breaker = Breaker(
            client.ping, on_change=lambda _: None, time=self.time, random=lambda: 0.5
        )

    async def store(
        self, *contents: bytes, engine: str = "test-1", encoding: bytes | None = None
    ) -> list[int]:
        """Store pictures with a result of two faces, as an older version did; return the ids."""
        ids: list[int] = await self.images.submit(*contents)
        for image_id, content in zip(ids, contents, strict=True):
            found = tuple(face(box, encoding) for box in BOXES)
            claim = await self.images.claim(image_id)
            done = Processed(found, 100, 90, engine, content.hex())
            assert await self.images.rows.finish(claim, done) == "processed"
        return ids

    def encoder(self, database: Any = None, *, concurrency: int = 1) -> Encoder:
        rows = DatabaseEncodingRows(database or self.images.database, self.images.clock.in_database)
        return Encoder(
            rows=rows,
            stored_pictures=StoredPictures(
                pictures=self.images.pictures,
                recogniser=GrpcFaceFinder(self.client),
                breaker=self.breaker,
            ),
            engine=self.client.engine,
            breaker=self.breaker,
            database=AvailabilityLog("database"),
            time=self.time,
            concurrency=concurrency,
        )

    async def put(self, image_id: int, content: bytes) -> None:
        """Let another picture be the one that the image's result is about."""
        path = (await self.images.row(image_id)).path
        self.images.pictures.objects[f"pictures/{path}"] = content
        await self.change(images, images.c.id == image_id, object_tag=content.hex())

    async def encodings(self) -> dict[tuple[int, int, str], bytes]:
        async with self.images.database.reading() as connection:
            rows = await connection.execute(sa.select(face_encodings))
            return {(row.image_id, row.face_index, row.engine): row.encoding for row in rows}

    async def faces(self) -> list[Any]:
        async with self.images.database.reading() as connection:
            order = (faces.c.image_id, faces.c.face_index)
            return list((await connection.execute(sa.select(faces).order_by(*order))).all())

    async def told(self) -> list[int]:
        """Images of whose new encodings others were told."""
        query = sa.select(events.c.subject_id).where(events.c.kind == EventKind.ENCODED)
        async with self.images.database.reading() as connection:
            return list(await connection.scalars(query.order_by(events.c.id)))

    async def work(self) -> Any:
        async with self.images.database.reading() as connection:
            return (await connection.execute(sa.select(encoding_work))).one()

    async def change(self, table: sa.Table, *which: Any, **values: Any) -> None:
        async with self.images.database.transaction() as connection:
            await connection.execute(sa.update(table).where(*which).values(values))

    async def advance(self, seconds: float) -> None:
        """Let time pass, that of the database as well."""
        self.images.clock.advance(seconds)
        self.time.now += seconds


async def drain(encoder: Encoder) -> float:
    """Let it work until it rests; return for how long."""
    for _ in range(200):
        if rest := await encoder.turn():
            return rest
    pytest.fail("it does not come to an end")


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110, nobody has an event for it
        await asyncio.sleep(0)


async def add_people(archive: Archive, *ids: int) -> None:
    async with archive.images.database.transaction() as connection:
        rows = [
            {"id": person_id, "name": f"P{person_id}", "folder": None, "created_at": 1}
            for person_id in ids
        ]
        await connection.execute(sa.insert(persons), rows)


async def decided_again(archive: Archive) -> list[tuple[int, ...]]:
    """Who is to be looked for, behind which image, and how often."""
    changes = people_work.c
    query = sa.select(changes.person_id, changes.after_image_id, changes.passes_left).order_by(
        changes.person_id
    )
    async with archive.images.database.reading() as connection:
        return [tuple(row) for row in await connection.execute(query)]
