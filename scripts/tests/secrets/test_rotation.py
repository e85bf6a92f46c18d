"""A rotation as a cluster goes through it, on a real MariaDB: who may log in, step by step."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest
import yaml

from scripts.tests.secrets.conftest import ROOT, Site
from services.common.settings import DatabaseSettings
from services.migrations.__main__ import migrate
from services.migrations.users import GRANTS, read_users
from services.testing.servers import MariaDb

USERS = {user: f"database-{user.replace('_', '-')}" for user in GRANTS}


@dataclass
class Database:
    """A server as the cluster has it, and the files that its pods would see."""

    site: Site
    port: int
    folder: Path

    def migrate(self) -> None:
        """Run the migrations with what their Job mounts."""
        for volume in _volumes():
            target = self.folder / volume["name"]
            target.mkdir(exist_ok=True)
            for file in target.iterdir():
                file.unlink()
            sources = (volume.get("projected") or {}).get("sources") or [volume]
            for source in (one["secret"] for one in sources if "secret" in one):
                self._mount(target, source)
        settings = DatabaseSettings(
            database_url=f"mysql+asyncmy://root@127.0.0.1:{self.port}/facestack",
            database_password_file=self.folder / "database" / "password",
        )
        migrate(settings, read_users(self.folder / "database-users"))

    def _mount(self, target: Path, source: dict[str, Any]) -> None:
        """Write the files as the kubelet does, which refuses a key that is not there."""
        if str(source.get("name")).startswith("tls-"):
            return  # no password, and nothing that rotates with them
        values = self.site.values(source.get("secretName") or source["name"])
        paths = {item["key"]: item["path"] for item in source.get("items") or ()}
        for key, path in (paths or {key: key for key in values}).items():
            if key in values:
                (target / path).write_text(values[key])
            elif not source.get("optional"):
                raise KeyError(key)

    def takes(self, user: str, password: str) -> bool:
        try:
            pymysql.connect(
                host="127.0.0.1", port=self.port, user=user, password=password, database="facestack"
            ).close()
        except pymysql.err.OperationalError as error:
            if error.args[0] != 1045:
                raise
            return False
        return True


def _volumes() -> list[dict[str, Any]]:
    job = next(yaml.safe_load_all((ROOT / "base" / "migrations" / "job.yaml").read_text()))
    volumes: list[dict[str, Any]] = job["spec"]["template"]["spec"]["volumes"]
    return [volume for volume in volumes if volume["name"].startswith("database")]


@pytest.fixture
def database(site: Site, tmp_path: Path) -> Iterator[Database]:
    """A server whose root has the password that `make secrets` made, and nothing else."""
    site.make()
    folder = tmp_path / "server"
    folder.mkdir()
    server = MariaDb(folder).start()
    password = site.values("mariadb-admin")["password"]
    with pymysql.connect(host="127.0.0.1", port=server.port, user="root") as connection:
        for statement in (
            "CREATE DATABASE facestack",
            f"CREATE USER root@'%' IDENTIFIED BY '{password}'",
            "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION",
            f"ALTER USER root@localhost IDENTIFIED BY '{password}'",
            "DELETE FROM mysql.global_priv WHERE User = 'root' AND Host NOT IN ('%', 'localhost')",
            "FLUSH PRIVILEGES",
        ):
            connection.cursor().execute(statement)
    yield Database(site, server.port, folder)
    server.stop()


@pytest.mark.parametrize("revert", [False, True], ids=["to the end", "reverted"])
def test_old_and_new_log_in_until_the_rotation_is_finished(
    database: Database, revert: bool
) -> None:
    site = database.site
    logins = {**USERS, "root": "mariadb-admin"}
    first = {user: site.values(name)["password"] for user, name in logins.items()}
    database.migrate()
    before = site.files()
    assert all(database.takes(user, text) for user, text in first.items())

    site.call("--rotate=database,mariadb-admin")
    second = {user: site.values(name)["password"] for user, name in logins.items()}
    assert not any(database.takes(user, text) for user, text in second.items())
    database.migrate()
    for user in logins:
        assert database.takes(user, first[user]), "a pod that has not been replaced yet"
        assert database.takes(user, second[user]), "a new one"
        assert not database.takes(user, "another")

    if revert:
        for path, text in before.items():
            (site.root / path).write_text(text)
        # The Secret has the first password only: the server knows it as well.
        database.migrate()
        last, gone = first, second
    else:
        site.call("--finish=unchecked")
        database.migrate()
        last, gone = second, first
    for user in logins:
        assert database.takes(user, last[user])
        assert not database.takes(user, gone[user])
