"""Whoever is killed after any statement is followed by a run that ends in the same schema."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from services.common.settings import DatabaseSettings
from services.migrations import __main__ as migrations
from services.migrations.__main__ import migrate
from services.testing.fixtures import new_mariadb_url

_CHANGES: Final = re.compile("CREATE|ALTER|DROP|INSERT|UPDATE|DELETE")


class _KilledError(Exception):
    """As if the process were no more."""


class Killer:
    """Kills a run after the first statement that changes something and has killed none yet."""

    def __init__(self) -> None:
        self.after = set[str]()

    def watch(self, engine: sa.Engine) -> sa.Engine:
        sa.event.listen(engine, "after_cursor_execute", self._executed)
        return engine

    def _executed(self, *arguments: Any) -> None:
        statement, parameters = arguments[2:4]
        done = f"{statement.strip()} {parameters}"
        if _CHANGES.match(done) and done not in self.after:
            self.after.add(done)
            raise _KilledError


def new_settings(kind: str, request: pytest.FixtureRequest, file: Path) -> DatabaseSettings:
    if kind == "sqlite":
        return DatabaseSettings(database_url=f"sqlite+aiosqlite:///{file}")
    return DatabaseSettings(database_url=new_mariadb_url(request.getfixturevalue("mariadb")))


def content(settings: DatabaseSettings) -> dict[str, list[tuple[Any, ...]]]:
    """Return how each table was made, and the rows that migrations make."""
    engine = migrations._create_engine(settings)
    with engine.connect() as connection:
        names = sa.inspect(connection).get_table_names()
        if engine.dialect.name == "sqlite":
            how = {"": "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"}
        else:
            how = {name: f"SHOW CREATE TABLE {name}" for name in names}
        how |= {f"{name}'s": f"SELECT * FROM {name}" for name in names if "_work" in name}
        how["revision"] = "SELECT version_num FROM alembic_version"
        found = {
            name: [tuple(row) for row in connection.exec_driver_sql(query)]
            for name, query in how.items()
        }
    engine.dispose()
    return found


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
def test_whoever_is_killed_after_any_statement_is_followed_by_the_same_schema(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once, killed = (
        new_settings(kind, request, tmp_path / name) for name in ("at once", "killed")
    )
    migrate(at_once)
    killer, create = Killer(), migrations._create_engine
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "_create_engine", lambda one: killer.watch(create(one)))
        while True:
            with suppress(_KilledError):
                migrate(killed)
                break
    assert len(killer.after) > 60
    assert content(killed) == content(at_once)
