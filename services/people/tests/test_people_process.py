"""The process as it is in production."""

from pathlib import Path

import sqlalchemy as sa

from services.common.facerecog.stored_faces import StoredFacesClient
from services.common.settings import DatabaseSettings
from services.common.tables import face_groups
from services.local.processes import free_port
from services.people.tests.world import ENGINE, World, encoding
from services.testing.processes import running
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


async def test_who_ends_hands_the_making_of_groups_on(
    world: World, database_settings: DatabaseSettings
) -> None:
    settings = {
        "DATABASE_URL": database_settings.database_url,
        "FACE_RECOG_TARGET": world.client.target,
    }

    async def sizes() -> list[int]:
        return sorted(row.size for row in await world.all(sa.select(face_groups)) if row.size)

    async def wait_for(*expected: int) -> None:
        async def there() -> bool:
            return await sizes() == list(expected)

        await eventually(there)

    await world.picture(encoding("Ada"), encoding("Bob"))
    async with running("services.people", **settings, PORT=str(free_port())) as first:
        await wait_for(1, 1)
        async with running("services.people", **settings, PORT=str(free_port())) as second:
            await world.picture(encoding("Ada", nth=1))
            await wait_for(1, 2)
            pages = [(await one.get("/metrics")).text for one in (first, second)]
            assert ["facestack_unknown_faces 3.0" in page for page in pages] == [True, False]
            first.terminate()
            code, output = await first.ended()
            assert (code, "Traceback" in output) == (0, False)
            # Before the lease would be over.
            await world.picture(encoding("Bob", nth=1))
            await wait_for(2, 2)


async def test_it_is_not_ready_without_its_tables(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'none.db'}"
    async with running(
        "services.people", DATABASE_URL=url, FACE_RECOG_TARGET="127.0.0.1:1"
    ) as process:
        answer = await process.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["problems"].keys() == {"database", "stored faces"}
