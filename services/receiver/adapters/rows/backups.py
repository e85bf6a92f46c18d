"""How the backups stand, in the database."""

from services.common.backup_rows import backup_report
from services.common.clock import database_now
from services.common.database import Database
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.domain.backups import BackupStatus


class DatabaseBackups(OnDatabase):
    """What services/backup writes of its backups."""

    def __init__(self, database: Database, *, max_age_seconds: float) -> None:
        super().__init__(database)
        self._max_age_seconds = max_age_seconds

    async def report(self) -> BackupStatus | None:
        """Return how they stand; None where none was ever tried."""
        async with self._database.reading() as connection:
            found = await backup_report(connection, database_now)
        if found is None:
            return None
        is_old = found.without_seconds > self._max_age_seconds
        return BackupStatus(found.last_good_seconds, is_old, found.error)
