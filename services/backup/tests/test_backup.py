"""What a backup goes by: what may happen while it is taken and restored, and what it refuses."""

import asyncio
import gzip
import io
import os
import shutil
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from unittest.mock import Mock

import pyrage
import pytest
import sqlalchemy as sa

from services.backup.adapters import databases
from services.backup.adapters.archive import AgeArchive
from services.backup.adapters.databases import MariaDatabase, SqliteDatabase
from services.backup.adapters.rows import DatabaseBackupRows
from services.backup.domain import (
    COPIES,
    DUMP,
    FILES,
    BackupError,
    DamagedBackupError,
    Summary,
    kept,
)
from services.backup.ports import WholeDatabase
from services.backup.service.restoring import Restoring
from services.backup.service.taking import Taking
from services.backup.tests.conftest import Place, Site, objects, rows
from services.common import folders
from services.common.backup_rows import BackupReport, backup_report
from services.common.clock import database_now
from services.common.database import Database
from services.common.errors import DatabaseUnavailableError, ObjectStoreUnavailableError
from services.common.objects import ObjectStore
from services.common.tables import garbage, images
from services.local.processes import free_port
from services.redeemer.adapters.garbage import DatabaseDueGarbage
from services.redeemer.service.collecting import Collector

NAME = "20260101T000000Z"


class World:
    """A place with its redeemer, and pictures that come and go."""

    def __init__(self, place: Place) -> None:
        self.database = Database(place.database)
        self.objects = ObjectStore(place.store)
        self.redeemer = Collector(
            garbage=DatabaseDueGarbage(self.database, database_now), objects=self.objects
        )

    async def add(self, path: str, content: bytes = b"picture", **values: object) -> None:
        await self.objects.put(f"pictures/{path}", content)
        now = {"created_at": 1, "updated_at": 1}
        row = {"path": path, "name": path, "status": "processed", "attempt": 1, **now, **values}
        async with self.database.transaction() as connection:
            await connection.execute(sa.insert(images).values(row))

    async def delete(self, path: str) -> None:
        """Delete it as the receiver does, and have the redeemer look."""
        async with self.database.transaction() as connection:
            await connection.execute(sa.delete(images).where(images.c.path == path))
            note = {"object_key": f"pictures/{path}", "due_at": database_now()}
            await connection.execute(sa.insert(garbage).values(note))
        await self.redeemer.collect()

    def whole(self, place: Place, folder: Path) -> WholeDatabase:
        if self.database.is_sqlite:
            return SqliteDatabase(place.database, self.database, folder)
        return MariaDatabase(place.database, self.database)


@pytest.fixture
async def world(site: Site) -> AsyncIterator[World]:
    made = World(site.live)
    yield made
    await made.database.close()


class Moved:
    """A database on which something happens right before and right after its dump."""

    def __init__(self, whole: WholeDatabase, world: World, loop: asyncio.AbstractEventLoop) -> None:
        self._whole = whole
        self._world = world
        self._loop = loop
        self.kind = whole.kind
        self.revision = whole.revision
        self.used = whole.used

    def _happens(self, number: int) -> None:
        async def happens() -> None:
            await self._world.add(f"new {number}")
            await self._world.delete(f"old {number}")

        asyncio.run_coroutine_threadsafe(happens(), self._loop).result(30)

    @contextmanager
    def dump(self) -> Iterator[BinaryIO]:
        self._happens(1)
        with self._whole.dump() as content:
            yield content
        self._happens(2)


async def test_every_row_of_a_dump_has_its_object(site: Site, world: World) -> None:
    for path in ("old 1", "old 2", "stays"):
        await world.add(path)
    await Taking(
        rows=DatabaseBackupRows(world.database, database_now),
        database=Moved(  # type: ignore[arg-type]
            world.whole(site.live, site.folder), world, asyncio.get_running_loop()
        ),
        objects=world.objects,
        archive=site.opened(AgeArchive),
        folder=site.folder,
    ).take(NAME)
    await world.redeemer.collect()
    left = {"pictures/new 1", "pictures/new 2", "pictures/stays"}
    assert set(await objects(site.live)) == left, "not held any longer"

    [target, _] = site.empty
    await site.run(target, "restore")
    in_dump = {"new 1", "old 2", "stays"}
    assert {row[1] for row in (await rows(target))["images"]} == in_dump
    assert {f"pictures/{path}" for path in in_dump} <= set(await objects(target))


