from collections.abc import AsyncIterator

import httpx
import pytest

from services.common.doorbell import PolledRows, parse_ring
from services.common.errors import DoorbellUnavailableError
from services.common.nsqd import NsqDoorbell, doorbell_for
from services.common.settings import CHANNEL, TOPIC, NsqdSettings
from services.testing.servers import Nsqd


@pytest.fixture
async def doorbell(nsqd: Nsqd) -> AsyncIterator[NsqDoorbell]:
    bell = NsqDoorbell(nsqd.http_url)
    yield bell
    await bell.close()


async def test_depth_counts_rings_that_nobody_was_given(nsqd: Nsqd, doorbell: NsqDoorbell) -> None:
    assert await doorbell.depth() == 0, "before the first ring there is no topic"
    await doorbell.ring([1])
    await doorbell.ring(range(2, 1001))
    assert await doorbell.depth() == 1000
    async with httpx.AsyncClient(base_url=nsqd.http_url) as client:
        # The channel takes the topic's messages over, a few at a time: none is counted twice.
        await client.post(f"/channel/create?topic={TOPIC}&channel={CHANNEL}")
        await client.post(f"/channel/pause?topic={TOPIC}&channel={CHANNEL}")
    await doorbell.ring([1001])
    assert 999 <= await doorbell.depth() <= 1001


async def test_it_rings_where_settings_say(nsqd: Nsqd, doorbell: NsqDoorbell) -> None:
    settings = NsqdSettings(nsqd_url=nsqd.http_url, nsq_topic="photos", nsqd_timeout_seconds=30)
    other = doorbell_for(settings)
    await other.ring([1, 2])
    assert (await other.depth(), await doorbell.depth()) == (2, 0)
    await other.close()
    assert isinstance(doorbell_for(NsqdSettings(nsqd_url=None)), PolledRows)


@pytest.mark.parametrize("image_id", [1, 10, 2**31, 2**53 - 1])
async def test_what_is_rung_is_what_arrives(
    nsqd: Nsqd, doorbell: NsqDoorbell, image_id: int
) -> None:
    await doorbell.ring([image_id, image_id + 1])
    # The first bytes of a message hold its length and time; 0x0A among them once split messages.
    async with httpx.AsyncClient(base_url=nsqd.http_url) as client:
        stats = (await client.get(f"/stats?format=json&topic={TOPIC}")).json()
    assert stats["topics"][0]["message_count"] == 2
    assert stats["topics"][0]["message_bytes"] == sum(
        len(f'{{"id": {number}}}') for number in (image_id, image_id + 1)
    )


async def test_nsqd_gone_and_back(nsqd: Nsqd, doorbell: NsqDoorbell) -> None:
    await doorbell.ring([1])
    nsqd.kill()
    with pytest.raises(DoorbellUnavailableError, match="nsqd: "):
        await doorbell.ring([2])
    with pytest.raises(DoorbellUnavailableError):
        await doorbell.depth()
    nsqd.start()
    await doorbell.ring([3])
    assert await doorbell.depth() >= 1


async def test_polled_rows_need_no_ring() -> None:
    bell = PolledRows()
    await bell.ring([1])
    assert await bell.depth() == 0
    await bell.close()


def test_a_ring_names_one_image() -> None:
    assert parse_ring(b'{"id": 42}') == 42


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"42",
        b"[42]",
        b"null",
        b'"id"',
        b"{}",
        b'{"id": null}',
        b'{"id": "42"}',
        b'{"id": 4.2}',
        b'{"id": true}',
        b'{"id": 0}',
        b'{"id": -1}',
        b'{"id": %d}' % 2**63,
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_ring_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_ring(body)
