"""Run every migration that the database has not had. Running it again changes nothing."""

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from services.common import logs
from services.common.errors import RefusedError
from services.common.jobs import NotYetError, end_on_sigterm, persist
from services.common.passwords import log_in_with
from services.common.settings import DatabaseSettings, load, read_passwords
from services.migrations.settings import MigrationSettings
from services.migrations.users import UsersError, apply_own, apply_users, read_users

log = structlog.get_logger("services.migrations")

# The driver's numbers for a server that cannot be reached, breaks off, is full or ends.
_AWAY: Final = frozenset({1040, 1053, 2002, 2003, 2006, 2013})
_CONNECT_TIMEOUT_SECONDS: Final = 5


def migrate(
    settings: DatabaseSettings,
    users: Mapping[str, Sequence[str]] | None = None,
    *,
    wait_seconds: float = 0.0,
) -> None:
    """Upgrade the database to the newest revision, then bring the users up to date.

    A database that a newer version has upgraded stays as it is, and users keep what that version
    gave them: this one goes on working there.
    """
    engine = _create_engine(settings)
    if users and engine.dialect.name == "sqlite":
        raise UsersError("DATABASE_USERS_FOLDER is set, but SQLite has no users")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    try:
        with persist(lambda: _connect(engine), seconds=wait_seconds) as connection:
            # MariaDB commits each DDL statement, so two runs at once must take turns.
            if engine.dialect.name != "sqlite":
                locked = connection.scalar(sa.text("SELECT GET_LOCK('facestack-migrations', 60)"))
                connection.commit()
                if not locked:
                    raise TimeoutError("another migration has been running for a minute")
            newer = _revision_of_a_newer_version(connection, config)
            if newer:
                log.info("database was upgraded by a newer version, left alone", revision=newer)
            else:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
            apply_users(connection, users or {}, revoke=not newer)
            if settings.database_password_file and engine.dialect.name != "sqlite":
                apply_own(connection, tuple(read_passwords(settings.database_password_file)))
            connection.commit()
    finally:
        engine.dispose()


def _create_engine(settings: DatabaseSettings) -> sa.Engine:
    url = sa.make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url.set(drivername="sqlite+pysqlite"), poolclass=sa.NullPool)
        # The driver begins no transaction before a statement that changes the schema.
        sa.event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
        sa.event.listen(
            engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
        return engine
    engine = sa.create_engine(
        url.set(drivername="mysql+pymysql"),
        poolclass=sa.NullPool,
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_SECONDS, **_encrypted(settings)},
    )
    if settings.database_password_file:
        log_in_with(engine, settings.database_password_file)
    return engine


def _encrypted(settings: DatabaseSettings) -> dict[str, ssl.SSLContext]:
    if settings.database_ca_file is None:
        return {}
    return {"ssl": ssl.create_default_context(cafile=settings.database_ca_file)}


def _connect(engine: sa.Engine) -> sa.Connection:
    try:
        return engine.connect()
    except sa.exc.OperationalError as error:
        arguments: tuple[object, ...] = getattr(error.orig, "args", ())
        if arguments and arguments[0] in _AWAY:
            raise NotYetError(str(error.orig)) from error
        raise


def _revision_of_a_newer_version(connection: sa.Connection, config: Config) -> str | None:
    found = MigrationContext.configure(connection).get_current_revision()
    connection.commit()
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    return None if found in known else found


def main() -> None:
    """Migrate the database that the environment names."""
    end_on_sigterm()
    settings = load(MigrationSettings)
    logs.configure("migrations", settings.log_level)
    try:
        users = read_users(settings.database_users_folder) if settings.database_users_folder else {}
        migrate(settings, users, wait_seconds=settings.wait_seconds)
    except RefusedError as error:
        raise SystemExit(f"migrations: {error}") from None
    except (sa.exc.DBAPIError, NotYetError, OSError) as error:
        reason = getattr(error, "orig", None) or error
        raise SystemExit(f"migrations: database cannot be migrated: {reason}") from None
    log.info("database is up to date")


if __name__ == "__main__":
    main()
