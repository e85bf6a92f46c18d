"""One contract for the queue port: NSQ, polled rows, and the fake that other tests use."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from services.common.availability import AvailabilityLog
from services.common.errors import DatabaseUnavailableError
from services.common.nsqd import NsqDoorbell
from services.image_processor.adapters.nsq_queue import NsqQueue
from services.image_processor.adapters.row_poller import RowPoller
from services.image_processor.ports import Queue, Ring
from services.image_processor.tests.fakes import Backlog, MemoryQueue
from services.testing.servers import Nsqd, Nsqlookupd
from services.testing.waiting import eventually


class Broker:
    """Where rings are put and wait; a queue hands them out. This one is that of the fake queue."""

    def __init__(self) -> None:
        self._backlog = Backlog()

    def queue(self) -> Queue:
        return MemoryQueue(self._backlog)

    async def ring(self, image_id: int) -> None:
        MemoryQueue(self._backlog).put(image_id)

    async def waiting(self) -> int:
        return len(self._backlog)

    def finish(self, ring: Ring) -> None:
        ring.finish()

    async def close(self) -> None:
        pass


class RowsBroker(Broker):
    """Rows that are pending; finishing takes a row out, as its claim would."""

    def __init__(self) -> None:
        self._pending: list[int] = []

    def queue(self) -> Queue:
        return RowPoller(self._oldest, poll_seconds=0.01, database=AvailabilityLog("database"))

    async def _oldest(self, limit: int) -> list[int]:
        return self._pending[:limit]

    async def ring(self, image_id: int) -> None:
        self._pending.append(image_id)

    async def waiting(self) -> int:
        return len(self._pending)

    def finish(self, ring: Ring) -> None:
        self._pending.remove(ring.image_id)
        ring.finish()


class NsqBroker(Broker):
    def __init__(self, nsqd: Nsqd, nsqlookupd: Nsqlookupd) -> None:
        self._doorbell = NsqDoorbell(nsqd.http_url)
        self._nsqlookupd = nsqlookupd

    def queue(self) -> Queue:
        return NsqQueue([self._nsqlookupd.http_url], max_in_flight=4)

    async def ring(self, image_id: int) -> None:
        await self._doorbell.ring([image_id])

    async def waiting(self) -> int:
        return await self._doorbell.depth()

    async def close(self) -> None:
        await self._doorbell.close()


@pytest.fixture(params=["memory", "rows", "nsq"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    match request.param:
        case "memory":
            made = Broker()
        case "rows":
            made = RowsBroker()
        case _:
            made = NsqBroker(*map(request.getfixturevalue, ("nsqd", "nsqlookupd")))
    yield made
    await made.close()


@pytest.fixture
async def queue(broker: Broker) -> AsyncIterator[Queue]:
    made = broker.queue()
    yield made
    await made.close()


async def _take(queue: Queue) -> Ring:
    ring = await asyncio.wait_for(queue.take(), 15)
    assert ring is not None
    return ring


async def test_every_ring_is_handed_out_once(broker: Broker, queue: Queue) -> None:
    for image_id in range(1, 21):
        await broker.ring(image_id)
    seen = []
    for _ in range(20):
        ring = await _take(queue)
        ring.touch()
        seen.append(ring.image_id)
        broker.finish(ring)
    assert sorted(seen) == list(range(1, 21))
    assert await broker.waiting() == 0


async def test_a_requeued_ring_comes_again_and_does_not_hold_up_the_others(
    broker: Broker, queue: Queue
) -> None:
    await broker.ring(1)
    first = await _take(queue)
    assert first.image_id == 1
    first.requeue(0.5)
    seen = []
    for image_id in range(2, 12):
        await broker.ring(image_id)
    for _ in range(10):
        ring = await _take(queue)
        seen.append(ring.image_id)
        broker.finish(ring)
    assert sorted(seen) == list(range(2, 12))
    again = await _take(queue)
    assert again.image_id == 1
    broker.finish(again)


async def test_a_ring_may_be_requeued_any_number_of_times(broker: Broker, queue: Queue) -> None:
    await broker.ring(1)
    for _ in range(12):
        ring = await _take(queue)
        assert ring.image_id == 1
        ring.requeue(0)
    broker.finish(await _take(queue))


async def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(
    broker: Broker, queue: Queue
) -> None:
    await broker.ring(1)
    broker.finish(await _take(queue))
    queue.pause()
    taking = asyncio.create_task(queue.take())
    await broker.ring(2)

    async def waits() -> bool:
        return bool(await broker.waiting() == 1)

    await eventually(waits)
    assert not taking.done()
    queue.resume()
    ring = await asyncio.wait_for(taking, 15)
    assert ring is not None
    assert ring.image_id == 2
    broker.finish(ring)


async def test_resuming_with_a_ring_in_hand(broker: Broker, queue: Queue) -> None:
    await broker.ring(1)
    held = await _take(queue)
    queue.pause()
    queue.resume()
    await broker.ring(2)
    ring = await _take(queue)
    assert ring.image_id == 2
    broker.finish(ring)
    broker.finish(held)


async def test_a_stopped_queue_ends_waiting_and_takes_answers(broker: Broker, queue: Queue) -> None:
    await broker.ring(1)
    held = await _take(queue)
    taking = [asyncio.create_task(queue.take()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.stop()
    assert await asyncio.wait_for(asyncio.gather(*taking), 15) == [None] * 3
    queue.resume()
    assert await queue.take() is None
    broker.finish(held)
    await queue.close()
    assert await broker.waiting() == 0


async def test_what_was_not_answered_is_offered_to_somebody_else(
    broker: Broker, queue: Queue
) -> None:
    await broker.ring(1)
    assert (await _take(queue)).image_id == 1
    await queue.close()
    other = broker.queue()
    ring = await _take(other)
    assert ring.image_id == 1
    broker.finish(ring)
    await other.close()


async def test_rows_that_cannot_be_read_are_said_and_asked_for_again() -> None:
    answers: list[Any] = [
        DatabaseUnavailableError("it is full"),
        ValueError("a fault of ours"),
        [7],
    ]

    async def pending(_: int) -> list[int]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    queue = RowPoller(pending, poll_seconds=0.01, database=AvailabilityLog("database"))
    with structlog.testing.capture_logs() as logs:
        ring = await queue.take()
    assert ring is not None
    assert ring.image_id == 7
    assert [(entry["event"], entry.get("error"), entry.get("exc_info")) for entry in logs] == [
        ("database is away", "it is full", None),
        ("the rows could not be read", None, True),
        ("database is back", None, None),
    ]
