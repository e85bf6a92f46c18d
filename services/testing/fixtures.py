"""Fixtures for every test; loaded as a pytest plugin by pyproject.toml."""

import functools
import itertools
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pymysql
import pytest
import structlog

from services.common.database import Database
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.migrations.__main__ import migrate
from services.testing.servers import MariaDb, Nsqd, Nsqlookupd, VersityGw

_names = itertools.count(1)

# The same inputs at every run, on every machine; a busy one is no fault of the code under test.
hypothesis.settings.register_profile(
    "short",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# Other inputs at every run: a failure prints the line that repeats it.
hypothesis.settings.register_profile(
    "long", hypothesis.settings.get_profile("short"), derandomize=False
)
hypothesis.settings.load_profile("short")


@pytest.fixture(autouse=True)
def _no_logging_left() -> Iterator[None]:
    """Hold a test that would change the logging of those that follow."""
    yield
    cached = structlog.get_config()["cache_logger_on_first_use"]
    structlog.reset_defaults()
    assert not cached, "loggers made in this test keep its configuration for ever"


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A real MariaDB server for the whole session."""
    server = MariaDb(tmp_path_factory.mktemp("mariadb")).start()
    yield server
    server.stop()


@pytest.fixture
def nsqlookupd(tmp_path: Path) -> Iterator[Nsqlookupd]:
    """A real nsqlookupd."""
    server = Nsqlookupd(tmp_path).start()
    yield server
    server.stop()


@pytest.fixture
def nsqd(tmp_path: Path, nsqlookupd: Nsqlookupd) -> Iterator[Nsqd]:
    """A real nsqd that announces itself to ``nsqlookupd``."""
    server = Nsqd(tmp_path, nsqlookupd).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGw]:
    """A real S3 server for the whole session; a test that kills it starts its own."""
    server = VersityGw(tmp_path_factory.mktemp("versitygw")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, to copy: that takes a hundredth of the time of migrations."""
    file = tmp_path_factory.mktemp("sqlite") / "facestack.db"
    migrate(DatabaseSettings(database_url=f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture
def sqlite_settings(tmp_path: Path, _migrated_sqlite: Path) -> DatabaseSettings:
    """A migrated SQLite database."""
    file = shutil.copy(_migrated_sqlite, tmp_path)
    return DatabaseSettings(database_url=f"sqlite+aiosqlite:///{file}")


def new_mariadb_url(mariadb: MariaDb) -> str:
    """Return where an empty database is on the server, without a table."""
    name = f"facestack_{next(_names)}"
    _run(mariadb, f"CREATE DATABASE {name}")
    return mariadb.url(name)


def new_mariadb_settings(mariadb: MariaDb) -> DatabaseSettings:
    """Return an empty, migrated database on the server."""
    settings = DatabaseSettings(database_url=new_mariadb_url(mariadb))
    _run(mariadb, f"USE {_name(settings)}", *_migrated(mariadb))
    return settings


@functools.cache
def _migrated(mariadb: MariaDb) -> list[str]:
    """Return statements that make what migrations make, in a fraction of their time."""
    settings = DatabaseSettings(database_url=new_mariadb_url(mariadb))
    migrate(settings)
    tables = [table for (table,) in _run(mariadb, f"SHOW TABLES IN {_name(settings)}")]
    # Tables are in no order that their foreign keys would allow.
    statements = ["SET foreign_key_checks = 0"]
    for table in tables:
        ((_, create),) = _run(mariadb, f"SHOW CREATE TABLE {_name(settings)}.{table}")
        statements.append(create)
        if _run(mariadb, f"SELECT * FROM {_name(settings)}.{table}"):
            statements.append(f"INSERT INTO {table} SELECT * FROM {_name(settings)}.{table}")
    return statements


def _name(settings: DatabaseSettings) -> str:
    return settings.database_url.rpartition("/")[2]


def _run(mariadb: MariaDb, *statements: str) -> Any:
    """Run statements on one connection, and return the rows of the last."""
    with pymysql.connect(
        host="127.0.0.1", port=mariadb.port, user="root", autocommit=True
    ) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall()


@pytest.fixture(params=["sqlite", "mariadb"])
def database_settings(request: pytest.FixtureRequest) -> DatabaseSettings:
    """A migrated database, once on SQLite and once on a real MariaDB server."""
    if request.param == "sqlite":
        settings: DatabaseSettings = request.getfixturevalue("sqlite_settings")
        return settings
    return new_mariadb_settings(request.getfixturevalue("mariadb"))


@pytest.fixture
async def database(database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    """A pool of connections to ``database_settings``."""
    pool = Database(database_settings)
    yield pool
    await pool.close()


def s3_settings(server: VersityGw, folder: Path) -> ObjectStoreSettings:
    """Return settings for the server, with its keys written to files in the folder."""
    (folder / "s3-id").write_text(f"{server.access_key_id}\n")
    (folder / "s3-secret").write_text(f"{server.secret_access_key}\n")
    return ObjectStoreSettings(
        object_store_url="s3://facestack",
        s3_endpoint=server.endpoint,
        s3_access_key_id_file=folder / "s3-id",
        s3_secret_access_key_file=folder / "s3-secret",
    )


@pytest.fixture
def folder_store_settings(tmp_path: Path) -> ObjectStoreSettings:
    """An object store on an empty folder."""
    return ObjectStoreSettings(object_store_url=f"file://{tmp_path / 'store'}")


@pytest.fixture(params=["folder", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An object store, once on a folder and once on a real S3 server."""
    if request.param == "folder":
        return ObjectStore(request.getfixturevalue("folder_store_settings"))
    return ObjectStore(s3_settings(request.getfixturevalue("versitygw"), tmp_path))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, which only root may make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "facestack", folder],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"{made.stderr.strip()}: run 'make test' as root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
