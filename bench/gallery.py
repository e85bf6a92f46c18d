"""Starting with very many known pictures, and following one that is added to them."""

import asyncio
import hashlib
import multiprocessing
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from services.common import logs
from services.common.batches import batched
from services.common.changes import mark_changed
from services.common.faces import Box
from services.common.object_info import ObjectInfo
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.face_recog.domain.calibration import DEFAULT_FALSE_NAMES
from services.face_recog.domain.engines import Engine
from services.face_recog.domain.faces import DetectedFace, Encoding, Recognition
from services.face_recog.domain.parts import GalleryPicture, PictureFaces
from services.face_recog.domain.strangers import DLIB
from services.face_recog.service.gallery import Gallery
from services.face_recog.service.kept_encodings import KeptEncodings
from services.testing.fixtures import s3_settings
from services.testing.memory import peak_kib
from services.testing.servers import VersityGw

_ENGINE: Final = Engine("bench", 128)
_PREFIX: Final = "known_people/"
_PEOPLE: Final = 100_000
_ADDED: Final = 10
_READ: Final = 1_000
_INTERVAL: Final = 2.0
_HEARTBEAT: Final = 0.001
_WRITTEN: Final = 32
"""Pictures that are written at a time."""


class _CountingStore:
    """Counts the requests to a store; a listing is one for every 1,000 objects, as S3 answers."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.requests: Counter[str] = Counter()

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self.requests["get"] += 1
        return await self._store.get(key, max_bytes=max_bytes)

    async def put(self, key: str, content: bytes) -> None:
        self.requests["put"] += 1
        await self._store.put(key, content)

    async def delete(self, key: str) -> None:
        self.requests["delete"] += 1
        await self._store.delete(key)

    async def new_folders(self, prefix: str, known: Container[str]) -> dict[str, int]:
        self.requests["glance"] += 1
        return await self._store.new_folders(prefix, known)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self.requests["list"] += 1
        number = 0
        async for info in self._store.list(prefix):
            self.requests["list"] += number > 0 and number % 1000 == 0
            number += 1
            yield info


class _Recogniser:
    """Answers at once with the encoding that belongs to a picture's bytes."""

    async def recognise(
        self,
        picture: bytes,
        *,
        max_faces: int = 0,  # noqa: ARG002, as it is asked
        boxes: Sequence[Box] = (),  # noqa: ARG002
        urgent: bool = False,  # noqa: ARG002
        on_long: Callable[[], Awaitable[None]] | None = None,  # noqa: ARG002
    ) -> Recognition:
        face = DetectedFace(Box(0, 0, 1, 1), 1.0, _encoding(picture))
        return Recognition(1, 1, [face])


def _encoding(picture: bytes) -> Encoding:
    seed = int.from_bytes(hashlib.sha256(picture).digest()[:8])
    return np.random.default_rng(seed).normal(size=_ENGINE.size) / 8


class _Heartbeat:
    """Notes the most seconds of this process's CPU between two turns of the event loop.

    Seconds of the clock would tell what else the machine does.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def beat(self) -> None:
        while True:
            start = time.process_time()
            await asyncio.sleep(_HEARTBEAT)
            self.longest = max(self.longest, time.process_time() - start)


async def _beating(work: Awaitable[object]) -> tuple[float, float]:
    """Return the seconds that it took, and the CPU's in which the event loop did not turn."""
    heartbeat = _Heartbeat()
    beating = asyncio.create_task(heartbeat.beat())
    start = time.perf_counter()
    await work
    took = time.perf_counter() - start
    await asyncio.sleep(2 * _HEARTBEAT)
    beating.cancel()
    return took, heartbeat.longest


async def _fill(store: ObjectStore, folder: Path | None, people: int) -> None:
    """Write pictures of so many people, into the store's folder if it is one, and what is kept."""

    async def write(number: int) -> None:
        key = f"{_PREFIX}person {number:07}/1.jpg"
        if folder is None:
            await store.put(key, b"%d" % number)
            return
        file = folder / key  # not by the store, which waits for the disk each time
        file.parent.mkdir(parents=True)
        file.write_bytes(b"%d" % number)

    for some in batched(range(people), _WRITTEN):
        await asyncio.gather(*map(write, some))
    encodings = np.random.default_rng(1).normal(size=(people, _ENGINE.size)).astype(np.float32) / 8
    known = {
        info.key: GalleryPicture(
            info.tag, hashlib.sha256(b"%d" % number).digest(), PictureFaces(1, encoding)
        )
        async for info in store.list(_PREFIX)
        if (number := int(info.key.split("/")[1].split()[1])) >= 0
        for encoding in [encodings[number]]
    }
    kept = KeptEncodings(store, _ENGINE)
    for key in known:
        kept.note_changed(key)
    await kept.write(known)


