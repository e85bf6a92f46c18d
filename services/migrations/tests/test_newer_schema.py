"""The services work on the schema that the next version's migrations may leave behind."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from services.common.clock import database_now
from services.common.database import Database
from services.common.faces import Box, SeenFace
from services.common.settings import DatabaseSettings
from services.common.tables import face_encodings, faces, metadata
from services.image_processor import domain as processing
from services.image_processor.adapters.rows import DatabaseClaims
from services.migrations import __main__ as migrations
from services.migrations.__main__ import migrate
from services.migrations.tests.every_statement import CHANGED, run_every_statement
from services.receiver.adapters.rows.images import DatabaseImages as ReceiverRows
from services.receiver.adapters.rows.people import DatabasePeople
from services.testing.fixtures import new_mariadb_url
from services.testing.recogniser import ENCODING


async def expand(database: Database) -> None:
    """Do what may be done beside running services: add what nobody has to know."""
    # Wherever it can be, the column is the first one: nobody may count columns.
    first = "" if database.is_sqlite else " FIRST"
    async with database.transaction() as connection:
        for table in metadata.tables:
            await connection.execute(
                sa.text(f"ALTER TABLE {table} ADD COLUMN later VARCHAR(20){first}")
            )
        kind = "INTEGER" if database.is_sqlite else "BIGINT"
        await connection.execute(
            sa.text(
                f"CREATE TABLE notes (image_id {kind} PRIMARY KEY, note VARCHAR(20) NOT NULL,"
                " FOREIGN KEY (image_id) REFERENCES images (id) ON DELETE CASCADE)"
            )
        )
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))


async def test_every_statement_of_this_version_works(database: Database) -> None:
    await expand(database)
    async with database.transaction() as connection:
        await connection.exec_driver_sql(CHANGED)
    await run_every_statement(*[database] * 6)


async def test_this_versions_migrations_leave_it_alone(
    database: Database, database_settings: DatabaseSettings
) -> None:
    await expand(database)
    migrate(database_settings)
    async with database.reading() as connection:
        assert await connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "9999"
        assert (await connection.execute(sa.text("SELECT later FROM images"))).all() == []
    await database.check()


async def test_a_service_that_starts_before_the_migrations_waits_for_them(
    database: Database, database_settings: DatabaseSettings
) -> None:
    async with database.transaction() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.execute(sa.text("DROP TABLE alembic_version"))
    with pytest.raises(Exception, match="run the migrations"):
        await database.check()
    migrate(database_settings)
    await database.check()


def upgrade(settings: DatabaseSettings, revision: str) -> None:
    """Bring a database to a revision that need not be the newest."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    drivers = {"sqlite+aiosqlite": "sqlite+pysqlite", "mysql+asyncmy": "mysql+pymysql"}
    url = sa.make_url(settings.database_url)
    engine = sa.create_engine(url.set(drivername=drivers[url.drivername]))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


async def test_rows_of_the_first_revision_keep_what_they_hold(
    sqlite_settings: DatabaseSettings, tmp_path: Path
) -> None:
    settings = sqlite_settings.model_copy(
        update={"database_url": f"sqlite+aiosqlite:///{tmp_path / 'first.db'}"}
    )
    upgrade(settings, "0001")
    database = Database(settings)
    async with database.transaction() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO images (path, name, status, attempt, created_at, updated_at)"
            " VALUES ('uploads/ab', 'a.jpg', 'processed', 1, 1, 1), ('b', 'b', 'dead', 5, 1, 1)"
        )
    migrate(settings)
    await database.check()
    async with database.reading() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT path, status, content_digest, object_tag FROM images"
        )
        assert [tuple(row) for row in rows] == [
            ("uploads/ab", "processed", None, None),
            ("b", "dead", None, None),
        ]
    await database.close()


