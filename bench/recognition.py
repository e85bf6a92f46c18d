"""One identify over gRPC with few and very many known people."""

import asyncio
import contextlib
import os
import random
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import bare
from bench.pictures import write_variants
from services.common.facerecog.client import RecogniserClient
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.face_recog.adapters.pool import Pool
from services.face_recog.adapters.server import FaceRecogServer
from services.face_recog.domain.calibration import DEFAULT_FALSE_NAMES, Calibration, Rule
from services.face_recog.domain.faces import Encoding
from services.face_recog.domain.known_people import KnownPeople, Portraits
from services.face_recog.domain.strangers import DLIB, Model, Strangers, Vectors
from services.face_recog.service.deciding import Decider
from services.face_recog.service.gallery import Gallery
from services.face_recog.service.identifying import Identifier
from services.face_recog.service.snapshots import Snapshot
from services.local.processes import free_port

_KNOWN: Final = (3, 10, 50)
_SYNTHETIC: Final = (100_000, 1_000_000)
_ROUNDS: Final = 15


class _FixedGallery(Gallery):
    """A gallery whose people are given, not read from a store."""

    def __init__(self, store: ObjectStore, pool: Pool) -> None:
        super().__init__(
            store,
            pool,
            engine=pool.engine,
            parallel=1,
            tails=DLIB,
            false_names=DEFAULT_FALSE_NAMES,
        )

    def show(self, snapshot: Snapshot) -> None:
        """Replace the known people."""
        self._snapshot = snapshot


def _synthetic(real: list[Encoding], number: int) -> dict[str, Encoding]:
    """Return the real encodings and random ones of the same length, each another person's."""
    made = np.random.default_rng(1).normal(size=(max(0, number - len(real)), len(real[0])))
    made *= np.linalg.norm(real[0]) / np.linalg.norm(made, axis=1, keepdims=True)
    return {f"person {row}/1.jpg": encoding for row, encoding in enumerate([*real, *made])}


class _Drawn(Strangers):
    """Faces of nobody, among which many known people stand anywhere: to measure takes minutes."""

    def standing(self, vectors: Vectors) -> tuple[Vectors, Vectors]:
        """Measure how one face stands, and draw how more of them do."""
        if len(vectors) == 1:
            return super().standing(vectors)
        mean, spread = np.random.default_rng(1).uniform(0.1, 0.2, (2, len(vectors)))
        return mean.astype(np.float32), spread.astype(np.float32)


def _snapshot(people: KnownPeople) -> Snapshot:
    faces = np.random.default_rng(1).normal(size=(1000, 128)).astype(np.float32)
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    strangers = _Drawn(DLIB, Model.of(faces, seen=len(faces)))
    calibration = Calibration.after(None, people.people)
    rule = Rule.of(calibration, strangers.tail, DEFAULT_FALSE_NAMES)
    return Snapshot(Portraits(people, strangers), calibration, rule)


def _reencode(known: list[Path], picture: Path) -> float:
    """Return the seconds of one identify that encodes the known people for every request."""
    start = time.perf_counter()
    people = [bare.encode(file)[0] for file in known]
    for encoding in bare.encode(picture):
        np.argmin(np.linalg.norm(np.array(people) - encoding, axis=1))
    return time.perf_counter() - start


@contextlib.asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[tuple[RecogniserClient, _FixedGallery]]:
    """Serve from this process, with one worker, and end all of it whatever happens."""
    async with contextlib.AsyncExitStack() as stack:
        store = ObjectStore(ObjectStoreSettings(object_store_url=f"file://{folder / 'store'}"))
        pool = Pool(
            engine="classic",
            size=1,
            queue_size=8,
            work_seconds=60,
            long_seconds=60,
            memory_bytes=2 * 1024**3,
        )
        stack.push_async_callback(pool.close)
        await pool.start()
        gallery = _FixedGallery(store, pool)
        server = FaceRecogServer(
            Identifier(store, pool, gallery),
            Decider(gallery, pool.engine),
            connection_age=600,
            grace=1,
        )
        port = free_port()
        await server.start("127.0.0.1", port)
        stack.push_async_callback(server.stop)
        await server.set_serving(serving=True)
        client = RecogniserClient(f"127.0.0.1:{port}", timeout=60)
        stack.push_async_callback(client.close)
        yield client, gallery


async def _measure(
    console: Console, folder: Path, known: tuple[int, ...], synthetic: tuple[int, ...], rounds: int
) -> None:
    known_files = write_variants(folder / "known", max(known), largest=300)
    [picture] = write_variants(folder / "picture", 1, largest=900)
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    console.print(f"Encoding {len(known_files)} known pictures …")
    start = time.perf_counter()
    real = [bare.encode(file)[0] for file in known_files]
    encode_seconds = (time.perf_counter() - start) / len(known_files)
    reencoding = {number: _reencode(known_files[:number], picture) for number in known}

    galleries = {
        number: _snapshot(KnownPeople(_synthetic(real[:number], number)))
        for number in (*known, *synthetic)
    }
    seconds: dict[int, list[float]] = {number: [] for number in galleries}
    content = picture.read_bytes()
    async with _serving(folder) as (client, gallery):
        for turn in range(rounds + 1):
            for number, snapshot in random.sample(list(galleries.items()), len(galleries)):
                gallery.show(snapshot)
                start = time.perf_counter()
                await client.identify(content)
                if turn:  # the first round warms up
                    seconds[number].append(time.perf_counter() - start)

    first = statistics.median(seconds[known[0]])
    table = Table(
        "known people",
        "ms",
        f"against {known[0]} known people",
        "re-encoding them per request, s",
        "ratio",
        title=f"One identify, median of {rounds}",
    )
    for number, samples in seconds.items():
        median = statistics.median(samples)
        if number in reencoding:
            peer, note = reencoding[number], ""
        else:
            peer, note = first + number * encode_seconds, " (computed)"
        table.add_row(
            f"{number:,}",
            f"{median * 1000:.0f}",
            f"{median / first:.2f}",
            f"{peer:,.2f}{note}",
            f"{median / peer:.5f}",
        )
    console.print(table)


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print the table; the galleries take turns, so that noise meets all of them."""
    how = ((1, 2), (1_000,), 1) if short else (_KNOWN, _SYNTHETIC, _ROUNDS)
    asyncio.run(_measure(console, folder, *how))
