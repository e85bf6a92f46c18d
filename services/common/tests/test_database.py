import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
import uvloop
from sqlalchemy import event

from services.common.database import Database, HeldConnection
from services.common.errors import DatabaseUnavailableError
from services.common.settings import DatabaseSettings
from services.common.tables import images, metadata
from services.migrations.__main__ import migrate
from services.testing.disks import fill, remount
from services.testing.fixtures import new_mariadb_settings
from services.testing.servers import MariaDb


def _row(path: str) -> dict[str, object]:
    return {
        "path": path,
        "name": path[:255],
        "status": "pending",
        "attempt": 0,
        "created_at": 1,
        "updated_at": 1,
    }


async def test_a_transaction_commits_or_rolls_back(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(sa.insert(images), [_row("kept")])
    with pytest.raises(RuntimeError, match="on purpose"):
        async with database.transaction() as connection:
            await connection.execute(sa.insert(images), [_row("undone")])
            raise RuntimeError("on purpose")
    async with database.reading() as connection:
        paths = (await connection.scalars(sa.select(images.c.path))).all()
    assert paths == ["kept"]


async def test_paths_that_differ_in_case_accents_or_spaces_are_different(
    database: Database,
) -> None:
    paths = ["a", "A", "á", "a ", " a"]
    async with database.transaction() as connection:
        await connection.execute(sa.insert(images), [_row(path) for path in paths])
    async with database.reading() as connection:
        for path in paths:
            found = await connection.scalars(sa.select(images.c.path).where(images.c.path == path))
            assert found.all() == [path]


async def test_parallel_read_modify_write_loses_nothing(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(sa.insert(images), [_row("counter")])

    async def increment() -> None:
        async with database.transaction() as connection:
            statement = sa.select(images.c.attempt).with_for_update()
            attempt = await connection.scalar(statement)
            await connection.execute(sa.update(images).values(attempt=(attempt or 0) + 1))

    await asyncio.gather(*(increment() for _ in range(40)))
    async with database.reading() as connection:
        assert await connection.scalar(sa.select(images.c.attempt)) == 40


@pytest.mark.parametrize("seed", range(3))
async def test_a_transaction_that_is_cancelled_anywhere_holds_up_no_other(
    database: Database, seed: int
) -> None:
    chance = random.Random(seed)
    async with database.transaction() as connection:
        await connection.execute(sa.insert(images), [_row("counter")])

    async def increment() -> None:
        async with database.transaction() as connection:
            await connection.execute(sa.update(images).values(attempt=images.c.attempt + 1))
            await connection.execute(sa.select(images))
            await connection.execute(sa.update(images).values(attempt=images.c.attempt + 1))

    kept = []  # as a task that failed is kept until somebody asks for it
    for _ in range(15):
        tasks = [asyncio.create_task(increment()) for _ in range(3)]
        await asyncio.sleep(chance.random() * 0.02)
        for task in tasks:
            task.cancel()
        kept.append(await asyncio.gather(*tasks, return_exceptions=True))
        await increment()
    async with database.reading() as connection:
        attempt = await connection.scalar(sa.select(images.c.attempt))
    assert attempt
    assert attempt % 2 == 0, "each happened as a whole, or not"


@pytest.fixture
async def other_process(database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    """Connections as another process has them: to the same rows, in a pool of their own."""
    pool = Database(database_settings)
    yield pool
    await pool.close()


async def test_a_read_and_a_write_of_two_processes_do_not_wait_for_each_other(
    database: Database, other_process: Database
) -> None:
    counting = sa.select(sa.func.count()).select_from(images)
    async with asyncio.timeout(4):  # less than SQLite waits for a lock
        async with database.reading() as reader:
            seen = [await reader.scalar(counting)]
            async with other_process.transaction() as writer:
                await writer.execute(sa.insert(images), [_row("one")])
                seen.append(await reader.scalar(counting))
            seen.append(await reader.scalar(counting))
        assert seen == [0, 0, 1]
        async with database.transaction() as writer:
            await writer.execute(sa.insert(images), [_row("two")])
            async with other_process.reading() as reader:
                assert await reader.scalar(counting) == 1
                await writer.execute(sa.insert(images), [_row("three")])


async def test_a_reader_between_two_statements_holds_back_no_checkpoint(
    sqlite_settings: DatabaseSettings,
) -> None:
    database = Database(sqlite_settings)
    log = f"{sqlite_settings.database_url.removeprefix('sqlite+aiosqlite:///')}-wal"
    async with database.reading() as reader:
        await reader.scalar(sa.select(images.c.id))
        for number in range(20):
            async with database.transaction() as writer:
                rows = [_row(f"{number}/{one:0>500}") for one in range(1000)]
                await writer.execute(sa.insert(images), rows)
            # A checkpoint comes after each 1000 pages of 4 KiB, and the log begins anew.
            assert _size(log) < 16 * 1024 * 1024
    await database.close()


def _size(file: str) -> int:
    return Path(file).stat().st_size


async def test_migrations_make_what_the_tables_say_and_run_twice(
    database: Database, database_settings: DatabaseSettings
) -> None:
    migrate(database_settings)
    await database.check()

    def described(connection: sa.Connection) -> dict[str, object]:
        inspector = sa.inspect(connection)

        def foreign_keys(table: str) -> list[tuple[str, str]]:
            if connection.dialect.name == "sqlite":  # where the inspector misses added columns'
                found = connection.exec_driver_sql(f"PRAGMA foreign_key_list({table})").mappings()
                return sorted((key["from"], key["on_delete"]) for key in found)
            return sorted(
                (column, str(key["options"].get("ondelete")))
                for key in inspector.get_foreign_keys(table)
                for column in key["constrained_columns"]
            )

        return {
            table: (
                sorted(column["name"] for column in inspector.get_columns(table)),
                sorted(str(index["name"]) for index in inspector.get_indexes(table)),
                [str(key["name"]) for key in inspector.get_unique_constraints(table)],
                foreign_keys(table),
            )
            for table in metadata.tables
        }

    async with database.transaction() as connection:
        if not database.is_sqlite:  # only receivers of before name it
            await connection.execute(sa.text("DROP INDEX uq_persons_name ON persons"))
        migrated = await connection.run_sync(described)
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
        assert await connection.run_sync(described) == migrated


async def test_a_database_without_migrations_is_not_ready(tmp_path: object) -> None:
    database = Database(DatabaseSettings(database_url=f"sqlite+aiosqlite:///{tmp_path}/empty.db"))
    with pytest.raises(DatabaseUnavailableError, match="run the migrations"):
        await database.check()
    await database.close()


async def test_an_older_schema_is_not_ready_and_a_newer_one_is(database: Database) -> None:
    for revision, ready in (("0000", False), ("9999", True)):
        async with database.transaction() as connection:
            await connection.execute(
                sa.text(f"UPDATE alembic_version SET version_num = '{revision}'")
            )
        if ready:
            await database.check()
        else:
            with pytest.raises(DatabaseUnavailableError, match="revision 0000"):
                await database.check()


async def test_a_server_that_says_nothing_counts_as_away(mariadb: MariaDb) -> None:
    speaking = asyncio.Event()
    speaking.set()
    connections: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            await speaking.wait()
            writer.write(chunk)
        writer.close()
        await writer.wait_closed()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", mariadb.port)
        for one in (forward(reader, server_writer), forward(server_reader, writer)):
            connections.add(asyncio.create_task(one))

    proxy = await asyncio.start_server(connect, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    database = Database(
        DatabaseSettings(
            database_url=f"mysql+asyncmy://root@127.0.0.1:{port}/mysql",
            database_timeout_seconds=0.5,
        )
    )
    query = sa.text("SELECT 1")
    async with database.reading() as connection:
        assert await connection.scalar(query) == 1
    speaking.clear()
    with pytest.raises(DatabaseUnavailableError):
        async with asyncio.timeout(20), database.reading() as connection:
            await connection.scalar(query)
    speaking.set()
    async with database.reading() as connection:
        assert await connection.scalar(query) == 1
    await database.close()
    await asyncio.gather(*connections)
    proxy.close()


async def test_a_server_that_goes_away_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = MariaDb(tmp_path_factory.mktemp("mariadb")).start()
    database = Database(DatabaseSettings(database_url=server.url("mysql")))
    async with database.reading() as connection:
        assert await connection.scalar(sa.text("SELECT 1")) == 1
    server.kill()
    with pytest.raises(DatabaseUnavailableError):
        async with database.reading() as connection:
            await connection.scalar(sa.text("SELECT 1"))
    server.start()
    async with database.reading() as connection:
        assert await connection.scalar(sa.text("SELECT 1")) == 1
    await database.close()
    server.stop()


async def test_a_connection_that_is_lost_between_two_statements_counts_as_away(
    mariadb: MariaDb,
) -> None:
    database = Database(DatabaseSettings(database_url=mariadb.url("mysql")))
    lost = []

    def lose(connection: Any, *_: object) -> None:
        # The pool has just found it alive.
        lost.append(connection.driver_connection.thread_id())
        with pymysql.connect(host="127.0.0.1", port=mariadb.port, user="root") as other:
            other.cursor().execute(f"KILL {lost[-1]}")

    event.listen(database._engine.sync_engine, "checkout", lose)
    for opened in (database.reading, database.transaction):
        with pytest.raises(DatabaseUnavailableError):
            async with opened() as connection:
                await connection.scalar(sa.text("SELECT 1"))
    assert len(set(lost)) == 2
    event.remove(database._engine.sync_engine, "checkout", lose)
    async with database.reading() as connection:
        assert await connection.scalar(sa.text("SELECT 1")) == 1
    await database.close()


async def test_a_held_connection_that_is_lost_is_replaced(mariadb: MariaDb) -> None:
    database = Database(DatabaseSettings(database_url=mariadb.url("mysql")))
    held = HeldConnection(database)
    query = sa.select(sa.func.connection_id())
    ids = [(await held.rows(query))[0][0] for _ in range(2)]
    assert ids[0] == ids[1]
    _as_root(mariadb, f"KILL {ids[0]}")
    assert (await held.rows(query))[0][0] != ids[0]
    with pytest.raises(sa.exc.ProgrammingError):
        await held.rows(sa.select(sa.text("nothing FROM nowhere.at_all")))
    assert len(await held.rows(query)) == 1
    await held.close()
    await database.close()


async def _insert(database: Database, *paths: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(sa.insert(images), [_row(path) for path in paths])


async def _paths(database: Database) -> list[str]:
    async with database.reading() as connection:
        query = sa.select(images.c.path).order_by(images.c.id)
        return list(await connection.scalars(query))


def test_a_server_that_hangs_up_while_it_is_connected_to_counts_as_away(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("x")

    async def until_hung_up_on(port: int) -> None:
        settings = DatabaseSettings(
            database_url=f"mysql+asyncmy://face@127.0.0.1:{port}/face",
            database_password_file=password,
        )
        database = Database(settings)

        async def keep_busy() -> None:
            while True:  # so that the event loop hears of both at once: connected, and closed
                time.sleep(0.002)  # noqa: ASYNC251
                await asyncio.sleep(0)

        async with asyncio.timeout(60):
            busy = asyncio.create_task(keep_busy())
            while True:
                with pytest.raises(DatabaseUnavailableError) as raised:
                    async with database.reading():
                        pass
                if "before it was established" in str(raised.value):
                    break
            busy.cancel()

    with socket.create_server(("127.0.0.1", 0)) as server:
        reset = struct.pack("ii", 1, 0)

        def hang_up() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)

        threading.Thread(target=hang_up, daemon=True).start()
        # asyncio's own transports keep their socket to the end.
        uvloop.run(until_hung_up_on(server.getsockname()[1]))
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "statement",
    [
        "SELEC 1",
        "SELECT nothing FROM images",
        "SELECT 1 FROM never_made",
        "INSERT INTO images (path) VALUES ('a')",
        "INSERT INTO images SELECT * FROM images",
        "INSERT INTO faces (image_id) VALUES (7)",
    ],
)
async def test_a_wrong_statement_is_no_outage(database: Database, statement: str) -> None:
    await _insert(database, "a")
    for opened in (database.reading, database.transaction):
        with pytest.raises(sa.exc.DBAPIError):
            async with opened() as connection:
                await connection.execute(sa.text(statement))
    assert await _paths(database) == ["a"]


async def test_what_the_migrations_have_not_made_yet_may_be_there_later(
    database: Database,
) -> None:
    async with database.transaction() as connection:
        await connection.run_sync(metadata.drop_all)
    with pytest.raises(DatabaseUnavailableError):
        await _paths(database)
    async with database.transaction() as connection:
        await connection.run_sync(metadata.create_all)
    assert await _paths(database) == []


async def test_a_full_database_is_an_outage_that_passes(database: Database) -> None:
    limit = 120  # pages, of which the empty tables take about 70

    def keep_small(connection: Any, *_: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count = {limit}")
        cursor.close()

    if database.is_sqlite:
        event.listen(database._engine.sync_engine, "checkout", keep_small)
    else:
        async with database.transaction() as connection:
            # A table of this kind has a limit; those that it is referred to by go first.
            await connection.execute(
                sa.text(
                    "DROP TABLE group_faces, group_denials, face_denials, face_encodings, faces"
                )
            )
            await connection.execute(sa.text("SET max_heap_table_size = 1048576"))
            await connection.execute(sa.text("ALTER TABLE images ENGINE = MEMORY"))
    kept: list[str] = []
    with pytest.raises(DatabaseUnavailableError, match="full"):
        for number in range(1000):
            await _insert(database, *(new := [f"{number}/{one:0>400}" for one in range(10)]))
            kept += new
    assert kept
    assert (await _paths(database))[: len(kept)] == kept
    if database.is_sqlite:
        limit = 1000
    else:
        async with database.transaction() as connection:
            await connection.execute(sa.delete(images))
            kept = []
    await _insert(database, "after")
    assert (await _paths(database))[-1] == "after"


async def test_a_read_only_file_is_an_outage_that_passes(sqlite_settings: DatabaseSettings) -> None:
    database = Database(sqlite_settings)
    await _insert(database, "before")
    async with database.reading() as connection:
        # As a connection is that was opened while the file could only be read.
        await connection.exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(DatabaseUnavailableError, match="readonly"):
        await _insert(database, "lost")
    await _insert(database, "after")
    assert await _paths(database) == ["before", "after"]
    await database.close()


async def test_a_disk_that_is_full_or_read_only_is_an_outage_that_passes(
    small_disk: Path,
) -> None:
    settings = DatabaseSettings(database_url=f"sqlite+aiosqlite:///{small_disk / 'facestack.db'}")
    migrate(settings)
    database = Database(settings)
    await _insert(database, "before")
    ballast = small_disk / "ballast"
    fill(ballast)
    kept = ["before"]
    with pytest.raises(DatabaseUnavailableError):
        for number in range(1000):
            await _insert(database, *(new := [f"{number}/{one:0>400}" for one in range(100)]))
            kept += new
    assert (await _paths(database))[: len(kept)] == kept
    ballast.unlink()
    await _insert(database, "between")
    await database.close()
    remount(small_disk, "ro")
    with pytest.raises(DatabaseUnavailableError):
        await _insert(database, "lost")
    remount(small_disk, "rw")
    await _insert(database, "after")
    assert (await _paths(database))[-2:] == ["between", "after"]
    await database.close()


async def test_a_server_that_may_only_be_read_is_an_outage_that_passes(mariadb: MariaDb) -> None:
    settings = new_mariadb_settings(mariadb)
    name = settings.database_url.rpartition("/")[2]
    _as_root(
        mariadb,
        "CREATE OR REPLACE USER plain@'127.0.0.1'",
        f"GRANT ALL ON {name}.* TO plain@'127.0.0.1'",
    )
    url = settings.database_url.replace("root@", "plain@")
    database = Database(DatabaseSettings(database_url=url))
    await _insert(database, "before")
    for prevent, allow in (
        ("SET GLOBAL read_only = ON", "SET GLOBAL read_only = OFF"),
        ("SET GLOBAL tx_read_only = ON", "SET GLOBAL tx_read_only = OFF"),
        (
            "ALTER USER plain@'127.0.0.1' ACCOUNT LOCK",
            "ALTER USER plain@'127.0.0.1' ACCOUNT UNLOCK",
        ),
    ):
        _as_root(mariadb, prevent)
        try:
            await database.close()  # what is asked of a new connection
            with pytest.raises(DatabaseUnavailableError):
                for number in range(3):
                    await _insert(database, f"{prevent} {number}")
        finally:
            _as_root(mariadb, allow)
        await _insert(database, f"after {prevent}")
    paths = await _paths(database)
    assert paths[0] == "before"
    assert sum(path.startswith("after") for path in paths) == 3
    await database.close()


async def test_what_a_statement_waits_for_too_long_is_an_outage(mariadb: MariaDb) -> None:
    database = Database(DatabaseSettings(database_url=mariadb.url("mysql")))
    with pytest.raises(DatabaseUnavailableError, match="max_statement_time"):
        async with database.reading() as connection:
            await connection.execute(
                sa.text("SET STATEMENT max_statement_time = 0.1 FOR SELECT SLEEP(5)")
            )
    async with database.reading() as connection:
        assert await connection.scalar(sa.text("SELECT 1")) == 1
    await database.close()


def _as_root(mariadb: MariaDb, *statements: str) -> None:
    with pymysql.connect(host="127.0.0.1", port=mariadb.port, user="root") as connection:
        for statement in statements:
            connection.cursor().execute(statement)
