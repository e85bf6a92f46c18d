"""How true groups of unknown faces are, and what a new face costs among very many.

``LFW=folder`` names a folder of pictures, ``NAME/NAME_0001.jpg``, as for ``accuracy``: all of them
are put into groups together, as they lie there and in random orders. Times are of made-up faces.
"""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from bench import accuracy
from services.face_recog.domain.strangers import DLIB
from services.face_recog.settings import EngineSettings
from services.people.domain.grouping import COHORTS, Groups
from services.people.domain.likeness import Kind, kind_of
from services.people.domain.vector_table import Vectors

_BATCHES: Final = (256, 64, 7)
"""Faces that come at a time."""

_ORDERS: Final = 3
"""Random orders for each of these."""

_SPLITS: Final = 2
"""Random halves of the people, each of which chooses for the other."""

_MORE: Final = (-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6)
"""What is added to the likeness that joins, to choose from."""

_STORED: Final = (10_000, 100_000, 1_000_000)
_TIMED: Final = 9
"""Batches of new faces; the median counts."""

_SIZE: Final = 128
_SHARES: Final = (0.83, 0.12, 0.05)
"""Of a made-up face's squared length, what all faces share, what is a person's, and a picture's: as
in dlib's encodings, products of strangers are 0.83 on average, those of one person 0.95."""

_DECAY: Final = 16
"""Directions after which faces vary by a third: then products of strangers deviate by 0.03 to 0.04,
as in dlib's encodings, which is as in 32 directions that are alike."""

_PICTURES: Final = 3
"""Of each made-up person."""


