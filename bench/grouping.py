"""What the service people takes to put new faces into groups, among very many that are stored."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.table import Table

from services.testing.processes import Service

NEW: Final = 256
"""Faces that come at once, each in a picture of its own."""

_ROUNDS: Final = 3
_POLL: Final = 0.01

Run = Callable[..., list[Any]]
"""Runs a statement with its values."""


@dataclass(frozen=True)
class Grouping:
    """Seconds until all faces are compared, and until new ones are in groups; MiB of the process.

    ``groups`` are those that there were.
    """

    faces: int
    groups: int
    load: float
    new: float
    memory: float


def place(run: Run) -> None:
    """Put each unknown face that is in no group into one of its own."""
    [[base]] = run("SELECT COALESCE(MAX(id), 0) FROM face_groups")
    alone = (
        " FROM faces LEFT JOIN group_faces USING (image_id, face_index)"
        " WHERE faces.person_id IS NULL AND group_faces.image_id IS NULL"
    )
    run("UPDATE group_work SET engine = 'bench', claim_token = NULL, due_at = 0")
    run(
        "INSERT INTO face_groups (id, size, created_at)"
        f" SELECT %s + image_id * 2 + face_index, 1, 1{alone}",
        base,
    )
    run(
        "INSERT INTO group_faces (image_id, face_index, group_id)"
        f" SELECT image_id, face_index, %s + image_id * 2 + face_index{alone}",
        base,
    )


def measure(
    run: Run,
    service: Callable[[], Service],
    encodings: NDArray[np.float32],
) -> Grouping:
    """Start the service, store these faces in some rounds, and wait until each is in a group."""
    place(run)
    [[before]] = run("SELECT MAX(id) FROM images")
    [[faces]] = run("SELECT COUNT(*) FROM face_encodings")
    [[groups]] = run("SELECT COUNT(*) FROM face_groups WHERE size > 0")
    start = time.perf_counter()
    with service() as people:
        # The first one is in a group when all others were compared.
        last = _store(run, encodings[:1])
        _wait(run, last)
        load = time.perf_counter() - start
        times = []
        for one in np.array_split(encodings[1:], _ROUNDS):
            last = _store(run, one)
            start = time.perf_counter()
            _wait(run, last)
            times.append(time.perf_counter() - start)
        memory = psutil.Process(people.pid).memory_info().rss / 2**20
    run("DELETE FROM images WHERE id > %s", before)
    return Grouping(faces, groups, load, float(np.median(times)), memory)


def _store(run: Run, encodings: NDArray[np.float32]) -> int:
    """Store a picture with each of these faces, as image_processor does; return the last id."""
    [[first]] = run("SELECT MAX(id) + 1 FROM images")
    run("BEGIN")
    for image, encoding in enumerate(encodings, first):
        run(
            "INSERT INTO images (id, path, name, status, attempt, created_at, updated_at,"
            " processed_at, engine) VALUES (%s, %s, 'a.jpg', 'processed', 1, 1, 1, 1, 'bench')",
            image,
            f"{image}.jpg",
        )
        run(
            "INSERT INTO faces (image_id, face_index, `left`, top, `right`, bottom,"
            " detection_score, ambiguous, candidates, decided_by, calibration)"
            " VALUES (%s, 0, 0, 0, 9, 9, 1, 0, '[]', 'machine', 1)",
            image,
        )
        run(
            "INSERT INTO face_encodings (image_id, face_index, engine, encoding)"
            " VALUES (%s, 0, 'bench', %s)",
            image,
            encoding.astype("<f4").tobytes(),
        )
        run(
            "INSERT INTO events (kind, subject_id, created_at)"
            " VALUES ('image', %s, UNIX_TIMESTAMP(NOW(3)) * 1000)",
            image,
        )
    run("COMMIT")
    return int(first) + len(encodings) - 1


def _wait(run: Run, image: int) -> None:
    while not run("SELECT 1 FROM group_faces WHERE image_id = %s", image):
        time.sleep(_POLL)


def table(figures: Sequence[Grouping]) -> Table:
    """Return the figures, each also as a multiple of the first one's."""
    made = Table(
        "stored faces",
        "groups",
        "compared, s",
        "ratio",
        f"{NEW} new ones, s",
        "ratio",
        "memory, MiB",
        title="New faces that are put into groups, until the tables say so",
    )
    first = figures[0]
    for one in figures:
        made.add_row(
            f"{one.faces:,}",
            f"{one.groups:,}",
            f"{one.load:.1f}",
            f"{one.load / first.load:.2f}",
            f"{one.new:.2f}",
            f"{one.new / first.new:.2f}",
            f"{one.memory:.0f}",
        )
    return made
