"""Looking for a face among very many: exactly, as the service of people does, or by a library.

The libraries are not among the requirements: those of ``usearch`` and ``faiss-cpu`` that are
installed are measured, too, each with as many threads as the exact search has: one.
``FACES=10000,100000`` takes other sizes.
"""

import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.groups import made_up
from services.people.domain.index import ExactIndex

_SIZES: Final = (10_000, 100_000, 1_000_000)
_NEAREST: Final = 50
_ASKED: Final = 40
_PICTURES: Final = 3
_LOADED: Final = 4_000

Vectors = NDArray[np.float32]
Search = Callable[[Vectors, int], Sequence[int]]


@dataclass(frozen=True)
class _Figures:
    built: float
    search: float
    memory: float
    found: Sequence[frozenset[int]]


def _exact(faces: Vectors) -> Search:
    index = ExactIndex()
    for start in range(0, len(faces), _LOADED):
        some = faces[start : start + _LOADED]
        index.replace([], [(start + row, 0, one.tobytes()) for row, one in enumerate(some)])
    return lambda face, most: [one.image_id for one in index.nearest(face, most)]


def _usearch(kind: str) -> Callable[[Vectors], Search]:
    def build(faces: Vectors) -> Search:
        library: Any = importlib.import_module("usearch.index")
        index = library.Index(ndim=faces.shape[1], metric="ip", dtype=kind)
        index.add(np.arange(len(faces)), faces, threads=1)
        return lambda face, most: [int(one) for one in index.search(face, most, threads=1).keys]

    return build


def _faiss(factory: str, probed: int) -> Callable[[Vectors], Search]:
    def build(faces: Vectors) -> Search:
        library: Any = importlib.import_module("faiss")
        library.omp_set_num_threads(1)
        index = library.index_factory(
            faces.shape[1], factory.format(4 * int(len(faces) ** 0.5)), library.METRIC_INNER_PRODUCT
        )
        index.train(faces[:: max(1, len(faces) // 100_000)])
        index.add(faces)
        if probed:
            index.nprobe = probed
        return lambda face, most: [int(one) for one in index.search(face[None], most)[1][0]]

    return build


# HNSW graphs with usearch's own settings; of faiss as many lists as four times the root of the
# faces, of which 32 are looked through.
_KINDS: Final[dict[str, Callable[[Vectors], Search]]] = {
    "exact": _exact,
    "usearch, float32": _usearch("f32"),
    "usearch, 8 bits": _usearch("i8"),
    "faiss, float32": _faiss("IVF{},Flat", 32),
    "faiss, 8 bits": _faiss("IVF{},SQ8", 32),
}


def _faces(number: int) -> Vectors:
    return _units(made_up(number // _PICTURES + 1)[:number])


def _asked(number: int) -> Vectors:
    """Return other pictures of some of those people."""
    people = number // _PICTURES + 1
    return _units(made_up(people, seed=9, pictures=1)[:: max(1, people // _ASKED)][:_ASKED])


def _units(faces: Vectors) -> Vectors:
    faces /= np.linalg.norm(faces, axis=1)[:, None]
    return faces


def _measure(kind: str, number: int, answer: Any) -> None:
    """Measure in a process that has nothing else."""
    faces, asked = _faces(number), _asked(number)
    process = psutil.Process()
    before = process.memory_info().rss
    start = time.perf_counter()
    try:
        search = _KINDS[kind](faces)
    except ModuleNotFoundError:
        answer.send(None)
        return
    built = time.perf_counter() - start
    memory = process.memory_info().rss - before
    search(asked[0], _NEAREST)
    taken, found = [], []
    for face in asked:
        start = time.perf_counter()
        found.append(frozenset(search(face, _NEAREST)))
        taken.append(time.perf_counter() - start)
    answer.send(_Figures(built, statistics.median(taken), memory, found))


def _figures(number: int) -> Iterator[tuple[str, _Figures]]:
    spawn = multiprocessing.get_context("spawn")
    for kind in _KINDS:
        here, there = spawn.Pipe()
        process = spawn.Process(target=_measure, args=(kind, number, there))
        process.start()
        there.close()
        figures = here.recv()
        process.join()
        if figures:
            yield kind, figures


def run(console: Console, _: Path, *, short: bool) -> None:
    """Print how long each takes, what it finds and its memory."""
    table = Table(
        "stored faces",
        "index",
        "search, ms",
        "against exact",
        "recall of 50",
        "bytes a face",
        "built, s",
        title="The 50 nearest of made-up faces with 128 numbers, one thread; median",
    )
    given = [int(one) for one in os.environ.get("FACES", "").split(",") if one]
    for number in (1_000, 4_000) if short else given or _SIZES:
        exact: _Figures | None = None
        for kind, one in _figures(number):
            exact = exact or one
            recall = statistics.fmean(
                len(true & found) / len(true)
                for true, found in zip(exact.found, one.found, strict=True)
            )
            table.add_row(
                f"{number:,}",
                kind,
                f"{one.search * 1000:.2f}",
                f"{one.search / exact.search:.3f}",
                f"{recall:.3f}",
                f"{one.memory / number:.0f}",
                f"{one.built:.1f}",
            )
    console.print(table)
