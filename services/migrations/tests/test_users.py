"""The services' users on a real MariaDB server."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
import structlog

from services.common.database import Database
from services.common.errors import DatabaseUnavailableError
from services.common.settings import DatabaseSettings
from services.migrations.__main__ import migrate
from services.migrations.tests.every_statement import CHANGED, run_every_statement
from services.migrations.users import GRANTS, UsersError, read_users
from services.testing.processes import running
from services.testing.servers import MariaDb
from services.testing.waiting import eventually

# What the first user of a managed server has: much, but neither SUPER nor FILE.
MASTER = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, RELOAD, PROCESS, REFERENCES, INDEX, ALTER,"
    " SHOW DATABASES, CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, REPLICATION SLAVE,"
    " REPLICATION CLIENT, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, CREATE USER,"
    " EVENT, TRIGGER, DELETE HISTORY"
)

_names = itertools.count(1)


class Site:
    """An empty database, the folder of the users' passwords, and a folder for everything else."""

    def __init__(self, mariadb: MariaDb, folder: Path, admin: str) -> None:
        self.port = mariadb.port
        self.name = f"facestack_users_{next(_names)}"
        self.folder = folder / "users"
        self.folder.mkdir()
        for user in GRANTS:
            (self.folder / user).write_text(f"first password of {user}\n")
        self._copies = folder
        self._databases: list[Database] = []
        self.root(f"CREATE DATABASE {self.name}")
        password = folder / "admin"
        password.write_text("admin's" if admin == "master" else "")
        if admin == "master":
            self.root("CREATE OR REPLACE USER master@'%' IDENTIFIED BY 'admin''s'")
            self.root(f"GRANT {MASTER} ON *.* TO master@'%' WITH GRANT OPTION")
        self.settings = DatabaseSettings(
            database_url=f"mysql+asyncmy://{admin}@127.0.0.1:{self.port}/{self.name}",
            database_password_file=password,
        )

    def root(self, statement: str) -> list[tuple[Any, ...]]:
        with pymysql.connect(host="127.0.0.1", port=self.port, user="root") as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            connection.commit()
            return list(cursor.fetchall())

    def migrate(self) -> None:
        migrate(self.settings, read_users(self.folder))

    def database(self, user: str, password: Path | None = None) -> Database:
        """Connect as a service does."""
        settings = DatabaseSettings(
            database_url=f"mysql+asyncmy://{user}@127.0.0.1:{self.port}/{self.name}",
            database_password_file=password or self.folder / user,
        )
        return Database(settings)

    def copy_of_password(self, user: str) -> Path:
        """Return a file like that in a pod that does not follow changes."""
        copy = self._copies / f"{user} {next(_names)}"
        copy.write_text((self.folder / user).read_text())
        return copy

    def grants(self, user: str) -> set[str]:
        """Return everything that the server says the user may do."""
        lines = [line for (line,) in self.root(f"SHOW GRANTS FOR {user}@'%'")]
        return {line for line in lines if not line.startswith("GRANT USAGE ON *.* ")}

    def expected(self, user: str) -> set[str]:
        return {
            f"GRANT {privileges} ON `{self.name}`.`{table}` TO `{user}`@`%`"
            for table, privileges in GRANTS[user].items()
        }


@pytest.fixture
def site(mariadb: MariaDb, tmp_path: Path) -> Iterator[Site]:
    made = Site(mariadb, tmp_path, "root")
    yield made
    for user in GRANTS:
        made.root(f"DROP USER IF EXISTS {user}@'%'")


@pytest.fixture(params=["root", "master"])
def any_admin(request: pytest.FixtureRequest, mariadb: MariaDb, tmp_path: Path) -> Iterator[Site]:
    made = Site(mariadb, tmp_path, request.param)
    yield made
    for user in GRANTS:
        made.root(f"DROP USER IF EXISTS {user}@'%'")


async def fails(database: Database, statement: str) -> str:
    """Return the server's refusal."""
    try:
        async with database.transaction() as connection:
            await connection.exec_driver_sql(statement)
    except (sa.exc.DBAPIError, DatabaseUnavailableError) as error:
        return str(error)
    finally:
        await database.close()
    pytest.fail(f"allowed: {statement}")


async def connects(database: Database) -> bool:
    """Tell whether the user's password is taken."""
    problem = ""
    try:
        await database.check()
    except DatabaseUnavailableError as error:
        problem = str(error)
    await database.close()
    assert not problem or "Access denied" in problem
    return not problem


