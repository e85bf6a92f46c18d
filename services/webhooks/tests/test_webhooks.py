import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from standardwebhooks import Webhook

from services.common.clock import database_now
from services.common.database import Database
from services.common.event_rows import note_events
from services.common.events import EventKind, Position
from services.common.settings import DatabaseSettings
from services.common.tables import (
    erasures,
    events,
    faces,
    images,
    persons,
    webhook_deliveries,
    webhook_positions,
)
from services.common.webhooks import WebhookType
from services.testing.processes import running
from services.testing.waiting import eventually
from services.webhooks.adapters.endpoints import EndpointsError, EndpointsFile, read_endpoints
from services.webhooks.adapters.rows import DatabaseRows
from services.webhooks.adapters.sender import HttpSender
from services.webhooks.domain import LEASE_MS, PAUSES_MS, Endpoint, pause_ms
from services.webhooks.service import Webhooks

AT_ONCE = 4
KEPT_MS = 7 * 24 * 3_600_000
SECRET = "whsec_" + "QUJD" * 8
KEY = b"ABC" * 8
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
BROKEN = b"HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\ndisk full"


class Hook:
    """A real endpoint, which keeps what it got and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[], Awaitable[bytes] | bytes] = lambda: OK
        self.serving: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.serving.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = [line.split(": ", 1) for line in head.splitlines()[1:] if line]
                headers = {name.lower(): value for name, value in lines}
                self.got.append((headers, await reader.readexactly(int(headers["content-length"]))))
                answer = self.answer()
                content = answer if isinstance(answer, bytes) else await answer
                if not content:
                    return
                writer.write(content)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            self.serving.discard(task)
            writer.close()

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]


@asynccontextmanager
async def serving(*types: WebhookType) -> AsyncIterator[tuple[Hook, Endpoint]]:
    hook = Hook()
    server = await asyncio.start_server(hook.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    kinds = frozenset(types or WebhookType)
    try:
        yield hook, Endpoint(f"http://127.0.0.1:{port}/hook", KEY, kinds)
    finally:
        server.close()
        for task in hook.serving:
            task.cancel()
        await eventually(lambda: not hook.serving)


class Bench:
    """Rows whose time a test moves, and workers on them."""

    def __init__(self, database: Database, endpoints: Sequence[Endpoint]) -> None:
        self.database = database
        self.endpoints = endpoints
        self.later = 0
        self.rows = DatabaseRows(database, lambda: database_now() + self.later, kept_ms=KEPT_MS)
        self.sender = HttpSender(seconds=5, at_once=AT_ONCE)

    def worker(self, rows: Any = None, sender: Any = None) -> Webhooks:
        return Webhooks(
            rows=rows or self.rows,
            sender=sender or self.sender,
            endpoints=lambda: self.endpoints,
            at_once=AT_ONCE,
        )

    async def image(self, number: int, status: str = "processed") -> None:
        async with self.database.transaction() as connection:
            row = {"path": f"{number}.jpg", "name": f"{number}.jpg", "attempt": 1}
            times = {"created_at": 1, "updated_at": 1}
            await connection.execute(
                sa.insert(images).values(id=number, status=status, **row, **times)
            )
            await note_events(connection, database_now(), EventKind.IMAGE, [number])

    async def note(self, kind: EventKind, *subjects: int) -> None:
        async with self.database.transaction() as connection:
            await note_events(connection, database_now(), kind, subjects)

    async def deliveries(self) -> Sequence[Any]:
        query = sa.select(webhook_deliveries).order_by(webhook_deliveries.c.id)
        async with self.database.reading() as connection:
            return (await connection.execute(query)).all()

    async def run(self, worker: Webhooks | None = None) -> None:
        """Make and deliver once all that is due."""
        worker = worker or self.worker()
        await worker.make()
        await worker.deliver()
        while any(tasks := [task for one in worker._running.values() for task in one]):
            await asyncio.gather(*tasks)

    async def close(self) -> None:
        await self.sender.close()


@pytest.fixture
async def bench(database: Database) -> AsyncIterator[Bench]:
    made = Bench(database, [])
    await made.rows.make([])  # nobody is told of what was before
    yield made
    await made.close()


async def test_an_endpoint_is_told_what_it_wants_in_the_standards_words(bench: Bench) -> None:
    async with (
        serving() as (hook, endpoint),
        serving(WebhookType.IMAGE_DEAD, WebhookType.PERSON_CHANGED) as (other, some),
    ):
        bench.endpoints = [endpoint, some]
        for number, status in enumerate(("processed", "rejected", "dead", "pending"), 1):
            await bench.image(number, status)
        async with bench.database.transaction() as connection:
            await connection.execute(
                sa.insert(persons),
                [
                    {"id": 7, "name": "Zoë", "created_at": 1},
                    {"id": 9, "name": "~9", "created_at": 1},  # is being forgotten
                    {"id": 6, "name": "Zoë", "created_at": 1},  # becomes her, in parts
                ],
            )
            await connection.execute(
                sa.insert(erasures).values(
                    person_id=6,
                    name="Zoë II",
                    folders=["Zoë II"],
                    pictures=False,
                    stage="merged",
                    after_image_id=0,
                    due_at=1,
                )
            )
            box = dict.fromkeys(("left", "top", "right", "bottom"), 1)
            face = {
                "detection_score": 1.0,
                "distance": 0.3,
                "ambiguous": False,
                "candidates": [],
                **box,
            }
            await connection.execute(
                sa.insert(faces),
                [
                    {"image_id": 1, "face_index": 0, "person": "Zoë", "person_id": 7, **face},
                    {"image_id": 1, "face_index": 1, "person": None, "person_id": None, **face},
                    {"image_id": 1, "face_index": 2, "person": "Zoë", "person_id": 9, **face},
                    {"image_id": 1, "face_index": 3, "person": "Zoë II", "person_id": 6, **face},
                ],
            )
        await bench.note(EventKind.PERSON, 6, 7, 8, 9)
        await bench.note(EventKind.IMAGE, 99)
        await bench.run()
    for headers, body in hook.got:
        told = Webhook(SECRET).verify(body, headers)
        assert told["id"] == headers["webhook-id"]
        assert headers["content-type"] == "application/json"
    documents = sorted(hook.documents, key=lambda one: (one["type"], one["data"]["id"]))
    assert [(one["type"], one["data"]) for one in documents[-4:]] == [
        ("person.changed", {"id": 6, "name": None}),
        ("person.changed", {"id": 7, "name": "Zoë"}),
        ("person.changed", {"id": 8, "name": None}),
        ("person.changed", {"id": 9, "name": None}),
    ]
    assert [one["type"] for one in documents[:3]] == [
        "image.dead",
        "image.processed",
        "image.rejected",
    ]
    assert documents[1]["data"] == {
        "id": 1,
        "path": "1.jpg",
        "name": "1.jpg",
        "status": "processed",
        "error": None,
        "faces": [
            {"index": 0, "person": "Zoë", "person_id": 7},
            {"index": 1, "person": None, "person_id": None},
            {"index": 2, "person": None, "person_id": None},
            {"index": 3, "person": "Zoë", "person_id": None},
        ],
    }
    assert Counter(one["type"] for one in other.documents) == {"image.dead": 1, "person.changed": 4}
    assert len(hook.got) == 7
    assert {row.status for row in await bench.deliveries()} == {"delivered"}


async def test_what_was_not_taken_comes_again_later_and_later_with_the_same_id(
    bench: Bench,
) -> None:
    async with serving() as (hook, endpoint):
        bench.endpoints = [endpoint]
        hook.answer = lambda: BROKEN
        await bench.image(1)
        for attempt, pause in enumerate(PAUSES_MS, 1):
            await bench.run()
            assert len(hook.got) == attempt
            [row] = await bench.deliveries()
            assert (row.status, row.error) == (
                "pending",
                "answered 500 Internal Server Error",
            )
            bench.later += pause - 60_000 if pause > 60_000 else 0
            await bench.run()
            assert len(hook.got) == attempt, "not yet"
            bench.later += pause + 60_000
        hook.answer = lambda: OK
        await bench.run()
        [row] = await bench.deliveries()
        assert (row.status, row.error, row.due_at) == ("delivered", None, None)
        assert set(hook.ids) == {row.message_id}
        stamps = {headers["webhook-timestamp"] for headers, _ in hook.got}
        signatures = {headers["webhook-signature"] for headers, _ in hook.got}
        assert len(signatures) == len(stamps), "each attempt has its time"


async def test_after_all_attempts_it_has_failed_and_is_left_alone(bench: Bench) -> None:
    async with serving() as (hook, endpoint):
        bench.endpoints = [endpoint]
        hook.answer = lambda: BROKEN
        await bench.image(1)
        for _ in range(len(PAUSES_MS) + 3):
            await bench.run()
            bench.later += 2 * PAUSES_MS[-1]
        assert len(hook.got) == len(PAUSES_MS) + 1
        [row] = await bench.deliveries()
        assert (row.status, row.due_at) == ("failed", None)


def test_pauses_grow_with_jitter_and_end() -> None:
    for attempt, pause in enumerate(PAUSES_MS, 1):
        assert pause_ms(attempt, lambda: 0.0) == pause
        assert pause_ms(attempt, lambda: 1.0) == round(pause * 1.2)
    assert pause_ms(len(PAUSES_MS) + 1, lambda: 0.0) is None


HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "answered 302: redirects are not followed",
        ),
        (b"", "RemoteProtocolError: Server disconnected without sending a response."),
        (b"nonsense\r\n\r\n", "RemoteProtocolError: illegal status line"),
        (b"HTTP/1.1 299 x\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 799 x\r\nContent-Length: 0\r\n\r\n", "answered 799"),
        (HUGE, None),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxxx", None),
        (
            b"HTTP/1.1 400 x\r\nContent-Length: 100000\r\n\r\n" + b"\xff" * 100_000,
            "answered 400 Bad Request",
        ),
    ],
)
async def test_whatever_an_endpoint_answers_is_one_line(
    bench: Bench, answer: bytes, error: str | None
) -> None:
    async with serving() as (hook, endpoint):
        bench.endpoints = [endpoint]
        hook.answer = lambda: answer
        await bench.image(1)
        await bench.run()
        [row] = await bench.deliveries()
        assert row.status == ("pending" if error else "delivered")
        assert (row.error or "").startswith(error or "")
        # What it says may repeat the names that it got.
        assert "\ufffd" not in (row.error or "")
        await bench.sender.close()


async def test_an_endpoint_that_is_not_there_or_says_nothing_is_tried_again(bench: Bench) -> None:
    async with serving() as (hook, silent):
        gone = Endpoint("http://127.0.0.1:1/", KEY, frozenset(WebhookType))
        bench.endpoints = [gone, silent]
        hook.answer = asyncio.Event().wait  # type: ignore[assignment]
        await bench.image(1)
        sender = HttpSender(seconds=0.1, at_once=AT_ONCE)
        await bench.run(bench.worker(sender=sender))
        await sender.close()
        errors = {row.endpoint: row.error for row in await bench.deliveries()}
        assert errors[silent.url] == "did not answer within 0.1 s"
        assert errors[gone.url].startswith("ConnectError: ")


async def test_an_endpoint_that_is_slow_holds_up_nobody_else(bench: Bench) -> None:
    free = asyncio.Event()

    async def wait() -> bytes:
        await free.wait()
        return OK

    async with serving() as (slow, one), serving() as (quick, other):
        slow.answer = wait
        bench.endpoints = [one, other]
        for number in range(1, 31):
            await bench.image(number)
        worker = bench.worker()
        await worker.make()
        await worker.deliver()
        await eventually(lambda: len(quick.got) == 30)
        await worker.deliver()
        assert len(slow.got) == AT_ONCE
        free.set()
        await eventually(lambda: len(slow.got) == 30)
        await worker.finish()
        assert len(set(slow.ids)) == 30


async def test_two_workers_tell_everything_once(
    bench: Bench, database_settings: DatabaseSettings
) -> None:
    second = Database(database_settings)
    other_bench = Bench(second, [])
    async with serving() as (hook, endpoint), serving() as (more, another):
        bench.endpoints = other_bench.endpoints = [endpoint, another]
        workers = [bench.worker(), other_bench.worker()]
        for number in range(1, 41):
            await bench.image(number)
            if number % 10 == 0:
                await asyncio.gather(*(worker.make() for worker in workers))
                await asyncio.gather(*(worker.deliver() for worker in workers))
        await eventually(lambda: len(hook.got) == len(more.got) == 40)
        await asyncio.gather(*(worker.finish() for worker in workers))
        await other_bench.run()
        for one in (hook, more):
            assert sorted(told["data"]["id"] for told in one.documents) == list(range(1, 41))
        assert len({*hook.ids, *more.ids}) == 80
    await other_bench.close()
    await second.close()


class KilledError(BaseException):
    """The process ends here and now."""


class Fragile:
    """Calls what it wraps, and is killed before or after some call."""

    def __init__(self, inner: Any, chance: random.Random) -> None:
        self._inner = inner
        self._chance = chance

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any) -> Any:
            if self._chance.random() < 0.03:
                raise KilledError
            answer = await getattr(self._inner, name)(*arguments)
            if self._chance.random() < 0.03:
                raise KilledError
            return answer

        return call


def _but_of_the_killed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Nobody waits for what a process did when it was killed.
    if not isinstance(context.get("exception"), KilledError):
        loop.default_exception_handler(context)


async def lived(worker: Webhooks) -> bool:
    """Let a worker make and deliver once; when it is killed anywhere, all that it does ends."""
    try:
        await worker.make()
        await worker.deliver()
        while tasks := [task for one in worker._running.values() for task in one]:
            await asyncio.gather(*tasks)
    except KilledError:
        tasks = [task for one in worker._running.values() for task in one]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return False
    return True


@pytest.mark.parametrize("seed", range(6))
async def test_workers_that_are_killed_anywhere_leave_nothing_untold(
    bench: Bench, seed: int
) -> None:
    chance = random.Random(seed)
    asyncio.get_running_loop().set_exception_handler(_but_of_the_killed)
    async with serving() as (hook, endpoint), serving() as (more, another):
        bench.endpoints = [endpoint, another]
        hook.answer = lambda: OK if chance.random() < 0.9 else BROKEN
        kills = number = 0
        for turn in range(60):
            if turn < 20:
                number += 1
                await bench.image(number)
            fragile = turn < 45
            rows, sender = (
                (Fragile(one, chance) if fragile else one) for one in (bench.rows, bench.sender)
            )
            worker = bench.worker(rows, sender)
            kills += not await lived(worker)
            bench.later += LEASE_MS + PAUSES_MS[2]
        bench.later += 10 * PAUSES_MS[-1]
        hook.answer = lambda: OK
        await bench.run()
        assert kills > 5
        rows_left = await bench.deliveries()
        assert {row.status for row in rows_left} == {"delivered"}
        for one in (hook, more):
            told: dict[int, set[str]] = {}
            for document in one.documents:
                told.setdefault(document["data"]["id"], set()).add(document["id"])
            assert sorted(told) == list(range(1, number + 1))
            assert all(len(ids) == 1 for ids in told.values()), "one id each, however often"


async def test_whoever_was_away_goes_on_where_it_was(bench: Bench) -> None:
    async with serving() as (hook, endpoint):
        bench.endpoints = [endpoint]
        await bench.image(1)
        await bench.run()
        await bench.image(2)
        await bench.image(3)
        await bench.run(bench.worker())
        assert sorted(one["data"]["id"] for one in hook.documents) == [1, 2, 3]
        async with bench.database.transaction() as connection:
            position = await connection.scalar(sa.select(webhook_positions.c.position))
            assert position
            old = Position.parse(position)
            assert old
            late = str(Position(old.last, old.at - 3_600_000))
            await connection.execute(sa.update(webhook_positions).values(position=late))
            await connection.execute(sa.delete(events))
        await bench.run()
        await bench.image(4)
        await bench.run()
        assert hook.documents[-1]["data"]["id"] == 4, "too late for some, but it goes on"


async def test_old_deliveries_are_removed_however_they_ended(bench: Bench) -> None:
    async with serving() as (_, endpoint):
        bench.endpoints = [endpoint]
        await bench.image(1)
        await bench.run()
        await bench.worker().remove_old()
        assert len(await bench.deliveries()) == 1
        bench.later += KEPT_MS + 60_000
        await bench.image(2)
        await bench.rows.make(bench.endpoints)
        await bench.worker().remove_old()
        assert [row.subject_id for row in await bench.deliveries()] != [1]


def entry(**more: Any) -> Mapping[str, Any]:
    return {"url": "https://example.org/hook", "secret": SECRET, **more}


def test_an_operator_says_who_is_told(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.json"
    assert read_endpoints(file) == ()
    more = entry(url="http://n8n.tools:5678/hook", allow_http=True, events=["image.dead"])
    file.write_text(json.dumps([entry(), more]))
    assert read_endpoints(file) == (
        Endpoint("https://example.org/hook", KEY, frozenset(WebhookType)),
        Endpoint("http://n8n.tools:5678/hook", KEY, frozenset({WebhookType.IMAGE_DEAD})),
    )
    assert "ABC" not in repr(read_endpoints(file))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("nonsense", "Invalid JSON"),
        ("{}", "valid array"),
        ([{"url": "https://a.b/"}], "0.secret: Field required"),
        ([entry(url="http://a.b/")], "url must begin with https"),
        ([entry(url="https://user@a.b/")], "may have no user"),
        ([entry(url="https:///x")], "needs a host"),
        ([entry(url="ftp://a.b")], "0.url: "),
        ([entry(url="https://a.b/ x")], "0.url: "),
        ([entry(secret="whsec_c2hvcnQ=")], "secret must be whsec_ and 24 to 64 random bytes"),
        ([entry(secret="QUJD" * 8)], "secret must be whsec_"),
        ([entry(secret="whsec_" + "%" * 40)], "secret must be whsec_"),
        ([entry(events=["image.seen"])], "0.events"),
        ([entry(events=[])], "0.events"),
        ([entry(retries=3)], "0.retries: Extra inputs"),
        ([entry(), entry()], "it names https://example.org/hook twice"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_without_a_secret(
    content: Any, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "webhooks.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(EndpointsError) as caught:
        read_endpoints(file)
    assert reason in str(caught.value)
    assert "QUJD" not in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value)


async def test_the_file_may_change_and_is_kept_while_it_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.json"
    endpoints = EndpointsFile(file)
    assert endpoints() == ()
    file.write_text(json.dumps([entry()]))
    await endpoints.look()
    assert len(endpoints()) == 1
    file.write_text("[{")
    await endpoints.look()
    assert len(endpoints()) == 1
    file.write_text("[]")
    await endpoints.look()
    assert endpoints() == ()


async def test_a_process_tells_and_ends_in_peace(
    database: Database, database_settings: DatabaseSettings, tmp_path: Path
) -> None:
    bench = Bench(database, [])
    async with serving() as (hook, endpoint):
        file = tmp_path / "webhooks.json"
        file.write_text(json.dumps([entry(url=endpoint.url, allow_http=True)]))
        settings = {"DATABASE_URL": database_settings.database_url, "WEBHOOKS_FILE": str(file)}
        async with running("services.webhooks", **settings) as process:

            async def begun() -> bool:
                async with database.reading() as connection:
                    return bool(await connection.scalar(sa.select(webhook_positions.c.position)))

            await eventually(begun)
            await bench.image(1)
            await eventually(lambda: len(hook.got) == 1)

            async def counted() -> bool:
                name = 'facestack_webhook_attempts_total{result="delivered"} 1.0'
                return name in (await process.get("/metrics")).text

            await eventually(counted)
            process.terminate()
            code, output = await process.ended()
        assert code == 0
        assert "Traceback" not in output
        assert "ABC" not in output
    await bench.close()
