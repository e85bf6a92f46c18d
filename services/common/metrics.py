"""The RED metrics that every process has: rate, errors and duration, by operation.

An operation is a route's template (``POST /images``), a gRPC method (``Identify/Identify``) or
the name of a repeated task (``process``, ``sweep``), never anything that a client chooses.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from prometheus_client import Counter, Histogram

REQUESTS = Counter("facestack_requests_total", "Operations that ended.", ["operation"])
ERRORS = Counter(
    "facestack_request_errors_total", "Operations that ended by our fault.", ["operation"]
)
DURATION = Histogram(
    "facestack_request_duration_seconds",
    "Time from start to end of an operation.",
    ["operation"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


@cache
def _of(operation: str) -> tuple[Counter, Counter, Histogram]:
    # Looking labels up costs more than counting. All three exist from the first operation on, so
    # that a rate over errors is never missing.
    return REQUESTS.labels(operation), ERRORS.labels(operation), DURATION.labels(operation)


def record(operation: str, seconds: float, *, error: bool) -> None:
    """Count one ended operation."""
    requests, errors, duration = _of(operation)
    requests.inc()
    duration.observe(seconds)
    if error:
        errors.inc()


@contextmanager
def observe(operation: str) -> Iterator[None]:
    """Count and time the block; an exception that leaves it is an error."""
    start = time.perf_counter()
    error = True
    try:
        yield
        error = False
    finally:
        record(operation, time.perf_counter() - start, error=error)