async def test_every_statement_of_each_service_is_allowed_to_its_user(any_admin: Site) -> None:
    any_admin.migrate()
    databases = [any_admin.database(user) for user in GRANTS]
    any_admin.root(CHANGED.replace("people_work", f"{any_admin.name}.people_work"))
    await run_every_statement(*databases)
    for database in databases:
        await database.close()


ALL = list(GRANTS)
REFUSED = [
    *((user, "DROP TABLE images") for user in ALL),
    *((user, "ALTER TABLE images ADD COLUMN more INT") for user in ALL),
    *((user, "TRUNCATE faces") for user in ALL),
    *((user, "CREATE TABLE more (id INT)") for user in ALL),
    *((user, "CREATE USER other") for user in ALL),
    *((user, "GRANT SELECT ON images TO redeemer") for user in ALL),
    *((user, "SELECT * FROM mysql.user") for user in ALL),
    *((user, "SELECT * FROM mysql.global_priv") for user in ALL),
    *((user, "SELECT 1 INTO OUTFILE '/tmp/out'") for user in ALL),
    *((user, "SELECT LOAD_FILE('/etc/passwd') FROM mysql.user") for user in ALL),
    *((user, "SET GLOBAL max_connections = 1") for user in ALL),
    *((user, "UPDATE alembic_version SET version_num = '0'") for user in ALL),
    *((user, "LOCK TABLES images WRITE") for user in ALL),
    *((user, "CREATE PROCEDURE p() SELECT 1") for user in ALL),
    *((user, "KILL 1") for user in ALL),
    ("image_processor", "DELETE FROM images"),
    ("image_processor", "INSERT INTO images (path) VALUES ('x')"),
    ("image_processor", "UPDATE faces SET person = 'me'"),
    ("image_processor", "UPDATE persons SET name = 'me'"),
    ("image_processor", "INSERT INTO person_images (person_id) VALUES (1)"),
    ("redeemer", "INSERT INTO images (path) VALUES ('x')"),
    ("redeemer", "DELETE FROM faces"),
    ("redeemer", "UPDATE persons SET name = 'me'"),
    ("redeemer", "DELETE FROM persons"),
    ("redeemer", "UPDATE person_images SET image_name = 'x'"),
    ("redeemer", "SELECT * FROM face_encodings"),
    ("redeemer", "DELETE FROM face_groups"),
    ("redeemer", "UPDATE audit SET who = 'me'"),
    ("image_processor", "SELECT * FROM garbage"),
    ("image_processor", "DELETE FROM people_work"),
    ("people", "DELETE FROM faces"),
    ("people", "UPDATE images SET status = 'pending'"),
    ("people", "UPDATE face_encodings SET engine = 'x'"),
    ("people", "UPDATE persons SET name = 'me'"),
    ("people", "DELETE FROM face_denials"),
    ("people", "INSERT INTO people_work (person_id) VALUES (1)"),
    ("people", "DELETE FROM events"),
    ("people", "DELETE FROM group_denials"),
    ("people", "DELETE FROM face_groups"),
    ("receiver", "DELETE FROM face_groups"),
    ("receiver", "UPDATE group_faces SET group_id = 1"),
    ("backup", "DELETE FROM backups"),
    ("backup", "INSERT INTO images (path) VALUES ('x')"),
    ("redeemer", "UPDATE backups SET held_until = NULL"),
    ("webhooks", "SELECT * FROM face_encodings"),
    ("webhooks", "UPDATE images SET status = 'pending'"),
    ("webhooks", "DELETE FROM events"),
    ("receiver", "DELETE FROM webhook_deliveries"),
    ("receiver", "DELETE FROM events"),
    ("receiver", "UPDATE audit SET who = 'somebody else'"),
    ("receiver", "DELETE FROM audit"),
]


