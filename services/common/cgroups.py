"""What a container may use: its control group, of version 2 or else 1.

A container sees its own group at the top of the file system.
"""

import os
from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """Return how many CPUs this process may use: those it may run on, or its container's limit."""
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(cpus, int(cpu_limit(cgroup) or cpus)))


def cpu_limit(cgroup: Path) -> float | None:
    """Return the CPUs that a control group may use; None: no limit."""
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


def memory_limit(cgroup: Path = _CGROUP) -> int:
    """Return the bytes that a control group and the machine have."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = (cgroup / file).read_text().strip()
        except OSError:
            continue
        return machine if limit == "max" else min(machine, int(limit))
    return machine