async def test_faces_of_before_have_no_quality_and_older_services_need_not_write_it(
    sqlite_settings: DatabaseSettings, tmp_path: Path
) -> None:
    settings = sqlite_settings.model_copy(
        update={"database_url": f"sqlite+aiosqlite:///{tmp_path / 'second.db'}"}
    )
    upgrade(settings, "0002")
    database = Database(settings)
    face = (
        'INSERT INTO faces (image_id, face_index, "left", top, "right", bottom, detection_score,'
        " ambiguous, candidates) VALUES (1, {index}, 1, 2, 3, 4, 0.5, 0, '[]')"
    )
    async with database.transaction() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO images (path, name, status, attempt, created_at, updated_at)"
            " VALUES ('a', 'a', 'processed', 1, 1, 1)"
        )
        await connection.exec_driver_sql(face.format(index=0))
    migrate(settings)
    await database.check()
    async with database.transaction() as connection:
        await connection.exec_driver_sql(face.format(index=1))
    image = await ReceiverRows(database).get(1)
    assert image
    assert [(one.index, one.quality) for one in image.faces] == [(0, None), (1, None)]
    await database.close()


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
async def test_people_of_before_stay_and_a_receiver_of_before_works_beside_one_of_today(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path / 'fourth.db'}"
    else:
        url = new_mariadb_url(request.getfixturevalue("mariadb"))
    settings = DatabaseSettings(database_url=url)
    upgrade(settings, "0004")
    database = Database(settings)
    left, right = ("`left`", "`right`") if not database.is_sqlite else ('"left"', '"right"')

    async def run(*statements: str) -> None:
        async with database.transaction() as connection:
            for statement in statements:
                await connection.execute(sa.text(statement))

    # As revision 0004 enrols somebody, and names a face by hand.
    enrol = (
        "INSERT INTO persons (id, name, created_at) VALUES ({0}, '{1}', 1)",
        (
            "INSERT INTO person_images (person_id, image_name, created_at)"
            " VALUES ({0}, '{1}/1.png', 1)"
        ),
    )
    name = "UPDATE faces SET person = 'Ada', distance = NULL, decided_by = 'hand'"
    await run(
        *(one.format(7, "Ada") for one in enrol),
        "INSERT INTO images (id, path, name, status, attempt, created_at, updated_at)"
        " VALUES (1, 'p', 'p', 'processed', 1, 1, 1)",
        f"INSERT INTO faces (image_id, face_index, {left}, top, {right}, bottom, detection_score,"
        " ambiguous, candidates) VALUES (1, 0, 1, 2, 3, 4, 0.5, FALSE, '[]')",
        name,
    )
    migrate(settings)
    await database.check()
    people, rows = DatabasePeople(database), ReceiverRows(database)

    async def found() -> list[tuple[int, str, int]]:
        return [(one.id, one.name, len(one.pictures)) for one in await people.all()]

    await run(*(one.format(8, "Eve") for one in enrol))
    assert await found() == [(7, "Ada", 1), (8, "Eve", 1)]
    assert (await people.who("Ada")).folder == "Ada"
    assert await people.rename(7, "Ida")
    image = await rows.get(1)
    assert image
    assert [(one.person, one.person_id) for one in image.faces] == [("Ida", 7)]
    # Of two, the one of before forgets one; an id is not given again.
    await run("DELETE FROM person_images WHERE person_id = 8", "DELETE FROM persons WHERE id = 8")
    await run("INSERT INTO persons (name, created_at) VALUES ('Uma', 1)")
    assert await found() == [(7, "Ida", 1), (9, "Uma", 0)]
    # It names a face by hand that has an id, and leaves that and who had decided.
    await run(
        "UPDATE faces SET person_id = 7, decided_by = 'machine'",
        "UPDATE faces SET person = 'Uma', distance = NULL, ambiguous = FALSE",
    )
    image = await rows.get(1)
    assert image
    assert [(one.person, one.person_id, one.decided_by) for one in image.faces] == [
        ("Uma", None, "hand")
    ]
    # Whoever has that id is renamed and comes to no face by it; whose name it is has it follow.
    assert await people.rename(7, "Ada")
    assert await people.rename(9, "Una")
    image = await rows.get(1)
    assert image
    assert [(one.person, one.person_id, one.decided_by) for one in image.faces] == [
        ("Una", 9, "hand")
    ]
    await run("UPDATE faces SET person = 'Ada', person_id = 7")
    await run("DELETE FROM persons WHERE id = 7")
    image = await rows.get(1)
    assert image
    assert [(one.person, one.person_id) for one in image.faces] == [("Ada", None)]
    await database.close()


@pytest.fixture(params=["sqlite", "mariadb"])
def before_encodings(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseSettings:
    """A database as the revision before encodings left it, once of each kind."""
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path / 'third.db'}"
    else:
        url = new_mariadb_url(request.getfixturevalue("mariadb"))
    settings = DatabaseSettings(database_url=url)
    upgrade(settings, "0003")
    return settings


async def test_a_service_of_before_encodings_works_beside_one_of_today(
    before_encodings: DatabaseSettings,
) -> None:
    database = Database(before_encodings)

    async def run(statement: str) -> None:
        async with database.transaction() as connection:
            await connection.execute(sa.text(statement))

    left, right = ("`left`", "`right`") if not database.is_sqlite else ('"left"', '"right"')
    # As revision 0003 stored a result.
    insert_image = (
        "INSERT INTO images (id, path, name, status, attempt, created_at, updated_at, claim_token)"
        " VALUES ({0}, 'p{0}', 'p', '{1}', 1, 1, 1, 'token')"
    )
    insert_face = (
        f"INSERT INTO faces (image_id, face_index, {left}, top, {right}, bottom, detection_score,"
        " ambiguous, person, distance, candidates, quality)"
        " VALUES ({}, 0, 1, 2, 3, 4, 0.5, FALSE, 'Ada', 0.25, '[]', NULL)"
    )
    await run(insert_image.format(1, "processed"))
    await run(insert_face.format(1))
    migrate(before_encodings)
    await database.check()
    await run(insert_image.format(2, "processed"))
    await run(insert_face.format(2))
    rows = ReceiverRows(database)
    for image_id in (1, 2):
        image = await rows.get(image_id)
        assert image
        assert [(one.person, one.distance) for one in image.faces] == [("Ada", 0.25)]

    async def results() -> list[tuple[object, ...]]:
        query = sa.select(
            faces.c.image_id, faces.c.decided_by, faces.c.calibration, face_encodings.c.encoding
        ).select_from(faces.outerjoin(face_encodings))
        async with database.reading() as connection:
            found = await connection.execute(query.order_by(faces.c.image_id))
            return [tuple(row) for row in found]

    assert await results() == [(1, None, None, None), (2, None, None, None)]
    for image_id in (3, 4):
        await run(insert_image.format(image_id, "processing"))
        face = SeenFace(Box(1, 2, 3, 4), 0.5, False, (), encoding=ENCODING)
        assert await DatabaseClaims(database, database_now).finish(
            processing.Claim(image_id, "p", 1, "token"),
            processing.Processed((face,), 9, 9, "engine", calibration=7),
        )
    new = [(3, "machine", 7, ENCODING), (4, "machine", 7, ENCODING)]
    assert (await results())[2:] == new
    # What the one of before deletes leaves no encoding.
    await run("DELETE FROM faces WHERE image_id = 3")
    await run("DELETE FROM images WHERE id = 1")
    assert await results() == [(2, None, None, None), new[1]]
    await run("DELETE FROM images WHERE id = 4")
    async with database.reading() as connection:
        assert (await connection.execute(sa.select(face_encodings))).all() == []
    await database.close()
