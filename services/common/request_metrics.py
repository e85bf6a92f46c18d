"""Metrics of every request, by its route."""

import time
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common import metrics
from services.common.lifecycle import Lifecycle
from services.common.probes import PROBES


class RequestMetrics:
    """ASGI middleware: RED metrics by route, and ``Connection: close`` while draining."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._lifecycle.draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
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
