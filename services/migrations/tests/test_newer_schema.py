"""The services work on the schema that the next version's migrations may leave behind."""

from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa

from services.common.database import Database
from services.common.settings import DatabaseSettings
from services.common.tables import metadata
from services.migrations.__main__ import migrate

RunEveryStatement = Callable[[Database, Database, Database], Awaitable[None]]


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


async def test_every_statement_of_this_version_works(
    database: Database, every_statement: RunEveryStatement
) -> None:
    await expand(database)
    await every_statement(database, database, database)


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
