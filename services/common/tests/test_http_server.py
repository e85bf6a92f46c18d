import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.common.door import Door, Room
from services.common.health import Check
from services.common.http_server import serve_http, serve_probes
from services.common.lifecycle import Lifecycle
from services.common.probes import metrics_route, probe_routes
from services.common.settings import HttpSettings
from services.common.sockets import listen
from services.testing.clients import everybody
from services.testing.waiting import eventually

LONG = 3600.0
"""A drain time that a test never waits for."""


class Service:
    """A small application on a real socket, whose slow request ends when the test says so."""

    def __init__(self, *, drain_seconds: float, checks: Mapping[str, Check] | None = None) -> None:
        self.lifecycle = Lifecycle(checks or {}, drain_seconds=drain_seconds)
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.listener = listen("127.0.0.1", 0)
        self.port = int(self.listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        routes = Starlette(
            routes=[
                Route("/items/{item}", self._item),
                Route("/slow", self._slow),
                Route("/broken", self._broken),
                *probe_routes(self.lifecycle),
                metrics_route(),
            ]
        )
        room = Room("requests", 100, takes_body=False)
        self.app = Door(
            routes,
            room=lambda _: room,
            admit=everybody,
            refuse=lambda _, error: PlainTextResponse(error.detail, error.status_code),
            settings=HttpSettings(),
            lifecycle=self.lifecycle,
        )

    async def _item(self, _: Request) -> Response:
        return PlainTextResponse("item")

    async def _slow(self, _: Request) -> Response:
        self.arrived.set()
        await self.go_on.wait()
        return PlainTextResponse("slow but whole")

    async def _broken(self, _: Request) -> Response:
        raise RuntimeError("broken on purpose")


@dataclass
class Running:
    service: Service
    client: httpx.AsyncClient
    serving: asyncio.Task[None] = field(repr=False)


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Running]:
    serving = asyncio.create_task(serve_http(service.app, service.listener, service.lifecycle))
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        try:
            yield Running(service, client, serving)
        finally:
            service.go_on.set()
            service.lifecycle.drain()
            service.lifecycle.drain()
            await serving


async def away() -> None:
    raise ConnectionError("nobody there")


async def there() -> None:
    pass


def counted(name: str, operation: str) -> float:
    return REGISTRY.get_sample_value(name, {"operation": operation}) or 0.0


async def test_ready_while_every_dependency_answers() -> None:
    async with running(Service(drain_seconds=LONG, checks={"store": there})) as run:
        response = await run.client.get("/readyz")
        assert response.status_code == 200
        assert response.json() == {"ready": True, "problems": {}}


async def test_not_ready_names_each_dependency_that_is_away() -> None:
    checks = {"store": there, "database": away}
    async with running(Service(drain_seconds=LONG, checks=checks)) as run:
        response = await run.client.get("/readyz")
        assert response.status_code == 503
        assert response.json() == {"ready": False, "problems": {"database": "nobody there"}}
        assert (await run.client.get("/livez")).status_code == 200


async def test_ready_once_is_ready_until_the_drain_and_names_what_is_away() -> None:
    checks = {"database": there}
    async with running(Service(drain_seconds=LONG, checks=checks)) as run:
        assert (await run.client.get("/readyz")).status_code == 200
        checks["database"] = away
        response = await run.client.get("/readyz")
        assert response.status_code == 200
        assert response.json() == {"ready": True, "problems": {"database": "nobody there"}}
        run.service.lifecycle.drain()
        assert (await run.client.get("/readyz")).status_code == 503


async def test_draining_fails_readiness_closes_connections_and_still_serves() -> None:
    async with running(Service(drain_seconds=LONG)) as run:
        before = await run.client.get("/items/1")
        assert "connection" not in before.headers
        run.service.lifecycle.drain()
        readiness = await run.client.get("/readyz")
        assert readiness.status_code == 503
        assert readiness.json()["problems"] == {"process": "draining"}
        after = await run.client.get("/items/1")
        assert (after.status_code, after.text) == (200, "item")
        assert after.headers["connection"] == "close"
        assert (await run.client.get("/livez")).status_code == 200
        assert not run.serving.done()


