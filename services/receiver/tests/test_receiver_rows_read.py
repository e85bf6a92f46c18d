"""What the page asks for again and again reads a page's rows, however many there are."""

from collections.abc import Mapping
from typing import Any, Final

import pymysql
import pytest
import sqlalchemy as sa

from services.common.database import Database
from services.common.settings import ObjectStoreSettings
from services.common.tables import faces, images, person_images, persons
from services.receiver.domain import encode_cursor
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
    # Those of the person alone.
    "/status?person=Ada": IMAGES // 2 + FEW,
    "/status?person=Grace": FEW,
}


@pytest.fixture
async def filled(
    mariadb: MariaDb,
    folder_store_settings: ObjectStoreSettings,
    recogniser: FakeRecogniser,
    configure: Configure,
) -> ReceiverSettings:
    """Settings of a receiver with many images and people."""
    settings = configure(new_mariadb_settings(mariadb), folder_store_settings, recogniser.port)
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
            await connection.exec_driver_sql(f"ANALYZE TABLE {table.name}")
    await database.close()
    return settings


def rows_read(server: MariaDb) -> int:
    """Return how many rows, or entries of indexes, the server has read since its start."""
    with (
        pymysql.connect(host="127.0.0.1", port=server.port, user="root") as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Handler_read%'")
        return sum(int(value) for name, value in cursor.fetchall() if "tmp" not in name)


async def test_a_page_reads_no_more_than_it_shows(
    filled: ReceiverSettings, start: Start, mariadb: MariaDb
) -> None:
    client = start(filled).client
    await client.get("/status")  # connects, and looks for what is away
    read = {}
    for address in ASKED:
        before = rows_read(mariadb)
        answer = await client.get(address)
        read[address] = rows_read(mariadb) - before
        assert answer.status_code == 200, answer.text
    own = rows_read(mariadb) - rows_read(mariadb)
    assert {address: many for address, many in read.items() if many - own > ASKED[address]} == {}
