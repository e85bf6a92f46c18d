"""The life of a process: probes, metrics, and a drain on SIGTERM that loses no request.

Draining has three steps. Readiness fails and every response says ``Connection: close``, so load
balancers and keep-alive clients go elsewhere; requests are still served for ``drain_seconds``;
then the listener closes and what is in flight is finished.
"""

import asyncio
import resource
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common import metrics
from services.common.connections import (
    Connections,
    Refuse,
    refuse_nothing,
)
from services.common.settings import HttpSettings

log = structlog.get_logger(__name__)

Check = Callable[[], Awaitable[None]]

_CHECK_TIMEOUT_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.5
_OTHER_FILES: Final = 256
_FEWEST_FILES: Final = 32
_UNOBSERVED: Final = frozenset({"/livez", "/readyz", "/metrics"})


class Lifecycle:
    """Whether the process is ready, draining or to stop.

    ``checks`` are the dependencies without which the process cannot begin to serve, each an
    awaitable that raises when it is away. A process that was ready once stays ready until it
    drains: were all replicas to leave the load balancer when the database goes, clients would be
    refused a connection instead of told what is away.
    """

    def __init__(self, checks: Mapping[str, Check], *, drain_seconds: float) -> None:
        self._checks = checks
        self._drain_seconds = drain_seconds
        self._draining = asyncio.Event()
        self._stopping = asyncio.Event()
        self._drain_task: asyncio.Task[None] | None = None
        self._was_ready = False

    @property
    def draining(self) -> bool:
        """Whether the process was told to stop."""
        return self._draining.is_set()

    def install_signal_handlers(self) -> None:
        """Drain on SIGTERM and SIGINT; a second one stops at once."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.drain)

    def drain(self) -> None:
        """Start to drain; called again, skip the rest of the drain time."""
        if self.draining:
            self._stopping.set()
            return
        log.info("draining", seconds=self._drain_seconds)
        self._draining.set()
        self._drain_task = asyncio.create_task(self._stop_later())

    async def _stop_later(self) -> None:
        await asyncio.sleep(self._drain_seconds)
        self._stopping.set()

    async def wait_draining(self) -> None:
        """Return when new work should no longer be taken."""
        await self._draining.wait()

    async def wait_stopping(self) -> None:
        """Return when the drain time is over."""
        await self._stopping.wait()

    async def readiness(self) -> tuple[bool, dict[str, str]]:
        """Return whether requests should be sent here, and what is away, by dependency."""
        if self.draining:
            return False, {"process": "draining"}
        problems = await _failed_checks(self._checks)
        self._was_ready = self._was_ready or not problems
        return self._was_ready, problems


async def _failed_checks(checks: Mapping[str, Check]) -> dict[str, str]:
    """Run all checks at once and return why each failed one did, by its name."""
    problems = await asyncio.gather(
        *(_problem(asyncio.wait_for(check(), _CHECK_TIMEOUT_SECONDS)) for check in checks.values())
    )
    return {name: problem for name, problem in zip(checks, problems, strict=True) if problem}


class Outages:
    """What is away, of some dependencies, found out whenever somebody asks.

    A dependency is away once every check of it has failed for ``patience`` seconds: neither one
    that a busy machine slows down is, nor one of which a replica drains. It is back with the first
    check that succeeds.
    """

    def __init__(self, checks: Mapping[str, Check], *, patience: float = 10.0) -> None:
        self._checks = checks
        self._patience = patience
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._away: dict[str, str] = {}

    async def away(self) -> dict[str, str]:
        """Return why each dependency that is away is, by its name, within about a second."""
        for name, check in self._checks.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._ask(name, check))
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_ANSWER_SECONDS)
        return {name: self._away[name] for name in self._checks if name in self._away}

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, name: str, check: Check) -> None:
        reason = f"no answer within {self._patience:g} s"
        try:
            async with asyncio.timeout(self._patience):
                while problem := await _problem(check()):
                    reason = problem
                    await asyncio.sleep(_PAUSE_SECONDS)
            self._away.pop(name, None)
        except TimeoutError:
            self._away[name] = reason
        finally:
            del self._tasks[name]


async def _problem(answer: Awaitable[None]) -> str | None:
    try:
        await answer
    except Exception as error:  # noqa: BLE001, whatever it is, the dependency cannot be used
        return str(error) or type(error).__name__
    return None


def probe_routes(lifecycle: Lifecycle) -> list[Route]:
    """Return the routes ``/livez``, ``/readyz`` and ``/metrics``."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter that nobody asks for

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        ready, problems = await lifecycle.readiness()
        return JSONResponse(
            {"ready": ready, "problems": problems}, status_code=200 if ready else 503
        )

    async def metrics_page(_: Request) -> Response:
        return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/metrics", metrics_page),
    ]


class ObservedApp:
    """ASGI middleware: RED metrics by route, and ``Connection: close`` while draining."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or scope["path"] in _UNOBSERVED:
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


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to the lifecycle."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket, or end the process with one line when it cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise SystemExit(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def allow_open_files(wanted: int) -> int:
    """Raise the process's own limit on open files, and return how many connections may have.

    Many systems set 1024 where they allow more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < enough:
        soft = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        wanted
        if soft == resource.RLIM_INFINITY
        else min(wanted, max(soft - _OTHER_FILES, _FEWEST_FILES))
    )


async def serve_http(
    app: ASGIApp,
    listener: socket.socket,
    lifecycle: Lifecycle,
    settings: HttpSettings | None = None,
    refuse: Refuse = refuse_nothing,
) -> None:
    """Serve an ASGI application until the drain time is over and the last response is sent.

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
        ObservedApp(app, lifecycle),
        http=connections.protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=30,
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


async def serve_probes(listener: socket.socket, lifecycle: Lifecycle) -> None:
    """Serve only probes and metrics, for a process that has no HTTP interface of its own."""
    await serve_http(Starlette(routes=probe_routes(lifecycle)), listener, lifecycle)
