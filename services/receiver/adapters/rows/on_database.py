"""What all rows have: the database that they are in."""

from services.common.database import Database


class OnDatabase:
    """An adapter that has nothing else."""

    def __init__(self, database: Database) -> None:
        self._database = database
