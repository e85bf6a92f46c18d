"""The process as it is in production."""

from pathlib import Path

from services.common.facerecog.stored_faces import StoredFacesClient
from services.common.settings import DatabaseSettings
from services.people.tests.conftest import ENGINE, World, encoding
from services.testing.processes import running
from services.testing.servers import free_port
from services.testing.waiting import eventually


async def test_it_follows_decides_and_drains(
    world: World, database_settings: DatabaseSettings
) -> None:
    one = await world.picture(encoding("Ada"))
    await world.enrol("Ada", passes=2)
    async with running(
        "services.people",
        DATABASE_URL=database_settings.database_url,
        FACE_RECOG_TARGET=world.client.target,
        PORT=str(port := free_port()),
    ) as process:

        async def is_named() -> bool:
            return await world.names(one) == ["Ada"]

        await eventually(is_named)
        other = await world.picture(encoding("Ada", nth=1))
        await world.enrol("Bob")
        await world.work("Ada")

        async def both() -> bool:
            return await world.names(other) == ["Ada"]

        await eventually(both)
        client = StoredFacesClient(f"127.0.0.1:{port}")
        found = await client.find(ENGINE.name, encoding("Ada", nth=1), 9)
        assert [one.image_id for one in found] == [other, one]
        await client.close()
        page = (await process.get("/metrics")).text
        assert "facestack_stored_faces 2.0" in page
        assert 'facestack_faces_decided_again_total{result="changed"} 2.0' in page
        assert (await process.get("/readyz")).is_success
        process.terminate()
        code, output = await process.ended()
    assert code == 0
    assert "Traceback" not in output
    assert "Ada" not in output, "no name of anybody in the log"


async def test_it_is_not_ready_without_its_tables(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'none.db'}"
    async with running(
        "services.people", DATABASE_URL=url, FACE_RECOG_TARGET="127.0.0.1:1"
    ) as process:
        answer = await process.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["problems"].keys() == {"database", "stored faces"}
