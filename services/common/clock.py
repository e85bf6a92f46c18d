"""Wall-clock time as the rows hold it: whole milliseconds since the Unix epoch, UTC.

Leases and due times are compared between hosts, so their clocks must agree to within a second,
far less than the shortest lease.
"""

import time
from collections.abc import Callable

Clock = Callable[[], int]


def now_ms() -> int:
    """Return the current time."""
    return time.time_ns() // 1_000_000
