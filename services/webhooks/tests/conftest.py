import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from services.common.clock import DatabaseClock
from services.common.database import Database
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.tables import images, webhook_deliveries
from services.common.webhooks import WebhookType
from services.testing.waiting import eventually
from services.webhooks.adapters.rows import DatabaseWebhookDeliveries
from services.webhooks.adapters.sender import HttpSender
from services.webhooks.domain import Endpoint
from services.webhooks.ports import Sender, WebhookDeliveries
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

    @property
    def subjects(self) -> list[int]:
        """Of which images or people it was told, as often as it was."""
        return [document["data"]["id"] for document in self.documents]


@asynccontextmanager
async def serving(*types: WebhookType) -> AsyncIterator[tuple[Hook, Endpoint]]:
    """Serve an endpoint that wants these types, or all."""
    hook = Hook()
    server = await asyncio.start_server(hook.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield hook, Endpoint(f"http://127.0.0.1:{port}/hook", KEY, frozenset(types or WebhookType))
    finally:
        server.close()
        for task in hook.serving:
            task.cancel()
        await eventually(lambda: not hook.serving)


class Deliveries:
    """What is delivered to ``endpoints``: a test says what has changed, and moves the time."""

    def __init__(self, database: Database, clock: DatabaseClock | None = None) -> None:
        self.database = database
        self.now = 100 * 24 * 3_600_000
        self.clock = clock or self._now
        self.endpoints: Sequence[Endpoint] = []
        self.rows = DatabaseWebhookDeliveries(database, self.clock, kept_ms=KEPT_MS)
        self.sender = HttpSender(seconds=5, at_once=AT_ONCE)

    def _now(self) -> sa.ColumnElement[int]:
        return sa.literal(self.now, sa.BigInteger())

    def worker(
        self, rows: WebhookDeliveries | None = None, sender: Sender | None = None
    ) -> Webhooks:
        return Webhooks(
            deliveries=rows or self.rows,
            sender=sender or self.sender,
            endpoints=lambda: self.endpoints,
            at_once=AT_ONCE,
        )

    async def image(self, image_id: int, status: str = "processed") -> None:
        """Store an image that has just reached this status."""
        row = {"path": f"{image_id}.jpg", "name": f"{image_id}.jpg", "attempt": 1}
        times = {"created_at": 1, "updated_at": 1}
        async with self.database.transaction() as connection:
            await connection.execute(
                sa.insert(images).values(id=image_id, status=status, **row, **times)
            )
            await note_events(connection, self.clock(), EventKind.IMAGE, [image_id])

    async def note(self, kind: EventKind, *subjects: int) -> None:
        """Note that these have changed."""
        async with self.database.transaction() as connection:
            await note_events(connection, self.clock(), kind, subjects)

    async def stored(self) -> Sequence[Any]:
        """Return the rows."""
        query = sa.select(webhook_deliveries).order_by(webhook_deliveries.c.id)
        async with self.database.reading() as connection:
            return (await connection.execute(query)).all()

    async def run(self, worker: Webhooks | None = None) -> None:
        """Make and deliver once all that is due."""
        worker = worker or self.worker()
        await worker.make()
        await worker.deliver()
        while tasks := running_tasks(worker):
            await asyncio.gather(*tasks)

    async def close(self) -> None:
        await self.sender.close()


def running_tasks(worker: Webhooks) -> list[asyncio.Task[None]]:
    """Return what a worker has begun and not ended."""
    return [task for tasks in worker._running.values() for task in tasks]


@pytest.fixture
async def deliveries(database: Database) -> AsyncIterator[Deliveries]:
    made = Deliveries(database)
    await made.rows.make([])  # nobody is told of what was before
    yield made
    await made.close()
