"""Real processes whose clocks are wrong; the recogniser is this test's and on time."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.common.database import Database
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.migrations.__main__ import migrate
from services.testing.clocks import Clock
from services.testing.processes import running
from services.testing.servers import MariaDb
from services.testing.waiting import eventually


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture(params=["sqlite", "mariadb"])
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, bench_of: Any
) -> AsyncIterator[Any]:
    """A bench on a database that goes by the clock."""
    server = None
    if request.param == "sqlite":
        settings: DatabaseSettings = request.getfixturevalue("sqlite_settings")
    else:
        server = MariaDb(tmp_path, clock.environment).start()
        settings = DatabaseSettings(database_url=server.url("mysql"))
        migrate(settings)
    database = Database(settings)
    made = bench_of(database)
    made.environment = {"DATABASE_URL": settings.database_url}
    yield made
    await database.close()
    if server:
        server.stop()


@pytest.fixture
async def environment(
    bench: Any, folder_store_settings: ObjectStoreSettings, recogniser_server: Any
) -> dict[str, str]:
    """What both services need; one picture that hangs is in the store."""
    await ObjectStore(folder_store_settings).put("pictures/p0", b"hang")
    return {
        **bench.environment,
        "OBJECT_STORE_URL": folder_store_settings.object_store_url,
        "FACE_RECOG_TARGET": recogniser_server.target,
        "SWEEP_SECONDS": "0.2",
    }


async def test_a_processor_dies_and_the_clock_is_set_back_an_hour(
    bench: Any, clock: Clock, environment: dict[str, str], recogniser_server: Any
) -> None:
    everywhere = {**environment, **clock.environment}
    async with running("services.redeemer", **everywhere) as redeemer:
        async with running("services.image_processor", **everywhere) as processor:
            [image_id] = await bench.submit(b"hang")
            await eventually(lambda: recogniser_server.servicer.image_ids)
            await processor.kill()
            clock.forget(processor.pid)
        clock.set(-3600)
        recogniser_server.servicer.release.set()
        async with running("services.image_processor", **everywhere) as processor:

            async def processed() -> bool:
                return bool((await bench.row(image_id)).status == "processed")

            await eventually(processed, seconds=60)
            processor.terminate()
            assert "Traceback" not in (await processor.ended())[1]
        page = (await redeemer.get("/metrics")).text
        assert 'facestack_redeemed_total{reason="lease"} 1.0' in page
        redeemer.terminate()
        assert "Traceback" not in (await redeemer.ended())[1]
    assert (await bench.row(image_id)).attempt == 2


@pytest.mark.parametrize("seconds", [-300, 300])
@pytest.mark.parametrize("bench", ["mariadb"], indirect=True)
async def test_a_redeemer_whose_clock_is_wrong_takes_no_lease(
    bench: Any, clock: Clock, environment: dict[str, str], recogniser_server: Any, seconds: int
) -> None:
    wrong = clock.environment | {"FAKETIME": f"{seconds:+d}"}
    del wrong["FAKETIME_TIMESTAMP_FILE"]
    async with (
        running("services.image_processor", **environment) as processor,
        running("services.redeemer", **environment, **wrong) as redeemer,
    ):
        [image_id] = await bench.submit(b"hang")
        await eventually(lambda: recogniser_server.servicer.image_ids)

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
        recogniser_server.servicer.release.set()

        async def processed() -> bool:
            return bool((await bench.row(image_id)).status == "processed")

        await eventually(processed)
        assert (await bench.row(image_id)).attempt == 1
        for process in (processor, redeemer):
            process.terminate()
            await process.ended()
