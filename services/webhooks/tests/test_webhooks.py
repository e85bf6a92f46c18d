import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from standardwebhooks import Webhook

from services.common.clock import database_now
from services.common.database import Database
from services.common.events import EventKind, Position
from services.common.settings import DatabaseSettings
from services.common.tables import erasures, events, faces, persons, webhook_positions
from services.common.webhooks import WebhookType
from services.testing.processes import running
from services.testing.waiting import eventually
from services.webhooks.adapters.sender import HttpSender
from services.webhooks.domain import LEASE_MS, PAUSES_MS, Endpoint, pause_ms
from services.webhooks.tests.conftest import (
    AT_ONCE,
    BROKEN,
    KEPT_MS,
    KEY,
    OK,
    SECRET,
    Deliveries,
    running_tasks,
    serving,
)


async def test_an_endpoint_is_told_what_it_wants_in_the_standards_words(
    deliveries: Deliveries,
) -> None:
    async with (
        serving() as (hook, endpoint),
        serving(WebhookType.IMAGE_DEAD, WebhookType.PERSON_CHANGED) as (other, some),
    ):
        deliveries.endpoints = [endpoint, some]
        for number, status in enumerate(("processed", "rejected", "dead", "pending"), 1):
            await deliveries.image(number, status)
        async with deliveries.database.transaction() as connection:
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
        await deliveries.note(EventKind.PERSON, 6, 7, 8, 9)
        await deliveries.note(EventKind.IMAGE, 99)
        await deliveries.run()
    for headers, body in hook.got:
        told = Webhook(SECRET).verify(body, headers)
        assert told["id"] == headers["webhook-id"]
        assert headers["content-type"] == "application/json"
    documents = sorted(hook.documents, key=lambda told: (told["type"], told["data"]["id"]))
    assert [(told["type"], told["data"]) for told in documents[-4:]] == [
        ("person.changed", {"id": 6, "name": None}),
        ("person.changed", {"id": 7, "name": "Zoë"}),
        ("person.changed", {"id": 8, "name": None}),
        ("person.changed", {"id": 9, "name": None}),
    ]
    assert [told["type"] for told in documents[:3]] == [
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
    assert Counter(told["type"] for told in other.documents) == {
        "image.dead": 1,
        "person.changed": 4,
    }
    assert len(hook.got) == 7
    assert {row.status for row in await deliveries.stored()} == {"delivered"}


async def test_what_was_not_taken_comes_again_later_and_later_with_the_same_id(
    deliveries: Deliveries,
) -> None:
    async with serving() as (hook, endpoint):
        deliveries.endpoints = [endpoint]
        hook.answer = lambda: BROKEN
        await deliveries.image(1)
        for attempt, pause in enumerate(PAUSES_MS, 1):
            await deliveries.run()
            assert len(hook.got) == attempt
            [row] = await deliveries.stored()
            assert (row.status, row.error) == (
                "pending",
                "answered 500 Internal Server Error",
            )
            deliveries.now += pause - 60_000 if pause > 60_000 else 0
            await deliveries.run()
            assert len(hook.got) == attempt, "not yet"
            deliveries.now += pause + 60_000
        hook.answer = lambda: OK
        await deliveries.run()
        [row] = await deliveries.stored()
        assert (row.status, row.error, row.due_at) == ("delivered", None, None)
        assert set(hook.ids) == {row.message_id}
        stamps = {headers["webhook-timestamp"] for headers, _ in hook.got}
        signatures = {headers["webhook-signature"] for headers, _ in hook.got}
        assert len(signatures) == len(stamps), "each attempt has its time"


async def test_after_all_attempts_it_has_failed_and_is_left_alone(deliveries: Deliveries) -> None:
    async with serving() as (hook, endpoint):
        deliveries.endpoints = [endpoint]
        hook.answer = lambda: BROKEN
        await deliveries.image(1)
        for _ in range(len(PAUSES_MS) + 3):
            await deliveries.run()
            deliveries.now += 2 * PAUSES_MS[-1]
        assert len(hook.got) == len(PAUSES_MS) + 1
        [row] = await deliveries.stored()
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
    deliveries: Deliveries, answer: bytes, error: str | None
) -> None:
    async with serving() as (hook, endpoint):
        deliveries.endpoints = [endpoint]
        hook.answer = lambda: answer
        await deliveries.image(1)
        await deliveries.run()
        [row] = await deliveries.stored()
        assert row.status == ("pending" if error else "delivered")
        assert (row.error or "").startswith(error or "")
        # What it says may repeat the names that it got.
        assert "\ufffd" not in (row.error or "")
        await deliveries.sender.close()


