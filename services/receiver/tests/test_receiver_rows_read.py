"""What the page asks for again and again reads a page's rows, however many there are."""

from collections.abc import Mapping
from typing import Any, Final

import pymysql
import sqlalchemy as sa

from services.common.database import Database
from services.common.settings import ObjectStoreSettings
from services.common.tables import faces, images, person_images, persons
from services.receiver.domain.cursors import encode_cursor
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Configure, FakeRecogniser, Start
from services.receiver.tests.test_receiver_images import face_row, image_row
from services.testing.fixtures import new_mariadb_settings
from services.testing.servers import MariaDb

IMAGES: Final = 4000
PEOPLE: Final = 2000
PAGE: Final = 24

FEW: Final = 40 * PAGE
"""A page's rows with their faces and indexes, and what the server reads for itself."""

STEPS: Final = 100
"""Steps of SQLite's machine between two looks."""

STEPS_A_ROW: Final = 10
"""A page takes 1,400 in all, a row that is only counted 7."""

ASKED: Final[Mapping[str, int]] = {
    f"/images?limit={PAGE}": FEW,
    f"/images?limit={PAGE}&cursor={encode_cursor(IMAGES // 2)}": FEW,
    f"/images?limit={PAGE}&status=processed": FEW,
    f"/images?limit={PAGE}&status=dead": FEW,
    f"/images?limit={PAGE}&person=Ada": FEW,
    f"/images?limit={PAGE}&person=Ada&cursor={encode_cursor(IMAGES // 2)}": FEW,
    f"/images?limit={PAGE}&person=Nobody": FEW,
    f"/images/{IMAGES // 2}": FEW,
    f"/people?limit={PAGE}": FEW,
    f"/people?limit={PAGE}&cursor=Person+1500": FEW,
    "/status?counts=false": FEW,
    # The names of all people, but not their pictures.
    f"/people?limit={PAGE}&name=qqq": PEOPLE + FEW,
    # The entries of one index, in one statement for all who ask at the same time.
    "/status": IMAGES + FEW,
    # Those of the person alone, which are found by id and by name, and joined.
    "/status?person=Ada": 2 * IMAGES + FEW,
    "/status?person=Grace": FEW,
}


async def fill(settings: ReceiverSettings) -> None:
    """Store many images and people."""
    names = ["Ada", "Grace", *(f"Person {number}" for number in range(3, PEOPLE + 1))]
    rows: dict[sa.Table, list[dict[str, Any]]] = {
        images: [image_row(number) for number in range(1, IMAGES + 1)],
        faces: [face_row(number, 0, "Ada" if number % 2 else None) for number in range(1, IMAGES)],
        persons: [{"id": i, "name": name, "created_at": 1} for i, name in enumerate(names, 1)],
        person_images: [
            {"id": i, "person_id": i, "image_name": f"{name}/1.jpg", "created_at": 1}
            for i, name in enumerate(names, 1)
        ],
    }
    database = Database(settings)
    async with database.transaction() as connection:
        for table, content in rows.items():
            await connection.execute(sa.insert(table), content)
    await database.close()


async def test_a_page_reads_no_more_rows_than_it_shows_on_mariadb(
    mariadb: MariaDb,
    folder_store_settings: ObjectStoreSettings,
    recogniser: FakeRecogniser,
    configure: Configure,
    start: Start,
) -> None:
    settings = configure(new_mariadb_settings(mariadb), folder_store_settings, recogniser.target)
    await fill(settings)

    def rows_read() -> int:
        with (
            pymysql.connect(host="127.0.0.1", port=mariadb.port, user="root") as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Handler_read%'")
            return sum(int(value) for name, value in cursor.fetchall() if "tmp" not in name)

    client = start(settings).client
    await client.get("/status")  # connects, and looks for what is away
    read = {}
    for address in ASKED:
        before = rows_read()
        assert (await client.get(address)).status_code == 200
        read[address] = rows_read() - before
    assert {address: rows for address, rows in read.items() if rows > ASKED[address]} == {}


async def test_a_page_takes_no_more_steps_than_it_shows_on_sqlite(
    plain_settings: ReceiverSettings, start: Start
) -> None:
    await fill(plain_settings)
    running = start(plain_settings)
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += STEPS

    def count(connection: Any, _: object) -> None:
        connection.run_async(lambda driver: driver.set_progress_handler(step, STEPS))

    engine = running.receiver._database._engine.sync_engine
    sa.event.listen(engine, "connect", count)
    await running.client.get("/status")
    taken = {}
    for address in ASKED:
        steps = 0
        assert (await running.client.get(address)).status_code == 200
        taken[address] = steps
    assert {a: many for a, many in taken.items() if many > STEPS_A_ROW * ASKED[a]} == {}
