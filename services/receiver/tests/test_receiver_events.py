"""Listening to what changes, mostly at processes that serve."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy as sa
import structlog

from services.common.clock import database_now
from services.common.database import Database
from services.common.errors import DatabaseUnavailableError
from services.common.event_rows import note_events
from services.common.events import KEPT_MS, EventKind, Position
from services.common.lifecycle import Lifecycle
from services.common.tables import events, images, persons
from services.local.processes import free_port
from services.receiver.adapters.http import events as routes
from services.receiver.adapters.rows.events import DatabaseEvents
from services.receiver.domain.changes import Change, Changes
from services.receiver.service.following import Following
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Launch, Start
from services.testing.waiting import eventually


class Told(NamedTuple):
    event: str
    data: Any
    id: str


def parse(block: str) -> Told:
    fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
    return Told(
        fields.get("event", ""), json.loads(fields.get("data", "null")), fields.get("id", "")
    )


class Stream:
    """What a client reads of a stream, block by block."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._pieces = answer.aiter_text()
        self._text = ""

    async def block(self) -> Told | None:
        block = (
            ":"  # a comment says that nothing happens; on a busy machine there may be any number
        )
        while block.startswith(":"):
            while "\n\n" not in self._text:
                try:
                    self._text += await anext(self._pieces)
                except StopAsyncIteration:
                    assert self._text == ""
                    return None
            block, self._text = self._text.split("\n\n", 1)
        return parse(block)

    async def blocks(self, count: int) -> list[Told]:
        found = [await self.block() for _ in range(count)]
        return [one for one in found if one]


