"""Wires the commands together and runs one."""

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from services.backup.adapters.archive import AgeArchive, read_identity, read_recipient
from services.backup.adapters.databases import MariaDatabase, SqliteDatabase
from services.backup.adapters.rows import DatabaseBackupRows
from services.backup.domain import NAME_FORMAT, BackupError, DamagedBackupError, Summary
from services.backup.ports import WholeDatabase
from services.backup.service.keeping import Keeping
from services.backup.service.restoring import Restoring
from services.backup.service.taking import Taking
from services.backup.settings import ArchiveSettings, BackupSettings
from services.common import logs
from services.common.clock import database_now
from services.common.database import Database
from services.common.errors import AwayError, DatabaseUnavailableError, RefusedError
from services.common.jobs import NotYetError, end_on_sigterm, persist
from services.common.objects import ObjectStore
from services.common.settings import load

log = structlog.get_logger(__name__)


def new_name() -> str:
    """Return the name of a backup that begins now."""
    return datetime.now(UTC).strftime(NAME_FORMAT)


async def take(_: str | None) -> None:
    """Take a backup, and remove those that are not kept."""
    settings = load(BackupSettings)
    if settings.backup_recipient is None:
        raise BackupError("BACKUP_RECIPIENT is missing: the public key of age to encrypt to")
    recipient = read_recipient(settings.backup_recipient)
    archive = AgeArchive(settings.archive, recipient=recipient)
    name = new_name()
    async with _opened(settings) as (database, whole):
        taking = Taking(
            rows=DatabaseBackupRows(database, database_now),
            database=whole,
            objects=ObjectStore(settings),
            archive=archive,
            folder=settings.backup_folder,
        )
        await taking.take(name)
    try:
        await Keeping(archive=archive, folder=settings.backup_folder).remove_old(
            name, days=settings.backup_keep_days, weeks=settings.backup_keep_weeks
        )
    except (AwayError, RefusedError, OSError) as error:  # this one is good all the same
        log.error("no old backups were removed: the next one tries again", error=str(error))  # noqa: TRY400


async def list_(_: str | None) -> None:
    """Say which backups there are."""
    archive = AgeArchive(load(ArchiveSettings).archive)
    names = await archive.names()
    damaged = 0
    for name in names:
        try:
            _show(await archive.summary(name))
        except DamagedBackupError as error:
            print(f"{name}  damaged: {error}")  # noqa: T201, it is what was asked for
            damaged += 1
    if damaged:
        raise DamagedBackupError(f"{damaged} of {len(names)} backups are damaged")


async def verify(name: str | None) -> None:
    """Read a whole backup, without its key."""
    settings = load(ArchiveSettings)
    archive = AgeArchive(settings.archive)
    keeping = Keeping(archive=archive, folder=settings.backup_folder)
    _show(await keeping.verify(name or await _newest(archive)))


async def restore(name: str | None) -> None:
    """Restore a backup to where there is nothing."""
    async with _restoring() as (restoring, archive):
        await restoring.restore(name or await _newest(archive))


async def check(name: str | None) -> None:
    """Say whether a backup can be restored, and write nothing."""
    async with _restoring() as (restoring, archive):
        _show(await restoring.check(name or await _newest(archive)))


@asynccontextmanager
async def _restoring() -> AsyncIterator[tuple[Restoring, AgeArchive]]:
    settings = load(BackupSettings)
    if settings.backup_identity_file is None:
        raise BackupError("BACKUP_IDENTITY_FILE is missing: the file with the private key of age")
    archive = AgeArchive(settings.archive, identity=read_identity(settings.backup_identity_file))
    async with _opened(settings) as (_, whole):
        restoring = Restoring(
            database=whole,
            objects=ObjectStore(settings),
            archive=archive,
            folder=settings.backup_folder,
        )
        yield restoring, archive


_Command = Callable[[str | None], Coroutine[Any, Any, None]]

COMMANDS: Final[dict[str, _Command]] = {
    "take": take,
    "list": list_,
    "verify": verify,
    "restore": restore,
}
"""What can be run, by name."""

_OF_ONE: Final = frozenset({"verify", "restore"})


async def _newest(archive: AgeArchive) -> str:
    names = await archive.names()
    if not names:
        raise BackupError("there is no backup in BACKUP_STORE_URL")
    return names[-1]


@asynccontextmanager
async def _opened(settings: BackupSettings) -> AsyncIterator[tuple[Database, WholeDatabase]]:
    database = Database(settings)
    try:
        try:
            async with database.reading():
                pass
        except DatabaseUnavailableError as error:
            raise NotYetError(f"the database cannot be reached: {error}") from error
        if database.is_sqlite:
            yield database, SqliteDatabase(settings, database, settings.backup_folder)
        else:
            yield database, MariaDatabase(settings, database)
    finally:
        await database.close()


def _show(summary: Summary) -> None:
    size = sum(file.bytes for file in summary.files.values())
    print(  # noqa: T201, it is what was asked for
        f"{summary.name}  {summary.objects} objects of {summary.bytes} bytes, and {size} bytes of"
        f" its own; {summary.database} at revision {summary.revision}"
    )


def _run(command: _Command, name: str | None) -> None:
    async def until_sigterm() -> None:
        task = asyncio.ensure_future(command(name))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await task

    try:
        asyncio.run(until_sigterm())
    finally:
        end_on_sigterm()  # while it waits for another try


def main(arguments: list[str] | None = None) -> None:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m services.backup", description="Copies of rows and pictures elsewhere."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.__doc__)
        if name in _OF_ONE:
            one.add_argument("name", nargs="?", help="which (default: the newest)")
        if name == "restore":
            one.add_argument("--check", action="store_const", const=check, help=check.__doc__)
    told = parser.parse_args(arguments)
    settings = load(ArchiveSettings)
    logs.configure("backup", settings.log_level)
    chosen = getattr(told, "check", None) or COMMANDS[told.command]
    try:
        persist(lambda: _run(chosen, getattr(told, "name", None)), seconds=settings.wait_seconds)
    except (AwayError, RefusedError, OSError) as error:
        raise SystemExit(f"backup: {error}") from None
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None
