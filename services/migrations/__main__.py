"""Run every migration that the database has not had. Running it again changes nothing."""

from pathlib import Path

import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config

from services.common import logs
from services.common.settings import DatabaseSettings, load, read_secret
from services.migrations.settings import MigrationSettings


def migrate(settings: DatabaseSettings) -> None:
    """Upgrade the database to the newest revision."""
    url = sa.make_url(settings.database_url)
    sqlite = url.get_backend_name() == "sqlite"
    url = url.set(drivername="sqlite+pysqlite" if sqlite else "mysql+pymysql")
    if settings.database_password_file:
        url = url.set(password=read_secret(settings.database_password_file))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            # MariaDB commits each DDL statement, so two runs at once must take turns.
            if not sqlite:
                locked = connection.scalar(sa.text("SELECT GET_LOCK('facestack-migrations', 60)"))
                connection.commit()
                if not locked:
                    raise TimeoutError("another migration has been running for a minute")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    finally:
        engine.dispose()


def main() -> None:
    """Migrate the database that the environment names."""
    settings = load(MigrationSettings)
    logs.configure("migrations", settings.log_level)
    log = structlog.get_logger("services.migrations")
    try:
        migrate(settings)
    except (sa.exc.OperationalError, OSError) as error:
        reason = getattr(error, "orig", None) or error
        raise SystemExit(f"migrations: database cannot be migrated: {reason}") from None
    log.info("database is up to date")


if __name__ == "__main__":
    main()
