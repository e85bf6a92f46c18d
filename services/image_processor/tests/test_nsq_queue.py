"""What is particular to NSQ, on real servers."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import nsq
import pytest
import structlog

from services.common.nsqd import NsqDoorbell
from services.common.settings import CHANNEL, TOPIC
from services.image_processor.adapters import nsq_queue
from services.image_processor.adapters.nsq_queue import NsqQueue, NsqRing, check_pynsq
from services.local.processes import free_port
from services.testing.servers import Nsqd, Nsqlookupd
from services.testing.waiting import eventually

Connect = Callable[..., NsqQueue]


@pytest.fixture
async def connect(nsqlookupd: Nsqlookupd) -> AsyncIterator[Connect]:
    queues = []

    def make(**arguments: Any) -> NsqQueue:
        queues.append(NsqQueue([nsqlookupd.http_url], max_in_flight=4, **arguments))
        return queues[-1]

    yield make
    for queue in queues:
        await queue.close()


@pytest.fixture
async def doorbell(nsqd: Nsqd) -> AsyncIterator[NsqDoorbell]:
    bell = NsqDoorbell(nsqd.http_url)
    yield bell
    await bell.close()


async def _channel(nsqd: Nsqd) -> dict[str, Any]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{nsqd.http_url}/stats?format=json&topic={TOPIC}")
    for topic in answer.json()["topics"] or []:
        for channel in topic["channels"]:
            if channel["channel_name"] == CHANNEL:
                return dict(channel)
    return {}


def _ready(nsqd: Nsqd, count: int) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        channel = await _channel(nsqd)
        counts = [client["ready_count"] for client in channel.get("clients") or []]
        assert counts == [count]
        return True

    return ready


async def _take(queue: NsqQueue) -> NsqRing:
    ring = await asyncio.wait_for(queue.take(), 15)
    assert ring is not None
    return ring


@pytest.mark.parametrize(
    ("found", "reader", "reason"),
    [
        ("0.9.2", nsq.Reader, r"pynsq 0\.9\.1, and this is 0\.9\.2: "),
        ("0.9.1", nsq.Writer, r"0\.9\.1 without .*_send_rdy"),
    ],
)
def test_another_pynsq_than_the_one_that_is_patched_is_refused(
    found: str, reader: type, reason: str
) -> None:
    check_pynsq("0.9.1", nsq.Reader)
    with pytest.raises(ImportError, match=reason):
        check_pynsq(found, reader)


async def test_it_subscribes_before_the_first_ring(nsqd: Nsqd, connect: Connect) -> None:
    connect()
    await eventually(_ready(nsqd, 1))


async def test_pausing_sets_ready_to_zero(
    nsqd: Nsqd, connect: Connect, doorbell: NsqDoorbell
) -> None:
    queue = connect()
    await doorbell.ring([1])
    (await _take(queue)).finish()
    queue.pause()
    await eventually(_ready(nsqd, 0))
    queue.resume()
    await eventually(_ready(nsqd, 4))


async def test_more_are_asked_for_when_more_are_wanted(nsqd: Nsqd, connect: Connect) -> None:
    queue = connect()
    await eventually(_ready(nsqd, 1))
    queue.resize(12)
    await eventually(_ready(nsqd, 12))
    queue.pause()
    queue.resize(3)
    await eventually(_ready(nsqd, 0))
    queue.resume()
    await eventually(_ready(nsqd, 3))


async def test_pausing_gives_back_what_nobody_took(
    nsqd: Nsqd, connect: Connect, doorbell: NsqDoorbell
) -> None:
    queue = connect()
    await doorbell.ring(range(1, 9))
    held = await _take(queue)

    async def in_flight(count: int) -> bool:
        return bool((await _channel(nsqd))["in_flight_count"] == count)

    await eventually(lambda: in_flight(4))
    queue.pause()
    await eventually(lambda: in_flight(1))
    held.finish()
    queue.resume()
    seen = []
    for _ in range(7):
        ring = await _take(queue)
        seen.append(ring.image_id)
        ring.finish()
    assert sorted([*seen, held.image_id]) == list(range(1, 9))


async def test_touch_keeps_a_message_longer_than_its_timeout(
    nsqd: Nsqd, connect: Connect, doorbell: NsqDoorbell
) -> None:
    queue = connect(message_timeout=1)
    # Without a touch nsqd offers it again. (It begins to look for such messages after 5 s.)
    await doorbell.ring([1])
    forgotten = await _take(queue)
    again = await _take(queue)
    assert (forgotten.image_id, again.image_id) == (1, 1)
    assert (await _channel(nsqd))["timeout_count"] == 1
    again.finish()

    await doorbell.ring([2])
    ring = await _take(queue)
    end = time.monotonic() + 3

    async def touched_for_long_enough() -> bool:
        ring.touch()
        return time.monotonic() > end

    await eventually(touched_for_long_enough)
    channel = await _channel(nsqd)
    assert (channel["timeout_count"], channel["in_flight_count"]) == (1, 1)
    ring.finish()


async def test_what_nsqd_refuses_is_logged(nsqd: Nsqd, connect: Connect) -> None:
    with structlog.testing.capture_logs() as logs:
        connect(message_timeout=0.5)
        await eventually(lambda: logs)
    assert "msg timeout (500) is invalid" in logs[0]["error"]


async def test_draining_leaves_nothing_in_flight(
    nsqd: Nsqd, connect: Connect, doorbell: NsqDoorbell
) -> None:
    queue = connect()
    await doorbell.ring(range(1, 21))
    held = [await _take(queue) for _ in range(4)]
    queue.stop()
    await eventually(_ready(nsqd, 0))
    for ring in held:
        ring.finish()
    await queue.close()

    async def gone() -> bool:
        channel = await _channel(nsqd)
        assert channel["clients"] in ([], None)
        assert channel["in_flight_count"] == 0
        return True

    await eventually(gone)
    channel = await _channel(nsqd)
    assert (channel["depth"], channel["deferred_count"]) == (16, 0)


@pytest.mark.parametrize("body", [b"garbage", b'{"id": "1"}', b'{"id": -1}', b"\xff\x00"])
async def test_a_message_that_is_no_ring_is_finished_and_logged(
    nsqd: Nsqd, connect: Connect, doorbell: NsqDoorbell, body: bytes
) -> None:
    queue = connect()
    with structlog.testing.capture_logs() as logs:
        async with httpx.AsyncClient() as client:
            await client.post(f"{nsqd.http_url}/pub?topic={TOPIC}", content=body)
        await doorbell.ring([1])
        (await _take(queue)).finish()
        await eventually(lambda: "a message that is no ring was dropped" in str(logs))

    async def empty() -> bool:
        channel = await _channel(nsqd)
        assert (channel["depth"], channel["in_flight_count"], channel["requeue_count"]) == (0, 0, 0)
        return True

    await eventually(empty)


async def test_nsqd_killed_and_restarted_is_found_again_within_seconds(
    nsqd: Nsqd, connect: Connect, doorbell: NsqDoorbell
) -> None:
    queue = connect()
    await doorbell.ring([1])
    held = await _take(queue)
    for round_ in range(2):
        with structlog.testing.capture_logs() as logs:
            nsqd.kill()
            held.touch()
            held.finish()  # nobody is there to hear it, and nothing breaks
            await eventually(lambda: any(entry["event"] == "lost nsqd" for entry in logs))
            nsqd.start()
            await doorbell.ring([10 + round_])
            held = await _take(queue)
        assert held.image_id == 10 + round_
    held.finish()


async def test_a_clock_that_is_set_back_stops_no_timer(
    nsqd: Nsqd, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nsq_queue, "_HEARTBEAT_SECONDS", 1)
    looked_up = 0
    look_up = nsq_queue._Reader._look_up

    async def counted(self: Any) -> None:
        nonlocal looked_up
        looked_up += 1
        await look_up(self)

    monkeypatch.setattr(nsq_queue._Reader, "_look_up", counted)
    connect()
    await eventually(_ready(nsqd, 1))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    before = looked_up
    await eventually(lambda: looked_up >= before + 2)  # one was on its way
    with structlog.testing.capture_logs() as logs:
        nsqd.send(signal.SIGSTOP)  # silent, as after a loss of power
        await eventually(lambda: "lost nsqd" in str(logs))
    nsqd.send(signal.SIGCONT)
    await eventually(_ready(nsqd, 1))


async def test_lookupd_absent_at_start_and_there_later(tmp_path: Path) -> None:
    lookupd = Nsqlookupd(tmp_path)
    with structlog.testing.capture_logs() as logs:
        queue = NsqQueue([lookupd.http_url], max_in_flight=2)
        taking = asyncio.create_task(queue.take())
        await eventually(lambda: logs)
        assert not taking.done()
        lookupd.start()
        nsqd = Nsqd(tmp_path, lookupd).start()
        doorbell = NsqDoorbell(nsqd.http_url)
        await doorbell.ring([7])
        ring = await asyncio.wait_for(taking, 15)
    assert ring is not None
    assert ring.image_id == 7
    ring.finish()
    assert [entry["event"] for entry in logs if "nsqlookupd" in entry["event"]] == [
        f"nsqlookupd at {lookupd.http_url} is away",
        f"nsqlookupd at {lookupd.http_url} is back",
    ]
    await queue.close()
    await doorbell.close()
    nsqd.stop()
    lookupd.stop()


async def test_one_of_two_lookupds_is_enough(nsqlookupd: Nsqlookupd, nsqd: Nsqd) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with structlog.testing.capture_logs() as logs:
        queue = NsqQueue([dead, nsqlookupd.http_url], max_in_flight=4)
        await eventually(_ready(nsqd, 1))
        await eventually(lambda: dead in str(logs))
    assert [entry["event"] for entry in logs if "nsqlookupd" in entry["event"]] == [
        f"nsqlookupd at {dead} is away"
    ]
    await queue.close()


async def test_a_connection_outlives_its_lookupd(
    nsqlookupd: Nsqlookupd, nsqd: Nsqd, connect: Connect, doorbell: NsqDoorbell
) -> None:
    queue = connect()
    await doorbell.ring([1])
    (await _take(queue)).finish()
    nsqlookupd.kill()
    await doorbell.ring([2])
    (await _take(queue)).finish()


async def test_several_nsqd_are_all_heard(
    tmp_path: Path, nsqlookupd: Nsqlookupd, nsqd: Nsqd, connect: Connect
) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    second = Nsqd(folder, nsqlookupd).start()
    queue = connect()
    for number, server in enumerate((nsqd, second, nsqd, second), 1):
        bell = NsqDoorbell(server.http_url)
        await bell.ring([number])
        await bell.close()
        ring = await _take(queue)
        assert ring.image_id == number
        ring.finish()
    queue.pause()
    queue.resume()
    await queue.close()
    second.stop()


async def test_closing_at_once_after_the_start(connect: Connect) -> None:
    await connect().close()
