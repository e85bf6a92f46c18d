"""From a change of a person to all stored faces that it touches, among very many."""

import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import psutil
import pymysql
from numpy.typing import NDArray
from pymysql.cursors import SSCursor
from rich.console import Console
from rich.table import Table

from bench import grouping
from services.common import logs
from services.common.facerecog.client import RecogniserClient
from services.common.facerecog.stored_faces import StoredFacesClient
from services.common.faces import Box
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.face_recog.adapters.server import FaceRecogServer
from services.face_recog.domain.calibration import DEFAULT_FALSE_NAMES
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.faces import DetectedFace, Recognition
from services.face_recog.domain.parts import GalleryPicture, PictureFaces
from services.face_recog.domain.strangers import DLIB
from services.face_recog.service.deciding import Decider
from services.face_recog.service.gallery import Gallery
from services.face_recog.service.kept_encodings import KeptEncodings
from services.local.processes import free_port
from services.migrations.__main__ import migrate
from services.testing.processes import Service
from services.testing.servers import MariaDb
from services.testing.waiting import eventually

_ENGINE: Final = Engine("bench", 128)
_PREFIX: Final = "known_people/"
_DATABASE: Final = "facestack"
_SIZES: Final = (10_000, 100_000, 1_000_000)
_PEOPLE: Final = 100_000
_FACES_A_PICTURE: Final = 2
_OWN: Final = 200
"""Stored faces of the person who is named."""

_NEW: Final = 1_000_000_000
"""The number of the first of those who are new."""

_SPREAD: Final = 25
"""Directions in which faces differ. With this and the shares below, products of length 1 are spread
as those of dlib's encodings in Labeled Faces in the Wild: of strangers around 0.80 by 0.04, so that
one pair in 1,000 is over 0.925. Of one person's they are over 0.99, so that the rule for 100,000
people names them after one picture: what is measured is how long that takes."""

_COMMON, _OF_PERSON, _OF_PICTURE = 0.8, 0.197, 0.003
_LENGTH: Final = 1.4
_POLL: Final = 0.01
_INSERTED: Final = 2_000
_SEARCHES: Final = 20
_NEAREST: Final = 50

Vectors = NDArray[np.float32]


class _World:
    """Faces of people, each by number."""

    def __init__(self) -> None:
        drawing = np.random.default_rng(1)
        axes, _ = np.linalg.qr(drawing.normal(size=(_ENGINE.size, _SPREAD + 1)))
        self._centre, self._axes = axes[:, 0], axes[:, 1:].T

    def faces(self, people: Sequence[int] | NDArray[np.intp], seed: int) -> Vectors:
        """Return one more face of each of these people, of shape (people, size)."""
        drawing = np.random.default_rng(seed)
        own = np.array([np.random.default_rng(one).normal(size=_SPREAD) for one in people])
        now = drawing.normal(size=own.shape)
        part = np.sqrt(_OF_PERSON / _SPREAD) * own + np.sqrt(_OF_PICTURE / _SPREAD) * now
        whole = np.sqrt(_COMMON) * self._centre + part @ self._axes
        faces: Vectors = (_LENGTH * whole).astype("<f4")
        return faces


class _Recogniser:
    """Answers at once with the encoding that a picture is."""

    async def recognise(self, picture: bytes, **_: Any) -> Recognition:
        encoding = np.frombuffer(picture, "<f4").astype(np.float64)
        face = DetectedFace(Box(0, 0, 1, 1), 1.0, encoding)
        return Recognition(1, 1, [face])


async def _keep(store: ObjectStore, folder: Path, people: int) -> None:
    """Write a known picture of so many people, and what is kept of them."""
    encodings = _World().faces(range(people), seed=2)
    for number, encoding in enumerate(encodings):
        file = folder / f"{_PREFIX}person {number:07}/1.jpg"
        file.parent.mkdir(parents=True)
        file.write_bytes(encoding.tobytes())
    known = {}
    async for info in store.list(_PREFIX):
        encoding = encodings[int(info.key.split("/")[1].split()[1])]
        known[info.key] = GalleryPicture(info.tag, b"\1" * 32, PictureFaces(1, encoding))
    kept = KeptEncodings(store, _ENGINE)
    for key in known:
        kept.note_changed(key)
    await kept.write(known)


async def _serve(folder: Path, people: int, port: int) -> None:
    store = ObjectStore(ObjectStoreSettings(object_store_url=f"file://{folder}"))
    await _keep(store, folder, people)
    gallery = Gallery(
        store,
        _Recogniser(),
        engine=_ENGINE,
        parallel=1,
        tails=DLIB,
        false_names=DEFAULT_FALSE_NAMES,
    )
    identifier: Any = SimpleNamespace()
    server = FaceRecogServer(identifier, Decider(gallery, _ENGINE), connection_age=3600, grace=0)
    await server.start("127.0.0.1", port)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(gallery.watch(2.0))
        await gallery.wait_ready()
        await server.set_serving(serving=True)


def _serve_alone(folder: Path, people: int, port: int) -> None:
    logs.configure("bench", "WARNING")
    asyncio.run(_serve(folder, people, port))