@pytest.fixture(scope="module")
def walls(mariadb: MariaDb, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(mariadb, tmp_path_factory.mktemp("walls"), "root")
    made.migrate()
    yield made
    for user in GRANTS:
        made.root(f"DROP USER IF EXISTS {user}@'%'")


@pytest.mark.parametrize(("user", "statement"), REFUSED)
async def test_what_a_service_need_not_is_refused(walls: Site, user: str, statement: str) -> None:
    refusal = await fails(walls.database(user), statement)
    assert "denied" in refusal or "not owner" in refusal or "Unknown thread" in refusal


@pytest.mark.parametrize("user", ALL)
async def test_a_user_sees_no_other_database(walls: Site, user: str) -> None:
    database = walls.database(user)
    async with database.reading() as connection:
        seen = set(await connection.scalars(sa.text("SHOW DATABASES")))
    await database.close()
    assert seen == {walls.name, "information_schema"}


def test_the_result_is_exactly_the_table_whatever_was_before(any_admin: Site) -> None:
    any_admin.migrate()
    name = any_admin.name
    any_admin.root(f"CREATE DATABASE {name}_other")
    any_admin.root(f"CREATE TABLE {name}_other.secrets (id INT, name INT)")
    any_admin.root(f"CREATE PROCEDURE {name}.p() SELECT 1")
    any_admin.root(f"CREATE ROLE {name}_role")
    for grant in (
        f"ALL ON {name}.*",
        f"SELECT, DELETE ON {name}.images",
        f"ALL ON {name}.alembic_version",
        f"UPDATE (`left`), INSERT (`top`, `right`) ON {name}.faces",
        f"SELECT ON {name}_other.secrets",
        f"SELECT (id, name), UPDATE (id) ON {name}_other.secrets",
        f"EXECUTE ON PROCEDURE {name}.p",
        "PROCESS, RELOAD ON *.*",
    ):
        any_admin.root(f"GRANT {grant} TO redeemer@'%'")
    any_admin.root(f"GRANT SELECT ON {name}.persons TO redeemer@'%' WITH GRANT OPTION")
    any_admin.root(f"REVOKE UPDATE ON {name}.images FROM redeemer@'%'")
    if "//root@" in any_admin.settings.database_url:  # nobody takes away what he has not
        any_admin.root(f"GRANT {name}_role TO redeemer@'%' WITH ADMIN OPTION")
        any_admin.root("GRANT ALL ON *.* TO redeemer@'%' WITH GRANT OPTION")
        any_admin.root("GRANT PROXY ON receiver@'%' TO redeemer@'%'")
    assert len(any_admin.grants("redeemer")) > 5
    any_admin.migrate()
    for user in GRANTS:
        assert any_admin.grants(user) == any_admin.expected(user)


def test_what_a_user_keeps_is_never_taken_away(site: Site) -> None:
    site.migrate()
    site.root(f"GRANT DELETE, INSERT ON {site.name}.faces TO redeemer@'%'")
    with structlog.testing.capture_logs() as logs:
        site.migrate()
    taken = [line["grant"] for line in logs if line["event"].startswith("taking away")]
    assert taken == [f"DELETE, INSERT ON `{site.name}`.`faces`"]


def test_a_version_older_than_the_database_takes_nothing_away(site: Site) -> None:
    site.migrate()
    site.root(f"UPDATE {site.name}.alembic_version SET version_num = '9999'")
    site.root(f"GRANT SELECT ON {site.name}.faces TO redeemer@'%'")
    site.root(f"REVOKE UPDATE ON {site.name}.images FROM redeemer@'%'")
    site.migrate()
    kept = f"GRANT SELECT ON `{site.name}`.`faces` TO `redeemer`@`%`"
    assert site.grants("redeemer") == {*site.expected("redeemer"), kept}


PASSWORDS = [
    "it's",
    'say "hi"',
    "back\\slash\\",
    "100%s %(a)s %%",
    "; DROP USER root@'%'; -- ",
    "`tick` :name $x {y} #",
    "naïve €uro 密码 🙂",
    "x" * 500,
    "in the\nmiddle",
]


@pytest.mark.parametrize("password", PASSWORDS)
async def test_any_password_works(site: Site, password: str) -> None:
    (site.folder / "redeemer").write_text(password + "\n")
    site.migrate()
    assert await connects(site.database("redeemer"))


async def test_a_changed_file_and_a_new_run_change_the_password(site: Site) -> None:
    site.migrate()
    old = site.copy_of_password("redeemer")
    working = site.database("redeemer", old)
    async with working.reading() as connection:
        (site.folder / "redeemer").write_text("second password")
        site.migrate()
        # Who is connected stays connected.
        assert await connection.scalar(sa.text("SELECT COUNT(*) FROM images")) == 0
    await working.close()
    assert await connects(site.database("redeemer"))
    assert not await connects(site.database("redeemer", old))


async def test_both_passwords_are_valid_while_there_is_a_previous_one(site: Site) -> None:
    site.migrate()
    old = site.copy_of_password("redeemer")
    previous = site.folder / "redeemer.previous"
    previous.write_text(old.read_text())
    (site.folder / "redeemer").write_text("second password")
    site.migrate()
    assert await connects(site.database("redeemer"))
    assert await connects(site.database("redeemer", old))
    previous.write_text("")  # as a key of a Secret whose value was taken out
    site.migrate()
    assert await connects(site.database("redeemer"))
    assert not await connects(site.database("redeemer", old))


async def test_a_running_service_takes_the_new_password_from_its_file(site: Site) -> None:
    site.migrate()
    mounted = site.copy_of_password("redeemer")
    running = site.database("redeemer", mounted)
    await running.check()
    (site.folder / "redeemer").write_text("second password")
    site.migrate()
    site.root(
        "BEGIN NOT ATOMIC FOR one IN (SELECT id FROM information_schema.processlist"
        " WHERE user = 'redeemer') DO KILL one.id; END FOR; END"
    )
    with pytest.raises(DatabaseUnavailableError, match="Access denied"):
        await running.check()
    mounted.write_text("second password")
    await running.check()
    await running.close()


async def test_a_rotation_refuses_nobody_whoever_hears_of_it_first(site: Site) -> None:
    """Files of pods, the server, and back again: any order, as a Secret's volume follows late."""
    first = "first password of redeemer"
    site.migrate()
    pod = site.copy_of_password("redeemer")
    previous_in_pod = pod.with_name(f"previous-{pod.name}")

    # The pod hears of it first.
    pod.write_text("second password")
    previous_in_pod.write_text(first)
    assert await connects(site.database("redeemer", pod))
    (site.folder / "redeemer").write_text("second password")
    (site.folder / "redeemer.previous").write_text(first)
    site.migrate()
    for mounted in (pod, site.copy_of_password("redeemer")):
        assert await connects(site.database("redeemer", mounted))

    # The commit is reverted; a pod that started meanwhile still has the new files.
    (site.folder / "redeemer").write_text(first)
    (site.folder / "redeemer.previous").unlink()
    site.migrate()
    assert await connects(site.database("redeemer", pod))

    # And once more, to the end: the server hears of it first.
    pod.write_text(first)
    previous_in_pod.unlink()
    old = site.copy_of_password("redeemer")
    (site.folder / "redeemer").write_text("second password")
    (site.folder / "redeemer.previous").write_text(first)
    site.migrate()
    assert await connects(site.database("redeemer", pod))
    pod.write_text("second password")
    (site.folder / "redeemer.previous").unlink()
    site.migrate()
    assert await connects(site.database("redeemer", pod))
    assert not await connects(site.database("redeemer", old))


async def test_both_passwords_may_be_the_same(site: Site) -> None:
    (site.folder / "redeemer.previous").write_text((site.folder / "redeemer").read_text())
    assert read_users(site.folder)["redeemer"] == ("first password of redeemer",)


@pytest.fixture
def own(mariadb: MariaDb, tmp_path: Path) -> Iterator[Site]:
    """A site whose migrations log in as a user like root in a cluster: here, and from elsewhere."""
    made = Site(mariadb, tmp_path, "root")
    for host in ("%", "localhost"):
        made.root(f"CREATE USER chief@'{host}' IDENTIFIED BY 'old'")
        made.root(f"GRANT ALL ON *.* TO chief@'{host}' WITH GRANT OPTION")
    made.root("CREATE USER chief@'10.0.0.1' IDENTIFIED BY 'of somebody else'")
    file = tmp_path / "chief"
    file.write_text("old")
    made.settings = DatabaseSettings(
        database_url=f"mysql+asyncmy://chief@127.0.0.1:{made.port}/{made.name}",
        database_password_file=file,
    )
    yield made
    for user in (*(f"{user}@'%'" for user in GRANTS), "chief@localhost", "chief@'10.0.0.1'"):
        made.root(f"DROP USER IF EXISTS {user}")
    made.root("DROP USER chief@'%'")


async def test_the_migrations_rotate_their_own_password(own: Site, tmp_path: Path) -> None:
    new, old, wrong = (tmp_path / name for name in ("chief", "kept", "wrong"))
    previous = tmp_path / "previous-chief"
    old.write_text("old")
    wrong.write_text("wrong")
    others = own.root("SHOW CREATE USER chief@'10.0.0.1'")
    own.migrate()
    assert await connects(own.database("chief", old))
    new.write_text("it's new")
    previous.write_text("old")
    own.migrate()
    for host in ("%", "localhost"):
        (shown,) = own.root(f"SHOW CREATE USER chief@'{host}'")
        assert str(shown).count("mysql_native_password USING") == 2
    assert await connects(own.database("chief", old))
    previous.unlink()
    with structlog.testing.capture_logs() as logs:
        own.migrate()
    assert await connects(own.database("chief", new))
    assert not await connects(own.database("chief", old))
    assert not await connects(own.database("chief", wrong))
    assert own.root("SHOW CREATE USER chief@'10.0.0.1'") == others
    changed = [line["user"] for line in logs if line["event"].startswith("changed the passwords")]
    assert sorted(changed) == ["'chief'@'%'", "'chief'@'localhost'"]
    with structlog.testing.capture_logs() as logs:
        own.migrate()
    assert not [line for line in logs if line["event"].startswith("changed the passwords")]


@pytest.mark.parametrize("user", [user for user in ALL if user != "backup"])  # it runs once
async def test_a_service_that_starts_before_its_user_is_made_waits_for_it(
    site: Site, user: str, tmp_path: Path
) -> None:
    async with running(
        f"services.{user}",
        DATABASE_URL=f"mysql+asyncmy://{user}@127.0.0.1:{site.port}/{site.name}",
        DATABASE_PASSWORD_FILE=str(site.folder / user),
        OBJECT_STORE_URL=f"file://{tmp_path}/store",
        FACE_RECOG_TARGET="127.0.0.1:1",
    ) as process:
        answer = await process.get("/readyz")
        assert answer.status_code == 503
        assert "Access denied" in answer.json()["problems"]["database"]
        site.migrate()

        async def is_ready() -> bool:
            return (await process.get("/readyz")).is_success

        await eventually(is_ready)
        process.terminate()
        exit_status, said = await process.ended()
    assert exit_status == 0
    assert "Traceback" not in said


def test_no_password_reaches_the_server_or_the_log(site: Site) -> None:
    site.root("SET GLOBAL log_output = 'TABLE'")
    site.root("SET GLOBAL general_log = 1")
    with structlog.testing.capture_logs() as logs:
        site.migrate()
    site.root("SET GLOBAL general_log = 0")
    statements = [str(text) for (text,) in site.root("SELECT argument FROM mysql.general_log")]
    assert any("ALTER USER 'receiver'@'%'" in one for one in statements)
    assert not any("first password" in one for one in [*statements, *map(str, logs)])


def test_a_second_run_changes_nothing(any_admin: Site) -> None:
    any_admin.migrate()
    before = [any_admin.root(f"SHOW GRANTS FOR {user}@'%'") for user in GRANTS]
    with structlog.testing.capture_logs() as logs:
        any_admin.migrate()
    assert before == [any_admin.root(f"SHOW GRANTS FOR {user}@'%'") for user in GRANTS]
    assert not [line for line in logs if line["log_level"] == "warning"]


def test_the_files_of_kubernetes_are_read_and_its_folders_are_not(site: Site) -> None:
    """As the kubelet does: ``receiver`` is a link to ``..data/receiver``."""
    folder = site.folder.parent / "mounted"
    (folder / "..2026_11_21").mkdir(parents=True)
    (folder / "..2026_11_21" / "receiver").write_text("one\n")
    (folder / "..data").symlink_to("..2026_11_21")
    (folder / "receiver").symlink_to("..data/receiver")
    assert read_users(folder) == {"receiver": ("one",)}


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"reciever": "x"}, "no user 'reciever', only receiver, image_processor, redeemer, people"),
        ({"receiver": "\n"}, "receiver is empty: it must hold the password of receiver"),
        ({"receiver.previous": "x"}, "but no file receiver with the current password"),
        ({"image-processor": "x"}, "no user 'image-processor'"),
        ({}, "holds no file"),
    ],
)
def test_a_wrong_folder_is_told(tmp_path: Path, files: dict[str, str], problem: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UsersError, match=problem):
        read_users(tmp_path)


def test_sqlite_has_no_users(sqlite_settings: DatabaseSettings) -> None:
    with pytest.raises(UsersError, match="SQLite has no users"):
        migrate(sqlite_settings, {"receiver": ("x",)})
