"""Real processes whose clocks are wrong; the recogniser is this test's and on time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.image_processor.tests.conftest import Images
from services.migrations.__main__ import migrate
from services.testing.clocks import Clock
from services.testing.processes import running
from services.testing.recogniser import PictureContent, RecogniserServer
from services.testing.servers import MariaDb
from services.testing.waiting import eventually


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture(params=["sqlite", "mariadb"])
def database_settings(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> Iterator[DatabaseSettings]:
    """A database that goes by the clock."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_settings")
        return
    server = MariaDb(tmp_path, clock.environment).start()
    settings = DatabaseSettings(database_url=server.url("mysql"))
    migrate(settings)
    yield settings
    server.stop()


@pytest.fixture
async def environment(
    database_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    recogniser_server: RecogniserServer,
) -> dict[str, str]:
    """What both services need; one picture that is not finished by itself is in the store."""
    await ObjectStore(folder_store_settings).put("pictures/p0", PictureContent.UNFINISHED)
    return {
        "DATABASE_URL": database_settings.database_url,
        "OBJECT_STORE_URL": folder_store_settings.object_store_url,
        "FACE_RECOG_TARGET": recogniser_server.target,
        "SWEEP_SECONDS": "0.2",
    }


async def test_a_processor_dies_and_the_clock_is_set_back_an_hour(
    images: Images, clock: Clock, environment: dict[str, str], recogniser_server: RecogniserServer
) -> None:
    everywhere = {**environment, **clock.environment}
    async with running("services.redeemer", **everywhere) as redeemer:
        async with running("services.image_processor", **everywhere) as processor:
            [image_id] = await images.submit(PictureContent.UNFINISHED)
            await eventually(lambda: recogniser_server.image_ids)
            pid = processor.pid
            processor.kill()
            clock.forget(pid)
        clock.set(-3600)
        recogniser_server.release.set()
        async with running("services.image_processor", **everywhere) as processor:
            await images.reach("processed", seconds=60)
            processor.terminate()
            assert "Traceback" not in (await processor.ended())[1]
        page = (await redeemer.get("/metrics")).text
        assert 'facestack_redeemed_total{reason="lease"} 1.0' in page
        redeemer.terminate()
        assert "Traceback" not in (await redeemer.ended())[1]
    assert (await images.row(image_id)).attempt == 2


@pytest.mark.parametrize("seconds", [-300, 300])
@pytest.mark.parametrize("database_settings", ["mariadb"], indirect=True)
async def test_a_redeemer_whose_clock_is_wrong_takes_no_lease(
    images: Images,
    clock: Clock,
    environment: dict[str, str],
    recogniser_server: RecogniserServer,
    seconds: int,
) -> None:
    wrong = clock.environment | {"FAKETIME": f"{seconds:+d}"}
    del wrong["FAKETIME_TIMESTAMP_FILE"]
    async with (
        running("services.image_processor", **environment) as processor,
        running("services.redeemer", **environment, **wrong) as redeemer,
    ):
        [image_id] = await images.submit(PictureContent.UNFINISHED)
        await eventually(lambda: recogniser_server.image_ids)

        async def swept() -> float:
            page = (await redeemer.get("/metrics")).text
            return sum(  # there is no line before the first
                float(line.split()[-1])
                for line in page.splitlines()
                if line.startswith('facestack_requests_total{operation="sweep"}')
            )

        before = await swept()

        async def swept_thrice() -> bool:
            return await swept() >= before + 3

        await eventually(swept_thrice)
        recogniser_server.release.set()
        await images.reach("processed")
        assert (await images.row(image_id)).attempt == 1
        for process in (processor, redeemer):
            process.terminate()
            await process.ended()
