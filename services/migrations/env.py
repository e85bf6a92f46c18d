"""Alembic's entry point; ``__main__`` puts the connection into the config.

A migration that was killed in the middle is run again from its beginning. On SQLite nothing of it
is left, because all is one transaction. MariaDB commits each statement that changes the schema, so
there each of them looks whether it was done: what operations cannot say, a migration says itself.
"""

from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.ddl.mysql import MySQLImpl

from services.common.tables import metadata


class _Repeatable(MySQLImpl):
    """Takes the place of the class that it is made of, by the name of the dialect."""

    __dialect__ = "mysql"

    def create_table(self, table: sa.Table, **how: Any) -> None:
        super().create_table(table, **how | {"if_not_exists": True})

    def add_column(self, table_name: str, column: sa.Column[Any], **how: Any) -> None:
        super().add_column(table_name, column, **how | {"if_not_exists": True})

    def create_index(self, index: sa.Index, **how: Any) -> None:
        super().create_index(index, **how | {"if_not_exists": True})

    def drop_index(self, index: sa.Index, **how: Any) -> None:
        super().drop_index(index, **how | {"if_exists": True})


_connection: sa.Connection = context.config.attributes["connection"]
context.configure(
    connection=_connection,
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=_connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