@dataclass(frozen=True)
class _Truth:
    """Of all pairs in one group those of one person, and of all of one person those in one."""

    precision: float
    recall: float
    groups: int


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print how true groups are for each engine, and how long new faces take."""
    people, kept = accuracy.whom(folder, short=short)
    table = Table(
        "engine",
        "faces",
        "groups",
        "put in",
        "precision (lowest)",
        "recall (lowest)",
        title="Faces of all pictures together",
    )
    for settings in accuracy.engines(console):
        encodings = asyncio.run(accuracy.encode(console, people, kept, settings))
        names = [name for name, faces in encodings.items() for _ in faces]
        faces = np.array([one for some in encodings.values() for one in some], np.float32)
        for what, truths in _ways(faces, names, _kind(settings)):
            table.add_row(
                settings.engine,
                str(len(faces)),
                f"{statistics.fmean(truth.groups for truth in truths):.0f}",
                what,
                _spread([truth.precision for truth in truths]),
                _spread([truth.recall for truth in truths]),
            )
    console.print(table)
    console.print(_times((1_000, 2_000) if short else _STORED))


def _kind(settings: EngineSettings) -> Kind:
    model = "onnx" if settings.engine == "onnx" else "dlib"
    return kind_of(model, settings.tails.product.pairs)


def _ways(faces: Vectors, names: Sequence[str], kind: Kind) -> Iterator[tuple[str, list[_Truth]]]:
    """Yield how faces were put into groups, and how true these are each time."""
    drawing = np.random.default_rng(1)
    yield "as they lie in the folder", [_group(faces, names, kind, _BATCHES[0])]
    for batch in _BATCHES:
        orders = [drawing.permutation(len(faces)) for _ in range(_ORDERS)]
        yield (
            f"in random order, {batch} at a time",
            [_group(faces[one], [names[row] for row in one], kind, batch) for one in orders],
        )
    everybody = sorted(set(names))
    held_out, others = [], []
    for _ in range(_SPLITS):
        chosen = set(drawing.permutation(everybody)[: len(everybody) // 2])
        halves = [
            [row for row, name in enumerate(names) if (name in chosen) == half]
            for half in (True, False)
        ]
        for tuning, checking in (halves, halves[::-1]):
            best = _best(faces[tuning], [names[row] for row in tuning], kind)
            checked = [names[row] for row in checking]
            held_out.append(_group(faces[checking], checked, best, _BATCHES[1]))
            others.append(_group(faces[checking], checked, kind, _BATCHES[1]))
    yield "half of the people, the others chose", held_out
    yield "half of the people", others


def _best(faces: Vectors, names: Sequence[str], kind: Kind) -> Kind:
    """Return the kind that finds most pairs of these people, of which 1 % are wrong at most."""
    kinds = [
        replace(kind, standing=replace(kind.standing, likeness=kind.standing.likeness + more))
        for more in _MORE
    ]
    truths = [_group(faces, names, one, _BATCHES[1]) for one in kinds]
    return next(
        (one for one, truth in zip(kinds, truths, strict=True) if truth.precision >= 0.99),
        kinds[-1],
    )


def _group(faces: Vectors, names: Sequence[str], kind: Kind, batch: int) -> _Truth:
    groups: Groups[int] = Groups(faces.shape[1], kind)
    for start in range(0, len(faces), batch):
        some = faces[start : start + batch]
        groups.add(range(start, start + len(some)), some)
    ids = [groups.group_of(row) for row in range(len(faces))]
    both = _pairs(Counter(zip(ids, names, strict=True)))
    together, one_person = _pairs(Counter(ids)), _pairs(Counter(names))
    return _Truth(both / max(together, 1), both / max(one_person, 1), len(set(ids)))


def _pairs(counts: Counter[object]) -> int:
    return sum(count * (count - 1) // 2 for count in counts.values())


def _spread(shares: Sequence[float]) -> str:
    mean = f"{statistics.fmean(shares):.3f}"
    return f"{mean} ({min(shares):.3f})" if len(shares) > 1 else mean


def _times(stored: Sequence[int]) -> Table:
    table = Table(
        "faces stored",
        "groups",
        f"{_BATCHES[0]} new ones, ms a face",
        "bare product, ms a face",
        "ratio",
        "restored, s",
        "bare products, s",
        "ratio ",
        "memory, MiB",
        title="New faces, made up as dlib's, among those stored; median",
    )
    for number in stored:
        table.add_row(*_time(number))
    return table


def _time(number: int) -> list[str]:
    process = psutil.Process()
    before = process.memory_info().rss
    people = number // _PICTURES
    faces = made_up(people)
    owners = np.repeat(np.arange(1, people + 1), _PICTURES)
    start = time.perf_counter()
    kind = kind_of("dlib", DLIB.product.pairs)
    groups = Groups.restore(kind, range(len(faces)), faces, owners.tolist())
    restored = time.perf_counter() - start
    cohort = faces[: max((one for one in COHORTS if one <= people), default=1)]
    start = time.perf_counter()
    for first in range(0, len(faces), _BATCHES[0]):
        faces[first : first + _BATCHES[0]] @ cohort.T
    bare_restored = time.perf_counter() - start
    means = faces[::_PICTURES].copy()
    del faces
    memory = process.memory_info().rss - before - means.nbytes
    news = made_up(_TIMED * _BATCHES[0], seed=3, pictures=1)
    taken, bare = [], []
    for turn, batch in enumerate(np.split(news, _TIMED)):
        keys = range(-(turn + 1) * _BATCHES[0], -turn * _BATCHES[0])
        start = time.perf_counter()
        groups.add(keys, batch)
        taken.append((time.perf_counter() - start) / len(batch) * 1000)
        start = time.perf_counter()
        batch @ means.T
        bare.append((time.perf_counter() - start) / len(batch) * 1000)
    ours, theirs = statistics.median(taken), statistics.median(bare)
    return [
        f"{number:,}",
        f"{people:,}",
        f"{ours:.2f}",
        f"{theirs:.2f}",
        f"{ours / theirs:.1f}",
        f"{restored:.1f}",
        f"{bare_restored:.1f}",
        f"{restored / bare_restored:.1f}",
        f"{memory / 2**20:.0f}",
    ]


def made_up(people: int, *, pictures: int = _PICTURES, seed: int = 2) -> Vectors:
    """Return pictures of the same people, one's after the other's; others with another seed."""
    variances = np.exp(-np.arange(_SIZE) / _DECAY)
    shared, person, picture = _SHARES
    scale = np.sqrt(variances / variances.sum()).astype(np.float32)
    common = np.random.default_rng(0).normal(size=_SIZE).astype(np.float32)
    centres = np.random.default_rng(1).standard_normal((people, _SIZE), np.float32) * scale
    drawing = np.random.default_rng(seed)
    faces = np.repeat(centres * np.float32(np.sqrt(person)), pictures, axis=0)
    for start in range(0, len(faces), 10_000):
        some = faces[start : start + 10_000]
        some += (
            drawing.standard_normal(some.shape, np.float32) * scale * np.float32(np.sqrt(picture))
        )
        some += common / np.linalg.norm(common) * np.float32(np.sqrt(shared))
    return faces
