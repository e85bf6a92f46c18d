"""uvicorn, as every service runs it: with bounds on its clients, and a drain."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.common.connections import Connections, Refuse
from services.common.lifecycle import Lifecycle
from services.common.probes import metrics_route, probe_routes
from services.common.settings import HttpSettings
from services.common.sockets import allow_open_files

_FINISH_SECONDS: Final = 30


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to the lifecycle."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve_http(
    app: ASGIApp,
    listener: socket.socket,
    lifecycle: Lifecycle,
    settings: HttpSettings | None = None,
    refuse: Refuse = lambda *_: None,
) -> None:
    """Serve an ASGI application until the drain time is over and the last response is sent.

    Responses that take longer than ``_FINISH_SECONDS`` from then on are cut off.

    What ``refuse`` answers never reaches the application; during the drain it is not asked, since
    every answer then says that the connection ends.
    """
    settings = settings or HttpSettings()
    # Each may need a socket and a file in which its body arrives.
    max_connections = allow_open_files(2 * settings.max_connections) // 2

    def refuse_before_the_drain(method: bytes, target: bytes) -> Response | None:
        return None if lifecycle.draining else refuse(method, target)

    connections = Connections(
        settings.head_seconds, settings.keep_alive_seconds, max_connections, refuse_before_the_drain
    )
    config = uvicorn.Config(
        app,
        http=connections.protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=_FINISH_SECONDS,
        proxy_headers=False,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    watching = asyncio.create_task(connections.watch())
    stopping = asyncio.create_task(lifecycle.wait_stopping())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        server.should_exit = True
        await serving
        watching.cancel()


async def serve_probes(
    listener: socket.socket, lifecycle: Lifecycle, more: Sequence[Route] = ()
) -> None:
    """Serve probes, metrics and ``more``, at a port that no client comes to."""
    routes = [*probe_routes(lifecycle), metrics_route(), *more]
    await serve_http(Starlette(routes=routes), listener, lifecycle)