async def _add(gallery: Gallery, store: ObjectStore, name: str) -> None:
    """Add somebody as enrolling does, and wait until a face of theirs has that name's candidate."""
    picture = name.encode()
    key = f"{_PREFIX}{name}/1.jpg"
    await store.put(key, picture)
    await mark_changed(store, key)
    encoding = _encoding(picture)
    people = gallery.people
    while True:
        if gallery.people is not people:
            people = gallery.people
            [nearest] = await asyncio.to_thread(people.nearest, encoding, 1)
            if nearest.folder == name:
                return
        await asyncio.sleep(0.01)


@dataclass(frozen=True)
class _Figures:
    """A row of each table, but for the store."""

    start: Sequence[str]
    added: Sequence[str]


async def _measure(store: ObjectStore, folder: Path | None, people: int, added: int) -> _Figures:
    await _fill(store, folder, people)

    start = time.perf_counter()
    numbers = random.sample(range(people), min(people, _READ))
    for number in numbers:
        await store.get(f"{_PREFIX}person {number:07}/1.jpg")
    reading = (time.perf_counter() - start) / len(numbers) * people
    start = time.perf_counter()
    _ = [info async for info in store.list(_PREFIX)]
    listing = time.perf_counter() - start

    counting = _CountingStore(store)
    gallery = Gallery(
        counting,
        _Recogniser(),
        engine=_ENGINE,
        parallel=1,
        tails=DLIB,
        false_names=DEFAULT_FALSE_NAMES,
    )
    before = peak_kib()
    watching = asyncio.create_task(gallery.watch(_INTERVAL))
    took, stood = await _beating(gallery.wait_ready())
    requests = counting.requests.copy()
    figures = [
        f"{took:.1f}",
        f"{reading:.1f}",
        f"{took / reading:.2f}",
        ", ".join(f"{count} {call}" for call, count in sorted(requests.items())),
        f"{stood * 1000:.0f}",
        f"{(peak_kib() - before) / 1024:.0f}",
    ]

    waits, stops = [], []
    for number in range(added):
        await asyncio.sleep(random.uniform(0, 2 * _INTERVAL))  # noqa: S311, no secret
        took, stood = await _beating(_add(gallery, store, f"somebody new {number}"))
        waits.append(took)
        stops.append(stood)
    watching.cancel()
    return _Figures(
        figures,
        [
            f"{gallery.people.people:,}",
            str(added),
            f"{listing:.1f}",
            f"{statistics.median(waits):.1f}",
            f"{max(waits):.1f}",
            f"{max(stops) * 1000:.0f}",
        ],
    )


def _measured(
    settings: ObjectStoreSettings, folder: Path | None, people: int, added: int
) -> _Figures:
    logs.configure("bench", "WARNING")
    return asyncio.run(_measure(ObjectStore(settings), folder, people, added))


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print the tables."""
    people, added = (200, 2) if short else (_PEOPLE, _ADDED)
    here = folder / "folder"
    server = VersityGw(folder)
    stores = {
        "folder": (ObjectStoreSettings(object_store_url=f"file://{here}"), here),
        "versitygw": (s3_settings(server, folder), None),
    }
    rows: dict[str, _Figures] = {}
    server.start()
    try:
        for kind, store in stores.items():
            console.print(f"Writing {people:,} known pictures, {kind} …")
            # In a process of its own: what one has had in memory is not what the next one needs.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                rows[kind] = process.submit(_measured, *store, people, added).result()
    finally:
        server.stop()
    starts = Table(
        "store",
        "start, s",
        "a request a picture alone, s (computed)",
        "ratio",
        "requests at the start",
        "longest stop of the event loop, ms of CPU",
        "MiB more at the peak",
        title=f"Start with kept encodings of {people:,} known people",
    )
    additions = Table(
        "store",
        "known people",
        "added",
        "listing them all, s",
        "until known: median, s",
        "worst, s",
        "longest stop of the event loop, ms of CPU",
        title=f"One more person, looked for every {_INTERVAL:g} s",
    )
    for kind, row in rows.items():
        starts.add_row(kind, *row.start)
        additions.add_row(kind, *row.added)
    console.print(starts)
    console.print(additions)
