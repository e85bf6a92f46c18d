from pathlib import Path

import pytest
import sqlalchemy as sa

from services.common import tables
from services.common.clock import database_now
from services.common.database import Database
from services.common.errors import DatabaseUnavailableError
from services.common.nsqd import NsqDoorbell
from services.common.settings import DatabaseSettings
from services.local.processes import free_port
from services.redeemer.tests.conftest import NOW, Images, MemoryDoorbell, replica
from services.testing.processes import Service, running
from services.testing.servers import Nsqd
from services.testing.waiting import eventually


async def test_a_database_that_is_away_is_said_so() -> None:
    url = f"mysql+asyncmy://root@127.0.0.1:{free_port()}/none"
    database = Database(DatabaseSettings(database_url=url))
    redeemer = replica(Images(database), MemoryDoorbell())
    with pytest.raises(DatabaseUnavailableError):
        await redeemer.sweep()
    with pytest.raises(DatabaseUnavailableError):
        await redeemer.count()
    await database.close()


async def test_two_processes_ring_a_real_nsqd_and_outlive_its_absence(
    mariadb_database: tuple[Database, str], nsqd: Nsqd, tmp_path: Path
) -> None:
    database, url = mariadb_database
    images = Images(database)
    await images.add(40, status="failed", attempt=1, due_at=NOW)
    nsqd.kill()
    settings = {
        "DATABASE_URL": url,
        "OBJECT_STORE_URL": tmp_path.as_uri(),
        "NSQD_URL": nsqd.http_url,
        "SWEEP_SECONDS": "0.1",
    }
    doorbell = NsqDoorbell(nsqd.http_url)

    async def moved() -> bool:
        return {row.status for row in await images.rows()} == {"pending"}

    async def filled() -> bool:
        return await doorbell.depth() == 40

    async with (
        running("services.redeemer", **settings) as first,
        running("services.redeemer", **settings) as second,
    ):
        for process in (first, second):
            await eventually(lambda: _metric(process, 'requests_total{operation="sweep"}'))  # noqa: B023
        await eventually(moved)
        nsqd.start()
        async with database.transaction() as connection:  # what ten seconds would do
            await connection.execute(sa.update(tables.images).values(due_at=NOW))
        await eventually(filled)
        failed = 0.0
        for process in (first, second):
            failed += await _metric(process, 'redeemed_total{reason="failed"}')
            page = (await process.get("/metrics")).text
            for status in ("pending", "processing", "processed", "failed", "rejected", "dead"):
                assert f'facestack_images{{status="{status}"}}' in page
            process.terminate()
        ends = [await process.ended() for process in (first, second)]
    assert failed == 40
    for code, output in ends:
        assert code == 0
        assert output.count("queue is away") == 1
        assert "Traceback" not in output
    await doorbell.close()


async def test_what_is_set_decides_when_an_image_is_dead_and_where_it_rings(
    mariadb_database: tuple[Database, str], nsqd: Nsqd, tmp_path: Path
) -> None:
    database, url = mariadb_database
    images = Images(database)
    await images.add(status="processing", attempt=2, due_at=NOW)
    await images.add(status="processing", attempt=1, due_at=NOW)
    settings = {
        "DATABASE_URL": url,
        "OBJECT_STORE_URL": tmp_path.as_uri(),
        "NSQD_URL": nsqd.http_url,
        "NSQ_TOPIC": "photos",
        "MAX_ATTEMPTS": "2",
        "RING_AGAIN_SECONDS": "500",
    }
    doorbell = NsqDoorbell(nsqd.http_url, topic="photos")
    async with running("services.redeemer", **settings):

        async def repaired() -> bool:
            statuses = [row.status for row in await images.rows()]
            return statuses == ["dead", "pending"] and await doorbell.depth() == 1

        await eventually(repaired)
        dead, pending = await images.rows()
        assert dead.error == "processing did not finish in time, attempt 2 of 2"
        async with database.reading() as connection:
            left = sa.select(tables.images.c.due_at - database_now()).where(
                tables.images.c.id == pending.id
            )
            assert 400_000 < (await connection.scalar(left) or 0) <= 500_000
    await doorbell.close()


async def _metric(process: Service, name: str) -> float:
    for line in (await process.get("/metrics")).text.splitlines():
        if line.startswith(f"facestack_{name} "):
            return float(line.split()[-1])
    return 0.0
