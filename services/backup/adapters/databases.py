"""All rows of a database, by the tools that its server comes with."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.backup.adapters.tools import running
from services.backup.domain import BackupError
from services.backup.ports import Retag
from services.common.database import REVISION, Database
from services.common.object_keys import PICTURES
from services.common.settings import DatabaseSettings, read_passwords
from services.common.tables import backups, garbage, images

_REVISION: Final = "alembic_version"

_MARK: Final = "restoring"
"""A table that says: whatever else is here was left by a restore that did not end."""

_OF_NOBODY: Final = frozenset(
    {_REVISION, "backups", "encoding_work", "group_work", "webhook_positions"}
    | {"audit", "log_in_failures"}
)
"""Tables in which a cluster has rows, too, that nobody has used."""


class _Restorable:
    """What both have alike."""

    def __init__(self, settings: DatabaseSettings, database: Database) -> None:
        self._settings = settings
        self._url = sa.make_url(settings.database_url)
        self._database = database

    @property
    def kind(self) -> str:
        return "sqlite" if self._database.is_sqlite else "mariadb"

    @property
    def known_revision(self) -> str:
        return REVISION

    async def revision(self) -> str:
        query = sa.select(sa.column("version_num", sa.String)).select_from(sa.table(_REVISION))
        async with self._database.reading() as connection:
            return str(await connection.scalar(query))

    async def used(self) -> list[str]:
        async with self._database.reading() as connection:
            tables = await _tables(connection)
            if _MARK in tables:
                return []
            return [name for name in tables if await _is_used(connection, name)]

    async def check_empty(self) -> None:
        if held := await self.used():
            raise BackupError(
                f"the database {self._url.database} holds rows in {', '.join(held)}: a backup"
                " is restored only where there is nothing. Name an empty one in DATABASE_URL,"
                " or drop its tables, if nobody needs them"
            )

    async def claim(self) -> None:
        await self.check_empty()
        async with self._database.transaction() as connection:
            await connection.execute(sa.text(f"CREATE TABLE IF NOT EXISTS {_MARK} (id INTEGER)"))

    async def finish(self, retags: Iterable[Retag]) -> None:
        async with self._database.transaction() as connection:
            # The row of the backup itself, and of what ran beside it.
            await connection.execute(sa.delete(backups).where(backups.c.finished_at.is_(None)))
            for key, old, new in retags:
                named = [(garbage, garbage.c.object_key == key)]
                if key.startswith(PICTURES):
                    named.append((images, images.c.path == key.removeprefix(PICTURES)))
                for table, is_it in named:
                    of_old = sa.and_(is_it, table.c.object_tag == old)
                    await connection.execute(sa.update(table).where(of_old).values(object_tag=new))
            await connection.execute(sa.text(f"DROP TABLE IF EXISTS {_MARK}"))


class SqliteDatabase(_Restorable):
    """A file, by SQLite's own backup; ``folder`` has room for all of it."""

    def __init__(self, settings: DatabaseSettings, database: Database, folder: Path) -> None:
        super().__init__(settings, database)
        self._folder = folder

    @contextmanager
    def dump(self) -> Iterator[BinaryIO]:
        with NamedTemporaryFile(dir=self._folder) as copy:
            _copy(str(self._url.database), copy.name)
            with running(["gzip", "-1"], stdin=Path(copy.name).open("rb")) as packing:
                yield packing.stdout

    @contextmanager
    def load(self) -> Iterator[BinaryIO]:
        with NamedTemporaryFile(dir=self._folder) as copy:
            with running(["gzip", "-dc"], stdout=copy) as unpacking:
                yield unpacking.stdin
            # The mark goes with the rest: until the restore has ended, it may be run again.
            with closing(sqlite3.connect(copy.name)) as connection:
                connection.execute(f"CREATE TABLE IF NOT EXISTS {_MARK} (id INTEGER)")
            # One transaction: whoever reads sees what was there before, or all of this.
            _copy(copy.name, str(self._url.database))


class MariaDatabase(_Restorable):
    """A database of a server, by ``mariadb-dump`` and ``mariadb``."""

    async def claim(self) -> None:
        await super().claim()
        # Until all is there again, services wait for the migrations.
        async with self._database.transaction() as connection:
            await connection.execute(sa.text("SET foreign_key_checks = 0"))
            for name in await _tables(connection):
                if name != _MARK:
                    await connection.execute(sa.text(f"DROP TABLE `{name}`"))
            await connection.execute(sa.text("SET foreign_key_checks = 1"))

    @contextmanager
    def dump(self) -> Iterator[BinaryIO]:
        arguments, env = self._log_in()
        with running(["mariadb", *arguments, "-NBe", "SHOW TABLES"], env=env) as asking:
            tables = asking.stdout.read().decode().split()
        command = [
            "mariadb-dump",
            "--single-transaction",
            "--quick",
            "--hex-blob",
            "--no-tablespaces",  # administrators alone may see them
            "--skip-triggers",
            *arguments,
            # The revision last: until it is there, services wait for the migrations.
            *sorted(tables, key=lambda name: (name == _REVISION, name)),
        ]
        with (
            running(command, env=env) as dumping,
            running(["gzip", "-1"], stdin=dumping.stdout) as packing,
        ):
            yield packing.stdout

    @contextmanager
    def load(self) -> Iterator[BinaryIO]:
        arguments, env = self._log_in()
        with (
            running(["gzip", "-dc"]) as unpacking,
            running(["mariadb", *arguments], stdin=unpacking.stdout, env=env),
        ):
            yield unpacking.stdin
            unpacking.stdin.close()

    def _log_in(self) -> tuple[list[str], Mapping[str, str]]:
        """Return what tells the tools where the database is, and the first password it takes."""
        arguments = [
            f"--host={self._url.host}",
            f"--port={self._url.port or 3306}",
            f"--user={self._url.username}",
            "--default-character-set=utf8mb4",
        ]
        if authorities := self._settings.database_ca_file:
            arguments += [f"--ssl-ca={authorities}", "--ssl-verify-server-cert"]
        arguments.append(str(self._url.database))
        file = self._settings.database_password_file
        *others, last = [{"MYSQL_PWD": one} for one in read_passwords(file)] if file else [{}]
        for env in others:
            with suppress(BackupError), running(["mariadb", *arguments, "-e", ""], env=env):
                return arguments, env
        return arguments, last


async def _tables(connection: AsyncConnection) -> list[str]:
    return await connection.run_sync(lambda one: sorted(sa.inspect(one).get_table_names()))


async def _is_used(connection: AsyncConnection, table: str) -> bool:
    if table in _OF_NOBODY:
        return False
    query = sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)
    return await connection.scalar(query) is not None


def _copy(source: str, target: str) -> None:
    try:
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
            one.backup(other)
    except sqlite3.Error as error:
        raise BackupError(f"SQLite cannot copy {source} to {target}: {error}") from error