async def _ready(target: str) -> None:
    client = RecogniserClient(target, timeout=1)
    await eventually(client.ping, seconds=600)
    await client.close()


class _Rows:
    """The database, by a driver alone."""

    def __init__(self, port: int) -> None:
        self._connection = pymysql.connect(
            host="127.0.0.1", port=port, user="root", database=_DATABASE, autocommit=True
        )

    def run(self, statement: str, *values: Any) -> list[Any]:
        cursor = self._connection.cursor()
        cursor.execute(statement, values)
        return list(cursor.fetchall())

    def fill(self, first: int, faces: int, own: int) -> None:
        """Store pictures up to so many faces, the person's ``own`` spread among the new ones."""
        world = _World()
        drawing = np.random.default_rng(first)
        self._connection.autocommit(False)
        cursor = self._connection.cursor()
        cursor.execute("SET foreign_key_checks = 0, unique_checks = 0")
        theirs = set(drawing.choice(np.arange(first, faces), own, replace=False).tolist())
        for start in range(first, faces, _INSERTED):
            numbers = np.arange(start, min(start + _INSERTED, faces))
            # Strangers, whom nobody knows, but for every tenth.
            who = [
                -1 if one in theirs else one % _PEOPLE if one % 10 == 0 else _PEOPLE + 2 + one
                for one in numbers.tolist()
            ]
            encodings = world.faces([_PEOPLE + 1 if one < 0 else one for one in who], seed=start)
            images = [one // _FACES_A_PICTURE + 1 for one in numbers.tolist()]
            indexes = [one % _FACES_A_PICTURE for one in numbers.tolist()]
            cursor.executemany(
                "INSERT INTO images (id, path, name, status, attempt, created_at, updated_at,"
                " processed_at, engine) VALUES (%s, %s, 'a.jpg', 'processed', 1, 1, 1, 1, 'bench')",
                [(one, f"{one}.jpg") for one in sorted(set(images))],
            )
            cursor.executemany(
                "INSERT INTO faces (image_id, face_index, `left`, top, `right`, bottom,"
                " detection_score, ambiguous, candidates, decided_by, calibration)"
                " VALUES (%s, %s, 0, 0, 9, 9, 1, 0, '[]', 'machine', 1)",
                list(zip(images, indexes, strict=True)),
            )
            cursor.executemany(
                "INSERT INTO face_encodings (image_id, face_index, engine, encoding)"
                " VALUES (%s, %s, 'bench', %s)",
                [
                    (image, index, encoding.tobytes())
                    for image, index, encoding in zip(images, indexes, encodings, strict=True)
                ],
            )
            self._connection.commit()
        cursor.execute("SET foreign_key_checks = 1, unique_checks = 1")
        self._connection.autocommit(True)

    def units(self) -> Vectors:
        """Return all encodings, scaled to length 1, in no order; shape (faces, size)."""
        [[faces]] = self.run("SELECT COUNT(*) FROM face_encodings")
        cursor = self._connection.cursor(SSCursor)
        cursor.execute("SELECT encoding FROM face_encodings")
        units = np.empty((faces, _ENGINE.size), np.float32)
        for row, (encoding,) in enumerate(cursor):
            units[row] = np.frombuffer(encoding, "<f4")
        units /= np.linalg.norm(units, axis=1)[:, None]
        return units

    def change(self, person_id: int, folder: str, *, removed: bool) -> float:
        """Say that somebody has changed; return the time of the commit."""
        self.run(
            "REPLACE INTO people_work (person_id, folder, removed, due_at, after_image_id,"
            " passes_left) VALUES (%s, %s, %s, 0, 0, 1)",
            person_id,
            folder,
            removed,
        )
        return time.perf_counter()

    def wait_done(self) -> None:
        while self.run("SELECT 1 FROM people_work"):
            time.sleep(_POLL)


def _service(log: Path, database: int, face_recog: int) -> Service:
    return Service(
        "services.people",
        log,
        database_url=f"mysql+asyncmy://root@127.0.0.1:{database}/{_DATABASE}",
        face_recog_target=f"127.0.0.1:{face_recog}",
        log_level="WARNING",
    )


@dataclass(frozen=True)
class _Figures:
    faces: int
    load: float
    memory: float
    name: float
    named: int
    back: float
    search: "_Search"


@dataclass(frozen=True)
class _Search:
    """Median seconds of a search over gRPC and of the bare product, and what was found."""

    seconds: float
    bare: float
    recall: float


async def _search(rows: _Rows, target: str) -> _Search:
    """Look for faces of people, known ones or not, and by the encodings in the database, too."""
    units = rows.units()
    client = StoredFacesClient(target)
    asked = _World().faces(np.arange(_SEARCHES) * 1_000, seed=5)
    taken, bare, recalls = [], [], []
    for face in (asked[0], *asked):
        start = time.perf_counter()
        found = await client.find(_ENGINE.name, face.tobytes(), _NEAREST)
        taken.append(time.perf_counter() - start)
        start = time.perf_counter()
        products = units @ (face / np.linalg.norm(face))
        bare.append(time.perf_counter() - start)
        # As near as the last one of a look at each, but for the digits that a sum has.
        last = np.sqrt(2 - 2 * np.partition(products, -_NEAREST)[-_NEAREST])
        recalls.append(sum(one.distance <= last + 1e-4 for one in found) / _NEAREST)
    await client.close()
    return _Search(
        statistics.median(taken[1:]), statistics.median(bare[1:]), statistics.fmean(recalls)
    )


def _measure(rows: _Rows, store: Path, service: Callable[[], Service], faces: int) -> _Figures:
    folder = f"somebody {faces}"
    picture = store / _PREFIX / folder / "1.jpg"
    rows.run("INSERT INTO persons (name, folder, created_at) VALUES (%s, %s, 1)", folder, folder)
    [[person_id]] = rows.run("SELECT id FROM persons WHERE folder = %s", folder)
    start = time.perf_counter()
    with service() as people:
        load = time.perf_counter() - start
        search = asyncio.run(_search(rows, people.target))
        picture.parent.mkdir()
        picture.write_bytes(_World().faces([_PEOPLE + 1], seed=3)[0].tobytes())
        rows.run(
            "INSERT INTO person_images (person_id, image_name, created_at) VALUES (%s, %s, 1)",
            person_id,
            f"{folder}/1.jpg",
        )
        start = rows.change(person_id, folder, removed=False)
        rows.wait_done()
        name = time.perf_counter() - start
        [[named]] = rows.run("SELECT COUNT(*) FROM faces WHERE person_id = %s", person_id)
        memory = psutil.Process(people.pid).memory_info().rss / 1024**2
        picture.unlink()
        picture.parent.rmdir()
        rows.run("DELETE FROM person_images")
        start = rows.change(person_id, folder, removed=True)
        rows.wait_done()
        back = time.perf_counter() - start
        [[left]] = rows.run("SELECT COUNT(*) FROM faces WHERE person_id = %s", person_id)
        assert left == 0  # noqa: S101, or the figure would be of something else
    return _Figures(faces, load, memory, name, named, back, search)


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print the table; ``FACES=10000,100000`` takes other sizes."""
    given = [int(one) for one in os.environ.get("FACES", "").split(",") if one]
    sizes, people = given or list(_SIZES), _PEOPLE
    if short:
        sizes, people = [1_000, 2_000], 300
    database = MariaDb(folder / "mariadb").start()
    face_recog = free_port()
    serving = multiprocessing.get_context("spawn").Process(
        target=_serve_alone, args=(folder / "store", people, face_recog)
    )
    serving.start()
    figures = []
    groups = []
    try:
        with pymysql.connect(host="127.0.0.1", port=database.port, user="root") as connection:
            connection.cursor().execute(f"CREATE DATABASE {_DATABASE}")
        migrate(DatabaseSettings(database_url=database.url(_DATABASE)))
        rows = _Rows(database.port)
        stored = 0
        for faces in sizes:
            console.print(f"Storing {faces - stored:,} faces …")
            rows.fill(stored, faces, 0 if stored else min(_OWN, faces // 10))
            stored = faces
            asyncio.run(_ready(f"127.0.0.1:{face_recog}"))
            service = partial(_service, folder / "people.log", database.port, face_recog)
            grouping.place(rows.run)  # else all of them would be put into groups meanwhile
            figures.append(_measure(rows, folder / "store", service, faces))
            strangers = range(_NEW, _NEW + 3 * grouping.NEW + 1)
            new = _World().faces(strangers, seed=faces + 4)
            groups.append(grouping.measure(rows.run, service, new))
    finally:
        serving.terminate()
        serving.join()
        database.stop()
    console.print(_table(figures, people))
    console.print(grouping.table(groups))
    console.print(_table_of_search(figures))


def _table(figures: Sequence[_Figures], people: int) -> Table:
    table = Table(
        "stored faces",
        "named",
        "naming, s",
        "ratio",
        "taking back, s",
        "ratio",
        "until ready, s",
        "memory, MiB",
        title=f"From a change of a person to all stored faces, {people:,} known people",
    )
    first = figures[0]
    for one in figures:
        table.add_row(
            f"{one.faces:,}",
            str(one.named),
            f"{one.name:.2f}",
            f"{one.name / first.name:.2f}",
            f"{one.back:.2f}",
            f"{one.back / first.back:.2f}",
            f"{one.load:.1f}",
            f"{one.memory:.0f}",
        )
    return table


def _table_of_search(figures: Sequence[_Figures]) -> Table:
    table = Table(
        "stored faces",
        "search, ms",
        "growth",
        "bare product, ms",
        "ratio",
        "recall",
        title=f"The {_NEAREST} stored faces nearest to one, over gRPC; median",
    )
    first = figures[0].search
    for figure in figures:
        one = figure.search
        table.add_row(
            f"{figure.faces:,}",
            f"{one.seconds * 1000:.1f}",
            f"{one.seconds / first.seconds:.1f}",
            f"{one.bare * 1000:.1f}",
            f"{one.seconds / one.bare:.1f}",
            f"{one.recall:.3f}",
        )
    return table
