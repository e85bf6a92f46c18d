"""Metrics of every request, by its route."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from starlette.types import Message, Scope, Send

from services.common import metrics
from services.common.lifecycle import Lifecycle


@contextmanager
def observe(scope: Scope, send: Send, lifecycle: Lifecycle) -> Iterator[Send]:
    """Record a request's RED metrics; give a ``send`` that says ``Connection: close`` in a drain.

    A context and no middleware, so that a stack trace is shorter by one for every request.
    """
    start = time.perf_counter()
    status = 500

    async def observed_send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            if lifecycle.draining:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    try:
        yield observed_send
    finally:
        route = scope.get("route")
        # Unknown paths and methods share one name, or a scanner would make a metric per guess.
        if route and status != HTTPStatus.METHOD_NOT_ALLOWED:
            operation = f"{scope['method']} {route.path_format}"
        else:
            operation = "unmatched"
        metrics.record(
            operation,
            time.perf_counter() - start,
            error=status >= HTTPStatus.INTERNAL_SERVER_ERROR,
        )
