import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pyrage
import pytest
import sqlalchemy as sa

from services.backup import app
from services.backup.adapters.archive import AgeArchive
from services.backup.domain import NAME_FORMAT
from services.backup.settings import ArchiveSettings
from services.common.database import Database
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.common.tables import backups, metadata
from services.testing.fixtures import new_mariadb_settings, new_mariadb_url
from services.testing.servers import MariaDb, VersityGw

_names = (
    (datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=number)).strftime(NAME_FORMAT)
    for number in itertools.count()
)

T = TypeVar("T", bound=AgeArchive)


@dataclass
class Place:
    """A database and a store, as the environment of a service names them."""

    settings: dict[str, str]

    @property
    def database(self) -> DatabaseSettings:
        return DatabaseSettings(database_url=self.settings["DATABASE_URL"])

    @property
    def store(self) -> ObjectStoreSettings:
        values = {name.lower(): value for name, value in self.settings.items()}
        return ObjectStoreSettings.model_validate(values)


@dataclass
class Site:
    """Where things are, and other places that are empty; keys and an archive for all of them."""

    folder: Path
    live: Place
    empty: list[Place]
    archive: dict[str, str]
    identity: pyrage.x25519.Identity = field(default_factory=pyrage.x25519.Identity.generate)

    def environment(self, place: Place) -> dict[str, str]:
        key = self.folder / "key.txt"
        key.write_text(f"# created: today\n{self.identity}\n")
        return {
            **place.settings,
            **self.archive,
            "BACKUP_RECIPIENT": str(self.identity.to_public()),
            "BACKUP_IDENTITY_FILE": str(key),
        }

    async def run(self, place: Place, command: str, name: str | None = None, **more: str) -> None:
        """Run a command as ``python -m services.backup`` does."""
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in {**self.environment(place), **more}.items():
                patch.setenv(variable, value)
            # No two begin in the same second.
            patch.setattr(app, "new_name", lambda: next(_names))
            await {**app.COMMANDS, "restore --check": app.check}[command](name)

    def opened(self, kind: type[T]) -> T:
        """Return the archive, to be written and read."""
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in self.archive.items():
                patch.setenv(variable, value)
            settings = ArchiveSettings().archive
        return kind(settings, recipient=self.identity.to_public(), identity=self.identity)

    async def names(self) -> list[str]:
        """Return which backups there are."""
        return await self.opened(AgeArchive).names()


@pytest.fixture
def folder_site(tmp_path: Path, sqlite_settings: DatabaseSettings) -> Site:
    """SQLite and folders, as on one machine."""

    def place(name: str, database: str) -> Place:
        return Place(
            {"DATABASE_URL": database, "OBJECT_STORE_URL": (tmp_path / name / "store").as_uri()}
        )

    def new(name: str) -> Place:
        (tmp_path / name).mkdir()
        return place(name, f"sqlite+aiosqlite:///{tmp_path / name / 'new.db'}")

    return Site(
        tmp_path,
        place("live", sqlite_settings.database_url),
        [new("first"), new("second")],
        {"BACKUP_STORE_URL": (tmp_path / "archive").as_uri()},
    )


@pytest.fixture
def cluster_site(tmp_path: Path, mariadb: MariaDb) -> Iterator[Site]:
    """MariaDB and two S3 servers, as in a cluster."""
    keys = {"ACCESS_KEY_ID": "access_key_id", "SECRET_ACCESS_KEY": "secret_access_key"}
    servers: list[VersityGw] = []

    def server(name: str, prefix: str) -> dict[str, str]:
        (tmp_path / name).mkdir()
        gateway = VersityGw(tmp_path / name).start()
        servers.append(gateway)
        told = {f"{prefix}S3_ENDPOINT": gateway.endpoint}
        for variable, attribute in keys.items():
            file = tmp_path / name / attribute
            file.write_text(getattr(gateway, attribute))
            told[f"{prefix}S3_{variable}_FILE"] = str(file)
        return told

    def place(bucket: str, database: str) -> Place:
        (tmp_path / "store" / "buckets" / bucket).mkdir(parents=True, exist_ok=True)
        settings = {"DATABASE_URL": database, "OBJECT_STORE_URL": f"s3://{bucket}", **store}
        return Place(settings)

    store = server("store", "")
    yield Site(
        tmp_path,
        place("facestack", new_mariadb_settings(mariadb).database_url),
        [place(name, new_mariadb_url(mariadb)) for name in ("first", "second")],
        {"BACKUP_STORE_URL": "s3://facestack", **server("archive", "BACKUP_")},
    )
    for gateway in servers:
        gateway.stop()


@pytest.fixture(params=["folder_site", "cluster_site"])
def site(request: pytest.FixtureRequest) -> Site:
    made: Site = request.getfixturevalue(request.param)
    return made


async def rows(place: Place) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything but the backups' own rows."""
    database = Database(place.database)
    found = {}
    async with database.reading() as connection:
        for table in metadata.sorted_tables:
            if table is not backups:
                query = sa.select(table).order_by(*table.primary_key)
                found[table.name] = [tuple(row) for row in await connection.execute(query)]
    await database.close()
    return found


async def objects(place: Place) -> dict[str, str]:
    """Return the SHA-256 of every picture."""
    store = ObjectStore(place.store)
    keys = [info.key async for info in store.list("pictures/")]
    return {key: hashlib.sha256(await store.get(key)).hexdigest() for key in keys}
