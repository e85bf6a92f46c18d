"""A backlog whose rings were all lost, on MariaDB and NSQ, with the services' real processes."""

import pytest
import sqlalchemy as sa

from services.common.database import Database
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.common.tables import images
from services.testing.fixtures import new_mariadb_settings
from services.testing.processes import running
from services.testing.recogniser import PictureContent, RecogniserServer
from services.testing.servers import MariaDb, Nsqd, Nsqlookupd
from services.testing.waiting import eventually

COUNT = 300


@pytest.fixture
def settings(mariadb: MariaDb) -> DatabaseSettings:
    return new_mariadb_settings(mariadb)


async def test_a_backlog_without_rings_is_worked_through(
    settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    nsqd: Nsqd,
    nsqlookupd: Nsqlookupd,
    recogniser_server: RecogniserServer,
) -> None:
    database = Database(settings)
    async with database.transaction() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO images (path, name, status, attempt, due_at, created_at, updated_at)"
            f" SELECT CONCAT('p', seq), 'p', 'pending', 0, seq, seq, seq FROM seq_1_to_{COUNT}"
        )
    store = ObjectStore(folder_store_settings)
    for number in range(1, COUNT + 1):
        await store.put(f"pictures/p{number}", PictureContent.NO_FACE)
    async with (
        running(
            "services.image_processor",
            DATABASE_URL=settings.database_url,
            OBJECT_STORE_URL=folder_store_settings.object_store_url,
            FACE_RECOG_TARGET=recogniser_server.target,
            NSQLOOKUPD_URLS=f'["{nsqlookupd.http_url}"]',
        ) as processor,
        # One sweep alone: whatever it does not ring for stays as it is.
        running(
            "services.redeemer",
            DATABASE_URL=settings.database_url,
            OBJECT_STORE_URL=folder_store_settings.object_store_url,
            NSQD_URL=nsqd.http_url,
            SWEEP_SECONDS="600",
        ) as redeemer,
    ):

        async def processed() -> bool:
            async with database.reading() as connection:
                left = await connection.scalar(
                    sa.select(sa.func.count()).where(images.c.status != "processed")
                )
            assert left == 0
            return True

        await eventually(processed, seconds=120)
        page = (await redeemer.get("/metrics")).text
        assert f'facestack_redeemed_total{{reason="pending"}} {COUNT}.0' in page
        for process in (processor, redeemer):
            process.terminate()
            await process.ended()
    async with database.reading() as connection:
        assert set(await connection.scalars(sa.select(images.c.attempt))) == {1}
    await database.close()
