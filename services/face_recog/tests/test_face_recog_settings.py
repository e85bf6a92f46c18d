import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.common.cgroups import cpu_limit, memory_limit, usable_cpus
from services.face_recog import settings
from services.face_recog.settings import MIN_WORKER_BYTES, FaceRecogSettings, worker_memory

STORE = "file:///nowhere"
GIB = 1024**3


def test_the_queue_grows_with_the_pool() -> None:
    small = FaceRecogSettings(object_store_url=STORE, pool_size=1)
    large = FaceRecogSettings(object_store_url=STORE, pool_size=8)
    assert (small.queue_size, large.queue_size) == (4, 32)
    # A picture of 2 s, behind a full queue, is done within the deadline of the client.
    assert (small.queue_size + 1) * 2 < 20
    assert FaceRecogSettings(object_store_url=STORE, pool_size=1, queue_size=9).queue_size == 9


def test_workers_take_no_more_memory_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "memory_limit", lambda: 4 * GIB)
    for_two: dict[str, Any] = {
        "object_store_url": STORE,
        "pool_size": 2,
        "worker_memory_bytes": GIB,
    }
    assert FaceRecogSettings(**for_two).worker_memory_bytes == GIB
    with pytest.raises(ValidationError, match=r"POOL_SIZE 3 times WORKER_MEMORY_BYTES \d+.* 4096"):
        FaceRecogSettings(**for_two | {"pool_size": 3})
    # What follows from the limit is never refused.
    monkeypatch.setattr(settings, "memory_limit", lambda: GIB)
    worker = FaceRecogSettings(object_store_url=STORE, pool_size=3).worker_memory_bytes
    assert worker == MIN_WORKER_BYTES


def test_a_wrong_pool_size_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_SIZE", "none")
    with pytest.raises(ValidationError) as error:
        FaceRecogSettings(object_store_url=STORE)
    assert ("pool_size",) in [problem["loc"] for problem in error.value.errors()]


@pytest.mark.parametrize(
    ("files", "limit", "cpus"),
    [
        ({}, None, 8),
        ({"cpu.max": "max 100000\n"}, None, 8),
        ({"cpu.max": "250000 100000\n"}, 2.5, 2),
        ({"cpu.max": "50000 100000\n"}, 0.5, 1),
        ({"cpu.max": "6400000 100000\n"}, 64, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3, 3),
        ({"cpu/cpu.cfs_quota_us": "10000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.1, 1),
    ],
)
def test_the_limit_of_a_container_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    limit: float | None,
    cpus: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu_limit(tmp_path) == limit
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 16 * GIB),
        ({"memory.max": "max\n"}, 16 * GIB),
        ({"memory.max": f"{2 * GIB}\n"}, 2 * GIB),
        ({"memory.max": f"{64 * GIB}\n"}, 16 * GIB),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 16 * GIB),
        ({"memory/memory.limit_in_bytes": f"{3 * GIB}\n"}, 3 * GIB),
    ],
)
def test_the_memory_limit_of_a_container_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int
) -> None:
    sizes = {"SC_PHYS_PAGES": 4 * 1024**2, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert memory_limit(tmp_path) == limit
    for workers in range(1, 33):
        share = worker_memory(workers, limit)
        assert MIN_WORKER_BYTES <= share <= 2 * GIB
        assert share == MIN_WORKER_BYTES or workers * share < limit
