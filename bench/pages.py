"""The fragments that keep pages live, each against the quickest, with many pictures and people."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pymysql
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from services.common.database import Database
from services.common.person_names import by_id
from services.common.settings import DatabaseSettings
from services.common.tables import (
    face_groups,
    faces,
    group_faces,
    group_questions,
    images,
    person_images,
    persons,
)
from services.local.processes import free_port
from services.migrations.__main__ import migrate
from services.receiver.domain.cursors import encode_cursor
from services.testing.processes import Service
from services.testing.servers import MariaDb

_PICTURES: Final = 100_000
_PEOPLE: Final = 10_000
_TIMES: Final = 41
_BATCH: Final = 10_000

_STRANGERS: Final = 5
"""Every so many pictures also show somebody unknown: half of these are one person."""

_GROUP: Final = 10
"""Faces of each other group."""

_BUSY: Final = "Ada Lovelace"
"""Who is on every other picture; the others share the rest."""


def run(console: Console, folder: Path, *, short: bool = False) -> None:
    """Ask for each fragment in turn, on SQLite and on MariaDB, and print medians."""
    pictures, people, times = (600, 60, 3) if short else (_PICTURES, _PEOPLE, _TIMES)
    paths = _fragments(pictures, people)
    took: dict[str, dict[str, float]] = {}
    server = MariaDb(folder / "mariadb")
    server.start()
    try:
        with (
            pymysql.connect(host="127.0.0.1", port=server.port, user="root") as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("CREATE DATABASE pages CHARACTER SET utf8mb4")
        urls = {
            "SQLite": f"sqlite+aiosqlite:///{folder / 'pages.db'}",
            "MariaDB": server.url("pages"),
        }
        for name, url in urls.items():
            settings = DatabaseSettings(database_url=url)
            migrate(settings)
            asyncio.run(_fill(settings, pictures, people))
            with _page(folder, url) as page:
                took[name] = _medians(page, paths, times)
    finally:
        server.stop()
    table = Table(title=f"fragments with {pictures:,} pictures and {people:,} people")
    table.add_column("fragment")
    for name in took:
        table.add_column(f"{name}, ms", justify="right")
        table.add_column("ratio", justify="right")
    for fragment in paths:
        cells = []
        for medians in took.values():
            cells += [
                f"{medians[fragment] * 1000:.1f}",
                f"{medians[fragment] / min(medians.values()):.1f}",
            ]
        table.add_row(fragment, *cells)
    console.print(table)


def _fragments(pictures: int, people: int) -> dict[str, str]:
    middle = encode_cursor(pictures // 2)
    return {
        "pictures, newest": "/fragments/pictures",
        "pictures, from the middle": f"/fragments/pictures?cursor={middle}",
        "pictures, processed": "/fragments/pictures?status=processed",
        "pictures, dead: none": "/fragments/pictures?status=dead",
        "pictures of who is on half": f"/fragments/pictures?person={_BUSY}",
        "the same, from the middle": f"/fragments/pictures?person={_BUSY}&cursor={middle}",
        "pictures of somebody else": f"/fragments/pictures?person={_name(people // 2)}",
        "a picture": f"/fragments/images/{pictures // 2}",
        "who is on half": f"/fragments/people/{by_id(1)}",
        "somebody else": f"/fragments/people/{by_id(people // 2)}",
        "people, first": "/fragments/people",
        "people, from the middle": f"/fragments/people?cursor={_name(people // 2)}",
        "people, by a part of the name": "/fragments/people?name=7",
        "people, by a part of no name": "/fragments/people?name=qqq",
        "names, as somebody types": "/fragments/names?name=7",
        "groups, largest first": "/fragments/who",
        "the largest group": "/fragments/who/1",
    }


def _name(number: int) -> str:
    return f"Person {number:06}"


async def _fill(settings: DatabaseSettings, pictures: int, people: int) -> None:
    database = Database(settings)
    now = time.time_ns() // 1_000_000
    names = [_BUSY, *map(_name, range(1, people))]
    everybody = [
        {"id": number, "name": name, "created_at": now} for number, name in enumerate(names, 1)
    ]
    known = [
        {
            "id": number,
            "person_id": number,
            "image_name": f"{name}/{number:064x}.jpg",
            "created_at": now,
        }
        for number, name in enumerate(names, 1)
    ]
    submitted = [
        {
            "id": number,
            "path": f"uploads/{number:064x}",
            "name": f"{number}.jpg",
            "status": "processed",
            "attempt": 1,
            "created_at": now,
            "updated_at": now,
            "processed_at": now,
            "width": 4000,
            "height": 3000,
            "engine": "classic",
            "content_digest": f"{number:064x}",
        }
        for number in range(1, pictures + 1)
    ]
    seen = [
        _face(number, 0, _BUSY if number % 2 else names[number // 2 % len(names)])
        for number in range(1, pictures + 1)
    ]
    strangers = range(_STRANGERS, pictures + 1, _STRANGERS)
    seen += [_face(number, 1, None) for number in strangers]
    half = len(strangers) // 2
    group_of = {
        number: 1 if place < half else 2 + (place - half) // _GROUP
        for place, number in enumerate(strangers)
    }
    sizes = Counter(group_of.values())
    rows: dict[sa.Table, list[dict[str, Any]]] = {
        persons: everybody,
        person_images: known,
        images: submitted,
        faces: seen,
        face_groups: [
            {"id": group, "size": size, "created_at": now} for group, size in sizes.items()
        ],
        group_faces: [
            {"image_id": number, "face_index": 1, "group_id": group}
            for number, group in group_of.items()
        ],
        group_questions: [
            {"group_id": group, "person_id": group, "likeness": 0.5, "created_at": now}
            for group in sizes
        ],
    }
    for table, content in rows.items():
        for first in range(0, len(content), _BATCH):
            async with database.transaction() as connection:
                await connection.execute(sa.insert(table), content[first : first + _BATCH])
    await database.close()


def _face(number: int, index: int, person: str | None) -> dict[str, Any]:
    candidate = {"person": person, "image_name": f"{person}/1.jpg", "distance": 0.3}
    return {
        "image_id": number,
        "face_index": index,
        "left": 1000,
        "top": 1000,
        "right": 1500,
        "bottom": 1500,
        "detection_score": 1.0,
        "ambiguous": False,
        "person": person,
        "distance": None if person is None else 0.3,
        "candidates": [] if person is None else [candidate],
    }


@contextmanager
def _page(folder: Path, database_url: str) -> Iterator[str]:
    (folder / "objects").mkdir(exist_ok=True)
    with (
        Service(
            "services.receiver",
            folder / "receiver.log",
            database_url=database_url,
            object_store_url=f"file://{folder / 'objects'}",
            face_recog_target=f"127.0.0.1:{free_port()}",
        ) as receiver,
        Service(
            "services.frontend", folder / "frontend.log", receiver_url=receiver.url
        ) as frontend,
    ):
        yield frontend.url


def _medians(page: str, paths: dict[str, str], times: int) -> dict[str, float]:
    """Return the median seconds of each; they take turns, so that each has the others before it."""
    took: dict[str, list[float]] = {fragment: [] for fragment in paths}
    with httpx.Client(base_url=page, timeout=60, trust_env=False) as client:
        for _ in range(times):
            for fragment, path in paths.items():
                start = time.perf_counter()
                answer = client.get(path)
                took[fragment].append(time.perf_counter() - start)
                answer.raise_for_status()
                if answer.headers.get("Facestack-Available"):
                    raise SystemExit(f"{path}: {answer.text}")
    return {fragment: statistics.median(seconds) for fragment, seconds in took.items()}