async def test_an_endpoint_that_is_not_there_is_tried_again(deliveries: Deliveries) -> None:
    deliveries.endpoints = [Endpoint("http://127.0.0.1:1/", KEY, frozenset(WebhookType))]
    await deliveries.image(1)
    await deliveries.run()
    [row] = await deliveries.stored()
    assert row.status == "pending"
    assert row.error.startswith("ConnectError: ")


async def test_an_endpoint_that_says_nothing_is_tried_again(deliveries: Deliveries) -> None:
    async with serving() as (hook, endpoint):
        deliveries.endpoints = [endpoint]
        hook.answer = asyncio.Event().wait  # type: ignore[assignment]
        await deliveries.image(1)
        impatient = HttpSender(seconds=0.1, at_once=AT_ONCE)
        await deliveries.run(deliveries.worker(sender=impatient))
        await impatient.close()
        [row] = await deliveries.stored()
        assert (row.status, row.error) == ("pending", "did not answer within 0.1 s")


async def test_an_endpoint_that_is_slow_holds_up_nobody_else(deliveries: Deliveries) -> None:
    free = asyncio.Event()

    async def wait() -> bytes:
        await free.wait()
        return OK

    async with serving() as (slow, endpoint), serving() as (quick, other):
        slow.answer = wait
        deliveries.endpoints = [endpoint, other]
        for number in range(1, 31):
            await deliveries.image(number)
        worker = deliveries.worker()
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
    deliveries: Deliveries, database_settings: DatabaseSettings
) -> None:
    second = Database(database_settings)
    others = Deliveries(second)
    async with serving() as (hook, endpoint), serving() as (other_hook, other):
        deliveries.endpoints = others.endpoints = [endpoint, other]
        workers = [deliveries.worker(), others.worker()]
        for number in range(1, 41):
            await deliveries.image(number)
            if number % 10 == 0:
                await asyncio.gather(*(worker.make() for worker in workers))
                await asyncio.gather(*(worker.deliver() for worker in workers))
        await eventually(lambda: len(hook.got) == len(other_hook.got) == 40)
        await asyncio.gather(*(worker.finish() for worker in workers))
        await others.run()
        for told in (hook, other_hook):
            assert sorted(told.subjects) == list(range(1, 41))
        assert len({*hook.ids, *other_hook.ids}) == 80
    await others.close()
    await second.close()


class KilledError(BaseException):
    """The process ends here and now."""


