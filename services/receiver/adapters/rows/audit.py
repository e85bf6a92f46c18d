"""The audit in the database, and the transactions that write it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import MARIADB_NOW, SQLITE_NOW
from services.common.database import Database
from services.common.settings import DatabaseSettings
from services.common.tables import audit, garbage, log_in_failures
from services.receiver.adapters.rows.on_database import OnDatabase, page_by_id
from services.receiver.domain.acts import Record, Recorded, SubjectKind, acting
from services.receiver.domain.cursors import Page

_FIELDS: Final = Record._fields
_TYPES: Final = {"status": "INT", "times": "INT"}
_TEXT: Final = "VARCHAR(200) CHARACTER SET utf8mb4"
_TAKEN_APART: Final = ", ".join(
    f"{name} {_TYPES.get(name, _TEXT)} PATH '$[{at}]'" for at, name in enumerate(_FIELDS)
)

# As images are inserted, for the reason there: one statement, whatever the number of rows.
_INSERT_SQLITE: Final = f"""
INSERT INTO audit (at, {", ".join(_FIELDS)})
SELECT {SQLITE_NOW}, {", ".join(f"json_extract(value, '$[{at}]')" for at in range(len(_FIELDS)))}
FROM json_each(?)
"""  # noqa: S608, constants
_INSERT_MARIADB: Final = f"""
INSERT INTO audit (at, {", ".join(_FIELDS)})
SELECT {MARIADB_NOW}, {", ".join(_FIELDS)}
FROM JSON_TABLE(%s, '$[*]' COLUMNS ({_TAKEN_APART})) AS noted
"""  # noqa: S608

_CHANGED: Final = "changed"

_NOTES: Final = (garbage, log_in_failures)
"""Of objects that are about to be stored, and of attempts: nobody has done anything by them yet."""


class AuditedDatabase(Database):
    """A database whose transactions record the act of the request that they are part of.

    The first one that changes more than notes does, so that neither is there without the other.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        super().__init__(settings)
        event.listen(self._engine.sync_engine, "after_cursor_execute", _note_change)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction for writing."""
        act = acting.get()
        async with super().transaction() as connection:
            connection.info[_CHANGED] = False
            yield connection
            records = act is not None and not act.recorded and connection.info[_CHANGED]
            if act is not None and records:
                await add_records(connection, [act.done()])
        if act is not None and records:
            act.recorded = True


def _note_change(
    connection: sa.Connection,
    cursor: Any,
    _: str,
    __: object,
    context: sa.engine.interfaces.ExecutionContext,
    ___: bool,
) -> None:
    statement = context.invoked_statement
    if (
        isinstance(statement, sa.UpdateBase)
        and statement.table not in _NOTES
        and (statement.is_insert or cursor.rowcount)
    ):
        connection.info[_CHANGED] = True


async def add_records(connection: AsyncConnection, records: Sequence[Record]) -> None:
    """Insert rows, at the database's time."""
    if records:
        statement = _INSERT_SQLITE if connection.dialect.name == "sqlite" else _INSERT_MARIADB
        content = orjson.dumps(records, default=tuple).decode()
        await connection.exec_driver_sql(statement, (content,))


class DatabaseAudit(OnDatabase):
    """The port ``AuditRows`` on a database."""

    async def add(self, records: Sequence[Record]) -> None:
        async with self._database.transaction() as connection:
            await add_records(connection, records)

    async def page(
        self,
        *,
        subjects: Mapping[SubjectKind, int | None],
        who: str | None,
        before: int | None,
        limit: int,
    ) -> Page[Recorded, int]:
        """Return what was done last, before a place: to these, and by whoever has the name."""
        query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit + 1)
        for kind, subject_id in subjects.items():
            if subject_id is not None:
                query = query.where(
                    audit.c.subject_kind == kind, audit.c.subject_id == str(subject_id)
                )
        if who is not None:
            query = query.where(audit.c.who == who)
        if before is not None:
            query = query.where(audit.c.id < before)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return page_by_id(rows, _recorded, limit)


def _recorded(row: Any) -> Recorded:
    return Recorded(*(getattr(row, field.name) for field in fields(Recorded)))
