"""How much memory a process has had."""

import re
from pathlib import Path


def peak_kib() -> int:
    """Return the most that this process has had in memory, in KiB.

    ``ru_maxrss`` begins with what the process had that started this one.
    """
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak)
