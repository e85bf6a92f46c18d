"""Settings of the face recogniser."""

import os
from pathlib import Path
from typing import Final

from pydantic import Field

from services.common.images import KNOWN_PEOPLE
from services.common.settings import ObjectStoreSettings, Port, Seconds, Settings

QUEUE_PER_WORKER: Final = 4
"""A person who enrols waits 20 s at most, as long as the last of a full queue if each takes 4 s."""


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many CPUs this process may use: those it may run on, or its container's limit."""
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(cpus, int(cpu_limit(cgroup) or cpus)))


def cpu_limit(cgroup: Path) -> float | None:
    """Return the CPUs that a control group may use, of version 2 or else 1; None: no limit.

    A container sees its own group at the top of the file system.
    """
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    if quota == "max" or int(quota) <= 0:
        return None
    return int(quota) / int(period)


class FaceRecogSettings(Settings, ObjectStoreSettings):
    """What the face recogniser is told from outside."""

    port: Port = Field(50051, description="gRPC.")
    probe_port: Port = Field(9102, description="/livez, /readyz and /metrics.")
    pool_size: int = Field(
        default_factory=usable_cpus, ge=1, description="Worker processes; one per usable CPU."
    )
    queue_size: int = Field(
        default_factory=lambda known: QUEUE_PER_WORKER * known["pool_size"],
        ge=1,
        description=f"Requests that wait for a worker, more are refused; {QUEUE_PER_WORKER} per"
        " worker.",
    )
    work_seconds: Seconds = Field(
        15.0, description="Longest time of one step at a picture; then its worker is replaced."
    )
    long_seconds: Seconds = Field(
        120.0,
        description="Longest time of a step that was too slow once, in a process beside the"
        " others; a picture that needs longer is rejected.",
    )
    worker_memory_bytes: int = Field(
        2 * 1024**3,
        ge=64 * 1024**2,
        description="Address space that a picture may take in a worker. One of 50 megapixels"
        " with transparency took 0.4 GB; the rest is room for other kinds.",
    )
    stop_seconds: Seconds = Field(
        20.0, description="Longest time to finish what is in flight after the drain."
    )
    connection_age_seconds: Seconds = Field(
        60.0, description="Age at which clients reconnect, and so find new replicas."
    )
    known_people: str = Field(
        KNOWN_PEOPLE,
        pattern="^[^/].*/$",
        description="Prefix of the object store: PREFIX<person>/<picture>.",
    )
    watch_seconds: Seconds = Field(2.0, description="How often the known people are listed.")