class Process:
    """What a worker runs in: it is killed before or after the ``last`` call, counted from 0."""

    def __init__(self, last: int, *, before: bool) -> None:
        self.killed = False
        self._calls = itertools.count()
        self._last = last
        self._before = before

    def around(self, inner: Any) -> Any:
        """Return what makes the calls of ``inner`` as long as the process lives."""
        return _Calls(self, inner)

    async def call(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        is_last = next(self._calls) == self._last
        self.killed = self.killed or (is_last and self._before)
        if not self.killed:
            answer = await method(*arguments)
            self.killed = self.killed or is_last
        if self.killed:
            raise KilledError
        return answer


class _Calls:
    def __init__(self, process: Process, inner: Any) -> None:
        self._process = process
        self._inner = inner

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return partial(self._process.call, getattr(self._inner, name))


def _but_of_the_killed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Nobody waits for what a process did when it was killed.
    if not isinstance(context.get("exception"), KilledError):
        loop.default_exception_handler(context)


async def run_until_killed(deliveries: Deliveries, process: Process) -> None:
    """Let a worker make and deliver until its process ends, and all that it does with it."""
    worker = deliveries.worker(process.around(deliveries.rows), process.around(deliveries.sender))
    with suppress(KilledError):
        await deliveries.run(worker)
    tasks = running_tasks(worker)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert process.killed


CALLS = 11
"""A new image takes so many at least: to make two deliveries and take each, and then of each to
read, to send and to finish it, and to look for another."""


@pytest.mark.parametrize("seed", range(6))
async def test_workers_that_are_killed_anywhere_leave_nothing_untold(
    deliveries: Deliveries, seed: int
) -> None:
    chance, weather = random.Random(seed), random.Random(seed)
    asyncio.get_running_loop().set_exception_handler(_but_of_the_killed)
    async with serving() as (hook, endpoint), serving() as (other_hook, other):
        deliveries.endpoints = [endpoint, other]
        for image_id in range(1, 21):
            await deliveries.image(image_id)
            # Only while none can have had all its attempts: each run is one attempt at most.
            broken = 0.3 if image_id <= len(PAUSES_MS) else 0
            hook.answer = lambda: BROKEN if weather.random() < broken else OK  # noqa: B023
            process = Process(chance.randrange(CALLS), before=chance.random() < 0.5)
            await run_until_killed(deliveries, process)
            deliveries.now += LEASE_MS + PAUSES_MS[1]
        await deliveries.run()  # makes the last ones: an hour later it would be too late
        deliveries.now += 2 * PAUSES_MS[-1]
        await deliveries.run()
        assert {row.status for row in await deliveries.stored()} == {"delivered"}
        for told in (hook, other_hook):
            assert set(told.subjects) == set(range(1, 21))
            assert len(set(told.ids)) == 20, "one id each, however often"


async def test_whoever_was_away_goes_on_where_it_was(deliveries: Deliveries) -> None:
    async with serving() as (hook, endpoint):
        deliveries.endpoints = [endpoint]
        await deliveries.image(1)
        await deliveries.run()
        await deliveries.image(2)
        await deliveries.image(3)
        await deliveries.run(deliveries.worker())
        assert sorted(hook.subjects) == [1, 2, 3]
        async with deliveries.database.transaction() as connection:
            position = await connection.scalar(sa.select(webhook_positions.c.position))
            assert position
            old = Position.parse(position)
            assert old
            late = str(Position(old.last, old.at - 3_600_000))
            await connection.execute(sa.update(webhook_positions).values(position=late))
            await connection.execute(sa.delete(events))
        await deliveries.run()
        await deliveries.image(4)
        await deliveries.run()
        assert hook.subjects[-1] == 4, "too late for some, but it goes on"


async def test_old_deliveries_are_removed_however_they_ended(deliveries: Deliveries) -> None:
    async with serving() as (_, endpoint):
        deliveries.endpoints = [endpoint]
        await deliveries.image(1)
        await deliveries.run()
        await deliveries.worker().remove_old()
        assert len(await deliveries.stored()) == 1
        deliveries.now += KEPT_MS + 60_000
        await deliveries.image(2)
        await deliveries.rows.make(deliveries.endpoints)
        await deliveries.worker().remove_old()
        assert [row.subject_id for row in await deliveries.stored()] != [1]


async def test_a_process_tells_and_ends_in_peace(
    database: Database, database_settings: DatabaseSettings, tmp_path: Path
) -> None:
    deliveries = Deliveries(database, database_now)
    async with serving() as (hook, endpoint):
        file = tmp_path / "webhooks.json"
        file.write_text(json.dumps([{"url": endpoint.url, "secret": SECRET, "allow_http": True}]))
        settings = {"DATABASE_URL": database_settings.database_url, "WEBHOOKS_FILE": str(file)}
        async with running("services.webhooks", **settings) as process:

            async def begun() -> bool:
                async with database.reading() as connection:
                    return bool(await connection.scalar(sa.select(webhook_positions.c.position)))

            await eventually(begun)
            await deliveries.image(1)
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
    await deliveries.close()