class KilledError(Exception):
    """As if the process were no more."""


class Killed(AgeArchive):
    """Kills whoever restores, at its second object, in the middle of the rows or after them."""

    at: str
    read = 0

    async def get_copy(self, copy: str) -> bytes:
        self.read += 1
        if self.read == 2 and self.at == "objects":
            raise KilledError
        return await super().get_copy(copy)

    def read_file(self, summary: Summary, file: str, target: BinaryIO, *, encrypted: bool) -> None:
        if file != DUMP or self.at != "rows":
            super().read_file(summary, file, target, encrypted=encrypted)
            return
        packed = io.BytesIO()
        super().read_file(summary, file, packed, encrypted=encrypted)
        content = gzip.decompress(packed.getvalue())
        target.write(gzip.compress(content[: len(content) // 2]))
        target.close()  # as the end of a process does
        raise KilledError


@pytest.mark.parametrize("at", ["objects", "rows", "end"])
async def test_a_restore_that_was_killed_is_run_again(
    site: Site, world: World, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("one", "two", "three"):
        await world.add(path, path.encode(), object_tag=None if path == "one" else "elsewhere")
    for path in ("two", "three"):
        tag = await world.objects.tag(f"pictures/{path}")
        async with world.database.transaction() as connection:
            await connection.execute(
                sa.update(images).where(images.c.path == path).values(object_tag=tag)
            )
    await site.run(site.live, "take")
    [target, _] = site.empty
    half = World(target)
    archive = site.opened(Killed)
    archive.at = at
    whole = half.whole(target, site.folder)
    if at == "end":
        monkeypatch.setattr(whole, "finish", Mock(side_effect=KilledError))
    # What is cut in the middle of a statement, MariaDB's client complains about first.
    with pytest.raises((KilledError, BackupError)):
        await Restoring(
            database=whole,
            objects=half.objects,
            archive=archive,
            folder=site.folder,
        ).restore((await site.names())[-1])
    if at != "end":
        with pytest.raises(DatabaseUnavailableError, match="run the migrations"):
            await half.database.check()

    await site.run(target, "restore")
    assert await objects(target) == await objects(site.live)
    await half.database.check()
    for path in ("two", "three"):
        query = sa.select(images.c.object_tag).where(images.c.path == path)
        async with half.database.reading() as connection:
            found = await connection.scalar(query)
        assert found == await half.objects.tag(f"pictures/{path}"), "the result is about it still"
    with pytest.raises(BackupError, match="holds rows in images: a backup"):
        await site.run(target, "restore")
    await half.database.close()


def damage(site: Site, part: str) -> Path:
    """Change a byte of the newest file in the archive whose path has that part."""
    files = [one for one in (site.folder / "archive").rglob("*") if part in str(one)]
    [file, *_] = [one for one in files if one.is_file()]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("part", ["dump", "manifest", "copies", "objects/"])
async def test_what_is_damaged_is_refused(folder_site: Site, part: str) -> None:
    site = folder_site
    world = World(site.live)
    await world.add("one")
    await site.run(site.live, "take")
    file = damage(site, part)
    [target, _] = site.empty
    for place, command in ((site.live, "verify"), (target, "restore")):
        with pytest.raises(DamagedBackupError, match=f"{file.name} is damaged"):
            await site.run(place, command)
    assert await objects(target) == {}
    with pytest.raises(DamagedBackupError) if part != "objects/" else nullcontext():
        await site.run(target, "restore --check")
    file.unlink()
    with pytest.raises(DamagedBackupError, match="is gone"):
        await site.run(target, "restore")
    await world.database.close()


async def test_what_cannot_be_restored_says_why(folder_site: Site) -> None:
    site = folder_site
    [target, _] = site.empty
    with pytest.raises(BackupError, match="there is no backup in BACKUP_STORE_URL"):
        await site.run(target, "restore")
    await site.run(site.live, "take")
    with pytest.raises(BackupError, match="no backup 'other': there are 2"):
        await site.run(target, "restore", "other")
    other = site.folder / "other.txt"
    other.write_text(str(pyrage.x25519.Identity.generate()))
    for command in ("restore --check", "restore"):
        with pytest.raises(BackupError, match="is not the key of its recipient"):
            await site.run(target, command, BACKUP_IDENTITY_FILE=str(other))
    other.write_text("age1")
    with pytest.raises(BackupError, match="holds no private key of age"):
        await site.run(target, "restore", BACKUP_IDENTITY_FILE=str(other))
    with pytest.raises(BackupError, match="'age1' is no public key of age"):
        await site.run(site.live, "take", BACKUP_RECIPIENT="age1")
    with pytest.MonkeyPatch.context() as older:
        older.setattr(databases, "REVISION", "0001")
        with pytest.raises(BackupError, match="and this version knows 0001"):
            await site.run(target, "restore")
    with closing(sqlite3.connect(site.folder / "first" / "new.db")) as connection:
        written = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert written == []


async def test_the_list_goes_on_after_a_damaged_summary(
    folder_site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    await folder_site.run(folder_site.live, "take")
    [third] = await folder_site.names()
    first, second = "20250101T000000Z", "20250102T000000Z"
    for name, content in ((first, "{"), (second, '{"files": 1}')):
        (folder := folder_site.folder / "archive" / "backups" / name).mkdir()
        (folder / "summary.json").write_text(content)
    with pytest.raises(DamagedBackupError, match="2 of 3 backups are damaged"):
        await folder_site.run(folder_site.live, "list")
    lines = capsys.readouterr().out.splitlines()[-3:]
    starts = (f"{first}  damaged: ", f"{second}  damaged: ", f"{third}  0 objects")
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), lines


async def test_what_is_written_to_a_folder_outlives_a_power_cut(
    folder_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(folders, "sync", lambda _, key: synced.append(key))
    await folder_site.run(folder_site.live, "take")
    files = [*FILES, "summary.json"]
    assert [key.rpartition("/")[2] for key in synced] == files


async def test_a_failed_backup_is_seen(cluster_site: Site) -> None:
    site = cluster_site
    world = World(site.live)

    async def report() -> BackupReport | None:
        async with world.database.reading() as connection:
            return await backup_report(connection, database_now)

    assert await report() is None
    with pytest.raises(ObjectStoreUnavailableError):
        await site.run(site.live, "take", BACKUP_STORE_URL="s3://nowhere")
    found = await report()
    assert found
    assert found.last_good_seconds is None
    assert str(found.error).startswith("backups: backups/: ")
    await site.run(site.live, "take")
    found = await report()
    assert found
    assert (found.error, found.last_good_seconds) == (None, found.without_seconds)
    await world.database.close()


async def test_a_database_that_is_away_is_waited_for(cluster_site: Site) -> None:
    site = cluster_site
    url = sa.make_url(site.live.settings["DATABASE_URL"])
    port = free_port()
    environment = {
        **os.environ,
        **site.environment(site.live),
        "DATABASE_URL": url.set(port=port).render_as_string(hide_password=False),
        "WAIT_SECONDS": "60",
    }
    command = [sys.executable, "-m", "services.backup", "take"]
    taking = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE)
    assert taking.stdout
    assert b"the database cannot be reached" in await taking.stdout.readline()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, asks = await asyncio.open_connection(url.host, url.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while read := await source.read(65536):
                target.write(read)
            target.close()

        await asyncio.gather(copy(reader, asks), copy(answers, writer))

    async with await asyncio.start_server(forward, "127.0.0.1", port):
        said, _ = await taking.communicate()
    assert taking.returncode == 0, said
    assert len(await site.names()) == 1


async def test_a_backup_that_would_replace_a_fuller_or_newer_one_is_refused(site: Site) -> None:
    """An empty cluster, after a loss, takes none where the lost one has its own."""
    world = World(site.live)
    await world.add("one")
    await site.run(site.live, "take")
    [full] = await site.names()
    async with world.database.transaction() as connection:
        await connection.execute(sa.delete(images))
    with pytest.raises(BackupError, match=f"the database is empty, and backup {full} has 1 obj"):
        await site.run(site.live, "take")
    async with world.database.reading() as connection:
        found = await backup_report(connection, database_now)
    assert found
    assert "restore it" in str(found.error)

    await world.add("two")
    newer = "29990101T000000Z"
    archive = site.opened(AgeArchive)
    await archive.commit(replace(await archive.summary(full), name=newer))
    with pytest.raises(BackupError, match=f"backup {newer} is not older than .* needs its own"):
        await site.run(site.live, "take")
    assert await site.names() == [full, newer]
    await world.database.close()


DAYS = [f"202601{day:02}T03{minute:02}00Z" for day in range(1, 29) for minute in (0, 30)]


@pytest.mark.parametrize(
    ("names", "days", "weeks", "expected"),
    [
        ([], 7, 4, []),
        (DAYS[:3], 7, 4, [DAYS[1], DAYS[2]]),
        # 2026-01-28 is a Wednesday: weeks end on the 28th, 25th and 18th.
        (DAYS, 3, 0, ["20260126T033000Z", "20260127T033000Z", "20260128T033000Z"]),
        (DAYS, 1, 3, ["20260118T033000Z", "20260125T033000Z", "20260128T033000Z"]),
        # Nothing goes because time passes.
        (["20200101T000000Z", "20260101T000000Z"], 7, 4, ["20200101T000000Z", "20260101T000000Z"]),
    ],
)
def test_the_newest_of_days_and_weeks_are_kept(
    names: list[str], days: int, weeks: int, expected: list[str]
) -> None:
    assert sorted(kept(names, days=days, weeks=weeks)) == expected


async def test_what_no_backup_names_is_removed_a_day_later(folder_site: Site) -> None:
    site = folder_site
    world = World(site.live)
    archive = site.folder / "archive"

    def age(days: float) -> None:
        for file in archive.rglob("*.*"):
            at = file.stat().st_mtime - 86_400 * days
            os.utime(file, (at, at))

    def copies() -> int:
        return len(list((archive / "objects").rglob("*.*")))

    for path in ("stays", "goes"):
        await world.add(path, path.encode())
    await site.run(site.live, "take")
    (archive / "backups" / NAME).mkdir()
    (archive / "backups" / NAME / DUMP).write_bytes(b"of one that was killed")
    await world.delete("goes")
    age(0.9)
    settings = {"BACKUP_KEEP_DAYS": "1", "BACKUP_KEEP_WEEKS": "0"}
    await site.run(site.live, "take", **settings)
    assert (archive / "backups" / NAME).exists(), "it may run still"
    assert len(await site.names()) == 1
    assert copies() == 2, "one that runs may name it"
    age(0.2)
    await site.run(site.live, "take", **settings)
    assert not (archive / "backups" / NAME).exists()
    assert copies() == 1
    await site.run(site.live, "verify")

    # What would go is not told by a list that is damaged; the backup itself is a good one.
    [last] = await site.names()
    opened = site.opened(AgeArchive)
    shutil.copytree(archive / "backups" / last, archive / "backups" / NAME)
    await opened.commit(replace(await opened.summary(last), name=NAME))
    (archive / "backups" / NAME / COPIES).write_bytes(gzip.compress(b""))
    await world.delete("stays")
    await world.add("other")
    age(2)
    await site.run(site.live, "take")
    [first, *others] = await site.names()
    assert (first, len(others), copies()) == (NAME, 2, 2)
    await world.database.close()