@asynccontextmanager
async def listening(url: str, since: str | None = None) -> AsyncIterator[Stream]:
    headers = {"Last-Event-ID": since} if since is not None else {}
    async with (
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client,
        client.stream("GET", "/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200
        yield Stream(answer)


@pytest.fixture
async def writer(settings: ReceiverSettings) -> AsyncIterator[Database]:
    database = Database(settings)
    yield database
    await database.close()


@pytest.fixture
async def plain_writer(plain_settings: ReceiverSettings) -> AsyncIterator[Database]:
    database = Database(plain_settings)
    yield database
    await database.close()


async def note(database: Database, kind: EventKind, *subjects: int) -> None:
    async with database.transaction() as connection:
        await note_events(connection, database_now(), kind, subjects)


async def test_a_listener_is_told_what_has_changed_and_how_it_is_now(
    launch: Launch, settings: ReceiverSettings, writer: Database
) -> None:
    process = launch(settings)
    async with writer.transaction() as connection:
        row = {"path": "a", "name": "a", "attempt": 1, "created_at": 1, "updated_at": 1}
        await connection.execute(sa.insert(images).values(id=42, status="processed", **row))
        await connection.execute(sa.insert(persons).values(id=7, name="Zoë", created_at=1))
    await note(writer, EventKind.IMAGE, 1)
    async with listening(process.url) as stream:
        assert stream.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.answer.headers["cache-control"] == "no-store"
        assert stream.answer.headers["x-accel-buffering"] == "no"
        first = await stream.block()
        assert first
        assert first[:2] == ("", None)
        assert Position.parse(first.id)
        await note(writer, EventKind.ENCODED, 42)  # which changes nothing that is told
        await note(writer, EventKind.IMAGE, 42, 43)
        await note(writer, EventKind.PERSON, 7, 8)
        told = await stream.blocks(4)
    assert [one[:2] for one in told] == [
        ("image", {"id": 42, "status": "processed"}),
        ("image", {"id": 43, "status": None}),
        ("person", {"id": 7, "name": "Zoë"}),
        ("person", {"id": 8, "name": None}),
    ]


async def test_whoever_comes_again_misses_nothing_wherever(
    launch: Launch, settings: ReceiverSettings, writer: Database
) -> None:
    one, other = launch(settings), launch(settings)
    async with listening(one.url) as stream:
        [start] = await stream.blocks(1)
        await note(writer, EventKind.IMAGE, 1, 2, 3)
        first, second, _ = await stream.blocks(3)
    await note(writer, EventKind.IMAGE, 4)
    for process in (one, other):
        for last, expected in (
            (start.id, [1, 2, 3, 4]),
            (first.id, [2, 3, 4]),
            (second.id, [3, 4]),
        ):
            async with listening(process.url, last) as stream:
                await stream.block()
                told = await stream.blocks(len(expected))
                assert [one.data["id"] for one in told] == expected
    async with listening(other.url, first.id) as stream:
        await stream.blocks(4)
        await note(writer, EventKind.IMAGE, 5)
        told = await stream.blocks(1)
        assert [one.data["id"] for one in told] == [5], "it goes on"


@pytest.mark.parametrize("last", ["old", "of other rows", "", "nonsense", "1.2.3"])
async def test_whoever_comes_too_late_is_told_so_and_goes_on(
    launch: Launch, plain_settings: ReceiverSettings, plain_writer: Database, last: str
) -> None:
    process = launch(plain_settings)
    await note(plain_writer, EventKind.IMAGE, 1)
    async with listening(process.url) as stream:
        [start] = await stream.blocks(1)
    position = Position.parse(start.id)
    assert position
    ids = {
        "old": str(Position(position.last, position.at - KEPT_MS)),
        "of other rows": str(Position(position.last + 1000, position.at)),
    }
    async with listening(process.url, ids.get(last, last)) as stream:
        await stream.block()
        [reset] = await stream.blocks(1)
        assert reset[:2] == ("reset", {})
        await note(plain_writer, EventKind.IMAGE, 2)
        assert [one.data for one in await stream.blocks(1)] == [{"id": 2, "status": None}]
    async with listening(process.url, reset.id) as stream:
        await stream.block()
        assert [one.data["id"] for one in await stream.blocks(1)] == [2]


async def test_more_listeners_than_may_be_are_told_so(
    launch: Launch, plain_settings: ReceiverSettings
) -> None:
    process = launch(plain_settings.model_copy(update={"max_connections": 12}))
    async with httpx.AsyncClient(base_url=process.url, trust_env=False) as client:
        async with AsyncExitStack() as places:
            for _ in range(3):
                await places.enter_async_context(listening(process.url))
            refused = await client.get("/events")
            assert refused.status_code == 429
            assert refused.json()["detail"] == "too many listeners at once, 3 are being served"
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/images")).status_code == 200, "others have their places"
            assert "facestack_listeners 3.0" in (await process.get("/metrics")).text

        async def none() -> bool:
            return "facestack_listeners 0.0" in (await process.get("/metrics")).text

        await eventually(none)
        async with listening(process.url) as stream:
            assert await stream.block()


async def test_a_drain_ends_streams_at_once_and_takes_none_for_long(
    launch: Launch, plain_settings: ReceiverSettings, plain_writer: Database
) -> None:
    process = launch(plain_settings.model_copy(update={"drain_seconds": 300}))
    async with listening(process.url) as stream:
        [start] = await stream.blocks(1)
        process.terminate()
        assert await stream.block() is None
    await note(plain_writer, EventKind.IMAGE, 1)
    async with listening(process.url, start.id) as stream:
        assert stream.answer.headers["connection"] == "close"
        while await stream.block():
            pass
    process.terminate()  # skips the rest of the drain
    assert await asyncio.to_thread(process.wait, 30) == 0
    assert "Traceback" not in process.log.read_text()


async def test_a_listener_that_does_not_keep_up_is_cut_off_and_slows_nobody(
    launch: Launch, plain_settings: ReceiverSettings, plain_writer: Database
) -> None:
    count = 150_000
    process = launch(plain_settings)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(30)
        slow.connect(("127.0.0.1", process.port))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(15, socket.MSG_PEEK) == b"HTTP/1.1 200 OK"
        async with listening(process.url) as stream:
            await stream.block()
            await note(plain_writer, EventKind.IMAGE, *range(1, count + 1))
            told = await stream.blocks(count)
        assert [one.data["id"] for one in told] == list(range(1, count + 1))
        received = bytearray()
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += await asyncio.to_thread(slow.recv, 1 << 20)
            assert len(received) < 40 * count, "it is told all"
    ids = [line for line in received.splitlines() if line.startswith(b"id: ")]
    assert 1000 < len(ids) < count / 2, "it was told some, and then that this is the end"
    async with listening(process.url, ids[-1][4:].decode()) as stream:
        await stream.block()
        [following] = await stream.blocks(1)
    # The first id is that of the start.
    assert following.data["id"] == len(ids)


async def test_head_is_answered_and_over(launch: Launch, plain_settings: ReceiverSettings) -> None:
    process = launch(plain_settings)
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=process.url, limits=limits, trust_env=False) as client:
        for _ in range(2):
            head = await client.head("/events")
            assert head.status_code == 200
            assert head.headers["content-type"] == "text/event-stream; charset=utf-8"

        async def none() -> bool:
            return "facestack_listeners 0.0" in (await process.get("/metrics")).text

        await eventually(none)


async def test_without_a_database_there_is_no_stream(
    start: Start, plain_settings: ReceiverSettings
) -> None:
    url = f"mysql+asyncmy://root@127.0.0.1:{free_port()}/none"
    client = start(plain_settings.model_copy(update={"database_url": url})).client
    answer = await client.get("/events")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "database is not available, try again"


class FakeEvents:
    """The port ``Events`` with a change whenever it is told so."""

    def __init__(self) -> None:
        self.asked = 0
        self.up = True
        self.forgotten = False
        self.new: list[int] = []

    async def latest(self) -> Position:
        return Position(0, 1)

    async def lost(self, position: Position) -> bool:
        return self.forgotten

    async def after(self, position: Position) -> Changes:
        self.asked += 1
        if not self.up:
            raise DatabaseUnavailableError("gone")
        found = []
        for one in self.new:
            position = position.past(one)
            found.append(Change(position, EventKind.IMAGE, one, "processed", None))
        self.new.clear()
        return Changes(found, position, more=False)


def written(changes: Any) -> bytes:
    return b" ".join(str(one.id).encode() for one in changes)


async def test_nobody_asks_the_database_while_nobody_listens() -> None:
    fake = FakeEvents()
    following = Following(fake, written, max_listeners=2)
    async with following.listen() as one, following.listen() as other:
        fake.new = [1, 2]
        assert await one.next() == await other.next() == b"1 2"
        asked = fake.asked
        await eventually(lambda: fake.asked > asked)
    await eventually(lambda: following._reader is None)
    asked = fake.asked
    fake.new = [3]
    async with following.listen() as one:
        assert await one.next() == b"3"
    await following.close()
    assert fake.asked > asked


async def test_an_outage_is_said_once_and_ends_no_stream() -> None:
    fake = FakeEvents()
    following = Following(fake, written, max_listeners=2)
    with structlog.testing.capture_logs() as logs:
        async with following.listen() as listener:
            fake.up = False
            asked = fake.asked
            await eventually(lambda: fake.asked > asked + 2)
            fake.up = True
            fake.new = [1]
            assert await listener.next() == b"1"
    await following.close()
    assert [one["event"] for one in logs] == ["database is away", "database is back"]


async def test_after_an_outage_for_so_long_that_changes_are_forgotten_streams_end() -> None:
    fake = FakeEvents()
    following = Following(fake, written, max_listeners=2)
    async with following.listen() as listener:
        fake.up = False
        asked = fake.asked
        await eventually(lambda: fake.asked > asked)
        fake.new, fake.forgotten, fake.up = [1], True, True
        assert await listener.next() is None
    await following.close()


async def test_silence_is_broken_by_a_comment_with_the_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routes, "_QUIET_SECONDS", 0.01)
    following = Following(FakeEvents(), routes.write, max_listeners=2)
    lifecycle = Lifecycle({}, drain_seconds=0)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await eventually(lambda: len(sent) > 3)
        return {"type": "http.disconnect"}

    stream = routes.EventStream(following, lifecycle, None)
    await stream({"type": "http"}, receive, send)
    await following.close()
    assert sent[2]["body"] == b": \nid: 0.1\n\n"
    assert sent[-1] == {"type": "http.response.body", "body": b""}


async def test_changes_of_a_newer_version_are_passed_on(database: Database) -> None:
    port = DatabaseEvents(database)
    start = await port.latest()
    async with database.transaction() as connection:
        row = {"kind": "group", "subject_id": 3, "created_at": 1}
        await connection.execute(sa.insert(events).values(row))
    changes = await port.after(start)
    assert b'event: group\ndata: {"id":3}\n' in routes.write(changes.changes)
