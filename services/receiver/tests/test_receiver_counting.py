import asyncio
from typing import cast

import httpx
import pytest
import sqlalchemy as sa

from services.common.database import Database
from services.common.image_states import Status
from services.common.tables import images
from services.receiver.domain.images import StatusReport
from services.receiver.ports import ImageRows
from services.receiver.service.counting import Counting
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Start
from services.receiver.tests.test_receiver_images import face_row, image_row, seed


async def counts(client: httpx.AsyncClient, **filters: str) -> dict[str, int]:
    report = (await client.get("/status", params=filters)).json()
    return {status: count for status, count in report["images"].items() if count}


async def test_a_report_has_what_any_replica_acknowledged_before_it(
    start: Start, settings: ReceiverSettings
) -> None:
    replicas = [start(settings).client, start(settings).client]
    assert await counts(replicas[0]) == {}
    for number in range(1, 11):
        path = {"path": f"{number}"}
        assert (await replicas[number % 2].post("/image/post", json=path)).status_code == 202
        for replica in replicas:
            assert await counts(replica) == {"pending": number}
    assert (await replicas[0].delete("/images/4")).status_code == 204
    for replica in replicas:
        assert await counts(replica) == {"pending": 9}


async def test_an_image_is_counted_once_while_it_moves(
    start: Start, settings: ReceiverSettings
) -> None:
    client = start(settings).client
    await seed(settings, [image_row(number, "pending") for number in range(1, 51)])
    database = Database(settings)
    seen_half = asyncio.Event()

    async def move_all() -> None:
        await move(database, range(1, 26))
        await seen_half.wait()  # however slow the machine is
        await move(database, range(26, 51))

    moving = asyncio.create_task(move_all())
    seen = []
    while not moving.done():
        seen.append(await counts(client))
        if seen[-1].get("processed", 0) >= 25:
            seen_half.set()
    await moving
    await database.close()
    assert {sum(one.values()) for one in seen} == {50}
    assert {"pending": 25, "processed": 25} in seen  # it looked while they moved
    assert await counts(client) == {"processed": 50}


async def move(database: Database, ids: range) -> None:
    for number in ids:
        for status in ("processing", "processed"):
            async with database.transaction() as connection:
                await connection.execute(
                    sa.update(images).where(images.c.id == number).values(status=status)
                )


async def test_a_persons_images_are_counted(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await seed(
        settings,
        [image_row(1), image_row(2), image_row(3, "pending")],
        [face_row(1, 0, "Ada"), face_row(1, 1, "Ada"), face_row(2, 0, "Grace")],
    )
    assert await counts(client, person="Ada") == {"processed": 1}
    assert await counts(client, person="Nobody") == {}
    assert await counts(client) == {"processed": 2, "pending": 1}


async def test_what_is_away_is_said_without_a_count(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await seed(settings, [image_row(1)])
    report = (await client.get("/status", params={"counts": "false"})).json()
    assert report == {**(await client.get("/status")).json(), "images": None, "encoding": None}


class SlowRows:
    """Counts when it is told to."""

    def __init__(self) -> None:
        self.stored = 0
        self.counts = 0
        self.began = asyncio.Event()
        self.go = asyncio.Event()

    async def status(self) -> StatusReport:
        self.counts += 1
        stored = self.stored
        self.began.set()
        await self.go.wait()
        return StatusReport({Status.PENDING: stored}, None)


async def test_all_who_ask_during_a_count_share_the_next_one() -> None:
    rows = SlowRows()
    counting = Counting(cast("ImageRows", rows))
    first = asyncio.create_task(counting.report())
    await rows.began.wait()
    rows.stored = 7
    later = [asyncio.create_task(counting.report()) for _ in range(100)]
    await asyncio.sleep(0)
    later.pop().cancel()  # one who goes away takes it from nobody
    rows.go.set()
    assert (await first).images == {"pending": 0}
    assert [report.images for report in await asyncio.gather(*later)] == [{"pending": 7}] * 99
    assert rows.counts == 2


async def test_a_count_that_fails_fails_those_who_asked_and_nobody_else() -> None:
    class Failing(SlowRows):
        async def status(self) -> StatusReport:
            report = await super().status()
            if self.counts == 1:
                raise ValueError("once")
            return report

    rows = Failing()
    rows.go.set()
    counting = Counting(cast("ImageRows", rows))
    with pytest.raises(ValueError, match="once"):
        await counting.report()
    assert (await counting.report()).images == {"pending": 0}
