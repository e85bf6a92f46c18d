"""Stored faces in a real database, and a real gRPC server of face_recog on a real store."""

import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from services.common.clock import database_now
from services.common.database import Database
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.facerecog.client import RecogniserClient
from services.common.faces import Box
from services.common.object_keys import KNOWN_PEOPLE
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.common.tables import (
    events,
    face_denials,
    face_encodings,
    faces,
    garbage,
    images,
    people_work,
    person_images,
    persons,
)
from services.face_recog.adapters.server import FaceRecogServer
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.faces import DetectedFace, Recognition
from services.face_recog.domain.strangers import DLIB
from services.face_recog.service.deciding import Decider
from services.face_recog.service.gallery import Gallery
from services.people.adapters.recogniser import open_view
from services.people.adapters.rows import DatabaseStoredFaces
from services.people.service.deciding import Worker
from services.people.service.stored_faces import StoredFaces

ENGINE: Final = Engine("test-1", 128)

SURE, UNSURE, ELSE = 0.05, 0.44, 3.0
"""How far a face is from its person's picture: enough to be named, asked about, and neither."""

Row = dict[str, Any]


def vector(of: str) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(of.encode()).digest()[:4])
    return _unit(np.random.default_rng(seed).normal(size=128))


def _unit(one: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(one / np.linalg.norm(one))


def encoding(person: str, far: float = SURE, nth: int = 0) -> bytes:
    """Return that of a face of somebody, so far from their picture."""
    its, other = vector(person), vector(f"{person} {nth}")
    return (1.4 * (its + far * _unit(other - (other @ its) * its))).astype("<f4").tobytes()


class OneFace:
    """Finds the one face of whoever a picture's content names."""

    async def recognise(self, picture: bytes, **_: Any) -> Recognition:
        face = DetectedFace(Box(0, 0, 1, 1), 1.0, 1.4 * vector(picture.decode()))
        return Recognition(1, 1, [face])


class World:
    """What there is, and what people do."""

    def __init__(self, database: Database, store: ObjectStore) -> None:
        self.database = database
        self.store = store
        self.gallery = Gallery(
            store,
            OneFace(),
            engine=ENGINE,
            parallel=1,
            tails=DLIB,
            false_names=0.01,
        )
        self.offset = 0
        self.now = 0.0
        self.slept: list[float] = []
        self.client: Any = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["World"]:
        await self.gallery.refresh()
        server = FaceRecogServer(
            SimpleNamespace(),  # type: ignore[arg-type]
            Decider(self.gallery, ENGINE),
            connection_age=600,
            grace=0,
        )
        port = await server.start("127.0.0.1", 0)
        await server.set_serving(serving=True)
        self.client = RecogniserClient(f"127.0.0.1:{port}", timeout=60)
        try:
            yield self
        finally:
            await self.client.close()
            await server.stop()

    def clock(self) -> sa.ColumnElement[int]:
        return database_now() + self.offset

    def rows(self, database: Database | None = None) -> DatabaseStoredFaces:
        return DatabaseStoredFaces(database or self.database, self.clock)

    def worker(self, rows: DatabaseStoredFaces | None = None, **named: Any) -> Worker:
        rows = rows or self.rows()
        stored = StoredFaces(rows, clock=lambda: self.now)
        return Worker(
            rows,
            stored,
            partial(open_view, self.client),
            clock=lambda: self.now,
            sleep=self._sleep,
            **named,
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def run(self, *statements: Any) -> None:
        async with self.database.transaction() as connection:
            for one in statements:
                await connection.execute(one)

    async def all(self, query: Any) -> list[Any]:
        async with self.database.reading() as connection:
            return list((await connection.execute(query)).all())

    async def person(self, name: str, folder: str | None = None) -> int:
        """Return somebody's id, who is made when there is nobody."""
        found = await self.all(sa.select(persons.c.id).where(persons.c.name == name))
        if not found:
            await self.run(sa.insert(persons).values(name=name, folder=folder, created_at=0))
            return await self.person(name)
        return int(found[0].id)

    async def work(self, name: str, *, removed: bool = False, passes: int = 1) -> int:
        """Say that somebody has changed, as the receiver does."""
        person_id = await self.person(name)
        values = {
            "removed": removed,
            "due_at": self.clock(),
            "claim_token": None,
            "after_image_id": 0,
            "passes_left": passes,
        }
        changed = sa.update(people_work).where(people_work.c.person_id == person_id)
        async with self.database.transaction() as connection:
            if not (await connection.execute(changed.values(values))).rowcount:
                await connection.execute(
                    sa.insert(people_work).values(person_id=person_id, folder=name, **values)
                )
        return person_id

    async def enrol(self, name: str, *, nth: int = 0, **named: Any) -> int:
        """Make a known picture, and say so."""
        image_name = f"{name}/{nth}.jpg"
        await self.store.put(KNOWN_PEOPLE + image_name, name.encode())
        person_id = await self.person(name, name)
        await self.run(
            sa.insert(person_images).values(
                person_id=person_id, image_name=image_name, created_at=0
            )
        )
        return await self.work(name, **named)

    async def remove(self, name: str, *, nth: int = 0, collected: bool = True) -> None:
        """Take a known picture away, and say so."""
        key = f"{KNOWN_PEOPLE}{name}/{nth}.jpg"
        await self.run(
            sa.delete(person_images).where(person_images.c.image_name == f"{name}/{nth}.jpg"),
            sa.insert(garbage).values(object_key=key, due_at=self.clock()),
        )
        await self.work(name, removed=True)
        if collected:
            await self.collect(name, nth=nth)

    async def collect(self, name: str, *, nth: int = 0) -> None:
        """Remove the object, as the redeemer does."""
        key = f"{KNOWN_PEOPLE}{name}/{nth}.jpg"
        await self.store.delete(key)
        await self.run(
            sa.update(garbage).where(garbage.c.object_key == key).values(removed_at=self.clock())
        )

    async def picture(
        self, *encodings: bytes | None, faces_are: Iterable[Row] = (), engine: str = ENGINE.name
    ) -> int:
        """Store a result with these faces, who are nobody unless something is said of them."""
        its = list(faces_are) or [{}] * len(encodings)
        async with self.database.transaction() as connection:
            count = await connection.scalar(sa.select(sa.func.max(images.c.id))) or 0
            made: sa.CursorResult[tuple[()]] = await connection.execute(
                sa.insert(images).values(
                    path=f"{count}.jpg",
                    name=f"{count}.jpg",
                    status="processed",
                    attempt=1,
                    created_at=0,
                    updated_at=0,
                    processed_at=1000 + count,
                    engine=engine,
                )
            )
            image_id = int(made.lastrowid)
            for index, (one, said) in enumerate(zip(encodings, its, strict=True)):
                box = {"left": 0, "top": 0, "right": 9, "bottom": 9, "detection_score": 1.0}
                nobody = {"ambiguous": False, "candidates": [], "decided_by": "machine"}
                key = {"image_id": image_id, "face_index": index}
                await connection.execute(sa.insert(faces).values(key | box | nobody | said))
                if one is not None:
                    await connection.execute(
                        sa.insert(face_encodings).values(key | {"engine": engine, "encoding": one})
                    )
            await note_events(connection, self.clock(), EventKind.IMAGE, [image_id])
        return image_id

    async def deny(self, image_id: int, index: int, name: str) -> None:
        """Say that a face is not somebody's, as the receiver does."""
        person_id = await self.person(name)
        await self.run(
            sa.insert(face_denials).values(
                image_id=image_id, face_index=index, person_id=person_id, created_at=0
            )
        )
        await self.work(name)

    async def names(self, image_id: int) -> list[str]:
        """Return who each face is; in brackets who is asked about."""
        found = await self.all(
            sa.select(faces).where(faces.c.image_id == image_id).order_by(faces.c.face_index)
        )
        return [
            row.person or (f"({row.candidates[0]['person']})" if row.ambiguous else "")
            for row in found
        ]

    async def faces(self) -> dict[tuple[int, int], SimpleNamespace]:
        """Return all that is said of faces."""
        return {
            (row.image_id, row.face_index): SimpleNamespace(**row._mapping)
            for row in await self.all(sa.select(faces))
        }

    async def events(self) -> list[int]:
        return [row.subject_id for row in await self.all(sa.select(events).order_by(events.c.id))]

    async def left(self) -> list[Any]:
        return await self.all(sa.select(people_work))


@asynccontextmanager
async def new_world(database: Database, folder: Path) -> AsyncIterator[World]:
    store = ObjectStore(ObjectStoreSettings(object_store_url=f"file://{folder}"))
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(World(database, store).serving())
