"""The bare loop that the pipeline is compared with: face_recognition and nothing else."""

import multiprocessing
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "pkg_resources is deprecated")
    import face_recognition

_known: list[Any] = []


def encode(file: Path) -> Any:
    """Return the encodings of the faces in a picture, each 128 values."""
    picture = face_recognition.load_image_file(file)
    boxes = face_recognition.face_locations(picture)
    return face_recognition.face_encodings(picture, boxes)


def _start(known: list[Any]) -> None:
    _known.extend(known)


def _identify(file: Path) -> list[int]:
    return [
        int(np.argmin(face_recognition.face_distance(_known, encoding)))
        for encoding in encode(file)
    ]


def pictures_per_second(files: list[Path], known: list[Any]) -> float:
    """Recognise the files in a loop per CPU and return the rate, without starting up."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    cpus = len(os.sched_getaffinity(0))
    # Unlike multiprocessing's own pool, this one says so when a process of it dies.
    with ProcessPoolExecutor(
        cpus, multiprocessing.get_context("spawn"), initializer=_start, initargs=(known,)
    ) as pool:
        list(pool.map(_identify, files[:cpus]))
        start = time.perf_counter()
        list(pool.map(_identify, files))
        return len(files) / (time.perf_counter() - start)