async def test_a_request_in_flight_is_finished_after_the_drain_time() -> None:
    async with running(Service(drain_seconds=0)) as run:
        request = asyncio.create_task(run.client.get("/slow"))
        await run.service.arrived.wait()
        run.service.lifecycle.drain()
        await run.service.lifecycle.wait_stopping()
        # The listener closes first; new connections are refused while the request goes on.
        await refused(run.service)
        assert not request.done()
        run.service.go_on.set()
        response = await request
        assert response.text == "slow but whole"
        assert response.headers["connection"] == "close"
        await run.serving


async def refused(service: Service) -> None:
    """Return once nobody listens any more; a connection before that would be nobody's to close."""
    await eventually(lambda: service.listener.fileno() == -1)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", service.port)


async def test_a_second_signal_cuts_the_drain_time_short() -> None:
    async with running(Service(drain_seconds=LONG)) as run:
        run.service.lifecycle.drain()
        await run.service.lifecycle.wait_draining()
        assert not run.serving.done()
        run.service.lifecycle.drain()
        await run.serving


async def test_an_idle_keep_alive_connection_does_not_hold_up_the_end() -> None:
    async with running(Service(drain_seconds=0)) as run:
        await run.client.get("/items/1")
        run.service.lifecycle.drain()
        await run.serving


async def test_metrics_are_kept_by_route_and_errors_are_ours() -> None:
    async with running(Service(drain_seconds=LONG)) as run:
        names = ("facestack_requests_total", "facestack_request_errors_total")
        before = [
            counted(name, op) for op in ("GET /items/{item}", "GET /broken") for name in names
        ]
        await run.client.get("/items/1")
        await run.client.get("/items/2")
        assert (await run.client.get("/broken")).status_code == 500
        after = [counted(name, op) for op in ("GET /items/{item}", "GET /broken") for name in names]
        assert [b - a for a, b in zip(before, after, strict=True)] == [2, 0, 1, 1]
        page = (await run.client.get("/metrics")).text
        assert 'facestack_request_duration_seconds_count{operation="GET /items/{item}"}' in page


async def test_paths_that_a_client_invents_share_one_name() -> None:
    async with running(Service(drain_seconds=LONG)) as run:
        before = counted("facestack_requests_total", "unmatched")
        for path in ("/wp-admin", "/.env", "/items/1/2"):
            assert (await run.client.get(path)).status_code == 404
        assert counted("facestack_requests_total", "unmatched") - before == 3
        page = (await run.client.get("/metrics")).text
        assert "wp-admin" not in page


async def test_methods_that_a_client_invents_make_no_metric() -> None:
    async with running(Service(drain_seconds=LONG)) as run:
        assert (await run.client.request("PROPFIND", "/items/1")).status_code == 405
        assert "PROPFIND" not in (await run.client.get("/metrics")).text


async def test_probes_are_not_counted() -> None:
    async with running(Service(drain_seconds=LONG)) as run:
        for path in ("/livez", "/readyz"):
            await run.client.get(path)
        page = (await run.client.get("/metrics")).text
        assert 'operation="GET /livez"' not in page
        assert 'operation="GET /readyz"' not in page


async def test_probes_alone_are_served_for_a_process_without_http() -> None:
    lifecycle = Lifecycle({}, drain_seconds=LONG)
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    serving = asyncio.create_task(serve_probes(listener, lifecycle))
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        statuses = {
            path: (await client.get(path)).status_code
            for path in ("/livez", "/readyz", "/metrics", "/other")
        }
    assert statuses == {"/livez": 200, "/readyz": 200, "/metrics": 200, "/other": 404}
    lifecycle.drain()
    lifecycle.drain()
    await serving


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_ends_the_process_with_one_line(taken: int) -> None:
    with pytest.raises(SystemExit) as error:
        listen("127.0.0.1", taken)
    assert str(error.value) == f"cannot listen on 127.0.0.1:{taken}: Address already in use"


async def test_readiness_says_why_as_json_also_while_draining() -> None:
    async with running(Service(drain_seconds=LONG, checks={"database": away})) as run:
        run.service.lifecycle.drain()
        assert json.loads((await run.client.get("/readyz")).text)["ready"] is False
