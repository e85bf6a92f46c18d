"""How much memory a process has had."""

import re
from pathlib import Path


def peak_kib(process: int | str = "self") -> int:
    """Return the most that this process, or another, has had in memory, in KiB.

    ``ru_maxrss`` begins with what the process had that started this one.
    """
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(peak)
