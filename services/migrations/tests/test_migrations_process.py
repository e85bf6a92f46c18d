"""The program as the process that the Job runs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from services.local.processes import free_port
from services.testing.servers import MariaDb


class Job:
    """A database on a server, and the program with an environment for it."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.users = folder / "users"
        self.users.mkdir()
        (self.users / "redeemer").write_text("a password\n")
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "DATABASE_URL": f"mysql+asyncmy://root@127.0.0.1:{port}/facestack",
            "DATABASE_USERS_FOLDER": str(self.users),
        }

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "services.migrations"],
            env={**self._environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **environment: str) -> tuple[int, str]:
        """Return exit status and everything that it said."""
        return ended(self.start(**environment))

    def revision(self, user: str, password: str) -> str:
        with pymysql.connect(
            host="127.0.0.1", port=self.port, user=user, password=password, database="facestack"
        ) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT version_num FROM alembic_version")
            [(revision,)] = cursor.fetchall()
            return str(revision)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = "".join(process.communicate(timeout=60))
    return process.returncode, said


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MariaDb]:
    """A server of its own with an empty database."""
    made = MariaDb(tmp_path).start()
    with pymysql.connect(host="127.0.0.1", port=made.port, user="root") as connection:
        connection.cursor().execute("CREATE DATABASE facestack")
    yield made
    made.stop()


@pytest.fixture
def job(server: MariaDb, tmp_path: Path) -> Job:
    return Job(server.port, tmp_path)


def test_two_runs_at_once_take_turns(job: Job) -> None:
    runs = [job.start(), job.start()]
    for exit_status, said in map(ended, runs):
        assert exit_status == 0, said
    assert job.revision("redeemer", "a password")


def test_a_server_that_is_away_is_waited_for(job: Job, server: MariaDb) -> None:
    server.kill()
    process = job.start(WAIT_SECONDS="600")
    assert process.stdout
    waiting = json.loads(process.stdout.readline())
    assert waiting["event"] == "waiting"
    assert "Can't connect to MySQL server on '127.0.0.1'" in waiting["reason"]
    server.start()
    exit_status, said = ended(process)
    assert exit_status == 0, said
    assert job.revision("redeemer", "a password")


def test_without_patience_a_server_that_is_away_is_told_at_once(tmp_path: Path) -> None:
    exit_status, said = Job(free_port(), tmp_path).run()
    assert exit_status == 1
    assert said.startswith("migrations: database cannot be migrated: (2003, ")
    assert "waiting" not in said


def test_a_refusal_is_not_waited_out(job: Job, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("not it")
    exit_status, said = job.run(WAIT_SECONDS="3600", DATABASE_PASSWORD_FILE=str(tmp_path / "wrong"))
    assert exit_status == 1
    assert "Access denied for user 'root'" in said
    assert "not it" not in said


def test_a_file_of_an_unknown_user_is_told_before_anything_is_done(job: Job) -> None:
    (job.users / "reciever").write_text("x")
    exit_status, said = job.run()
    assert exit_status == 1
    assert "there is no user 'reciever', only receiver, image_processor, redeemer, people" in said
    with pytest.raises(pymysql.err.ProgrammingError, match="doesn't exist"):
        job.revision("root", "")


def test_sigterm_ends_it_while_it_waits(tmp_path: Path) -> None:
    process = Job(free_port(), tmp_path).start(WAIT_SECONDS="3600")
    assert process.stdout
    assert "waiting" in process.stdout.readline()
    process.terminate()
    assert ended(process)[0] == 143
