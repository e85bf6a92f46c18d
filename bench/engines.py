"""Finding and encoding the faces of a picture by each engine, against the bare library."""

import functools
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import bare
from bench.pictures import write_variants
from services.face_recog.adapters.models import Models, load_models
from services.face_recog.adapters.recognition import encode, find

_SIZES: Final = (600, 1000, 2000)
"""Longest sides in pixels; one face each. The library does not make large pictures smaller."""

_ROUNDS: Final = 9


def _recognise(models: Models, file: Path) -> None:
    found = find(models, file.read_bytes(), 0)
    encode(models, found.chips, float("inf"))


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print the table; all take turns at every picture, so that noise meets each of them."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    loaded = {"classic": load_models("classic"), "centerface": load_models("centerface")}
    table = Table(
        "longest side, pixels",
        "bare library, ms",
        *(f"{name}, ms (times as fast)" for name in loaded),
        title="A picture of one face: read, found and encoded in one thread, CPU time, median",
    )
    for size in (_SIZES[0],) if short else _SIZES:
        pictures = write_variants(folder / str(size), 2 if short else _ROUNDS, largest=size)
        doing: dict[str, Callable[[Path], object]] = {
            "bare": bare.encode,
            **{name: functools.partial(_recognise, models) for name, models in loaded.items()},
        }
        seconds: dict[str, list[float]] = {name: [] for name in doing}
        for recognise in doing.values():  # the first time warms up
            recognise(pictures[0])
        for picture in pictures:
            for name, recognise in random.sample(list(doing.items()), len(doing)):
                start = time.process_time()
                recognise(picture)
                seconds[name].append(time.process_time() - start)
        medians = {name: statistics.median(samples) for name, samples in seconds.items()}
        table.add_row(
            f"{round(0.6 * size)} to {size}",
            f"{medians['bare'] * 1000:.0f}",
            *(
                f"{medians[one] * 1000:.0f} ({medians['bare'] / medians[one]:.1f})"
                for one in loaded
            ),
        )
    console.print(table)
