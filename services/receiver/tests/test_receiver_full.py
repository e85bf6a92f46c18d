"""A full receiver's answers, on real connections: the application never sees what they answer."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from services.common.door import Door
from services.common.http_server import serve_http
from services.common.lifecycle import Lifecycle
from services.common.settings import HttpSettings
from services.common.sockets import listen
from services.receiver.adapters.http import rooms
from services.testing.clients import everybody

BODY = b'{"path": "a.jpg"}'
POST = b"POST /image/post HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY)
SUBMISSION = POST + BODY


def get(method: bytes, path: bytes = b"/status") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (method, path)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def send(self, data: bytes) -> None:
        self.write(data)
        await self._writer.drain()

    async def answer(self, *, head: bool = False) -> Answer:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        length = 0 if head else int(headers["content-length"])
        return Answer(int(lines[0].split()[1]), headers, await self._reader.readexactly(length))

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    async def rest(self) -> bytes:
        """Return what comes until the server closes."""
        return await self._reader.read()

    def close(self) -> None:
        self._writer.close()


@dataclass
class Server:
    """One place for submissions; who has it gets an answer when the test says so."""

    port: int = 0
    seen: list[str] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    lifecycle: Lifecycle = field(default_factory=lambda: Lifecycle({}, drain_seconds=3600))
    clients: list[Client] = field(default_factory=list)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.seen.append(f"{scope['method']} {scope['path']}")
        body = await request.body()
        if scope["path"] == "/image/post":
            self.entered.set()
            await self.leave.wait()
        response = PlainTextResponse(body or scope["method"])
        await response(scope, receive, send)

    async def connect(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.clients[-1]

    async def fill(self) -> Client:
        """Take the place and return who has it."""
        client = await self.connect()
        await client.send(SUBMISSION)
        await self.entered.wait()
        self.seen.clear()
        return client


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = Server()
    listener = listen("127.0.0.1", 0)
    one.port = listener.getsockname()[1]
    places = rooms.Rooms(1)
    door = Door(
        one.app,
        room=places.of,
        admit=everybody,
        refuse=rooms.refuse,
        settings=HttpSettings(),
        lifecycle=one.lifecycle,
    )
    serving = asyncio.create_task(
        serve_http(door, listener, one.lifecycle, refuse=places.refuse_early)
    )
    yield one
    one.leave.set()
    for client in one.clients:
        client.close()
    one.lifecycle.drain()
    one.lifecycle.drain()
    await serving


def assert_refused(answer: Answer) -> None:
    assert answer.status == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "too many submissions at once, 1 are being served",
    }


def counted() -> float:
    operation = {"operation": "POST /image/post"}
    return REGISTRY.get_sample_value("facestack_requests_total", operation) or 0.0


async def test_a_refused_connection_goes_on(server: Server) -> None:
    holder = await server.fill()
    client = await server.connect()
    before = counted()
    for _ in range(3):
        assert_refused(await client.ask(SUBMISSION))
    assert server.seen == []
    assert counted() - before == 3
    assert (await client.ask(get(b"GET"))).body == b"GET"
    server.leave.set()
    assert (await holder.answer()).body == BODY
    assert (await client.ask(SUBMISSION)).body == BODY
    assert server.seen == ["GET /status", "POST /image/post"]


async def test_the_rest_of_a_refused_body_is_no_request(server: Server) -> None:
    await server.fill()
    client = await server.connect()
    inside = get(b"GET", b"/inside")
    await client.send(
        b"POST /images/post HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inside)
    )
    assert_refused(await client.answer())  # before any of the body is there
    await client.send(inside[:10])
    await client.send(inside[10:] + get(b"GET", b"/behind"))
    assert (await client.answer()).body == b"GET"
    chunked = b"POST /image/post HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert_refused(await client.ask(chunked + b"5\r\n12345\r\n0\r\n\r\n"))
    assert (await client.ask(get(b"GET", b"/last"))).body == b"GET"
    assert server.seen == ["GET /behind", "GET /last"]


async def test_pipelined_requests_are_answered_in_their_order(server: Server) -> None:
    await server.fill()
    client = await server.connect()
    await client.send(SUBMISSION + get(b"GET") + SUBMISSION + get(b"HEAD") + SUBMISSION)
    assert_refused(await client.answer())
    assert (await client.answer()).body == b"GET"
    assert_refused(await client.answer())
    assert (await client.answer(head=True)).status == 200
    assert_refused(await client.answer())


async def test_what_comes_at_once_leaves_turns_to_what_is_served(server: Server) -> None:
    await server.fill()
    clients = [await server.connect() for _ in range(300)]
    before = counted()
    for client in clients:
        client.write(SUBMISSION + get(b"GET"))
    read = [0.0]
    while read[-1] < len(clients):
        await asyncio.sleep(0)
        read.append(counted() - before)
    assert max(after - earlier for earlier, after in itertools.pairwise(read)) < 100
    for client in clients:
        assert_refused(await client.answer())
        assert (await client.answer()).body == b"GET"


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT"])
async def test_only_submissions_are_refused(server: Server, method: bytes) -> None:
    await server.fill()
    client = await server.connect()
    await client.send(get(method, b"/image/post/"))
    assert (await client.answer(head=method == b"HEAD")).status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"POST /image/post HTTP/1.0\r\nHost: localhost\r\nContent-Length: 17\r\n\r\n",
        (
            b"POST /image/post HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: 17\r\n\r\n"
        ),
    ],
)
async def test_who_wants_no_other_answer_is_told_that_it_ends(server: Server, head: bytes) -> None:
    await server.fill()
    client = await server.connect()
    answer = await client.ask(head + BODY)
    assert_refused(answer)
    assert answer.headers["connection"] == "close"
    assert await client.rest() == b""


async def test_a_refusal_during_the_drain_says_that_the_connection_ends(server: Server) -> None:
    await server.fill()
    client = await server.connect()
    assert_refused(await client.ask(SUBMISSION))
    server.lifecycle.drain()
    answer = await client.ask(SUBMISSION)
    assert_refused(answer)
    assert answer.headers["connection"] == "close"
