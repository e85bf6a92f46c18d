"""Real server binaries, on free ports of 127.0.0.1.

A missing binary skips the test with the command that installs it; with ``REQUIRE_SERVERS=1``, as
in CI, it fails instead.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, NoReturn, Self

import pytest

from services.local.processes import Process, free_port, listens

_TOOLS: Final = Path(__file__).parents[2] / ".tools" / "bin"


def find_binary(name: str) -> str:
    """Return the path of a server's or tool's binary, or skip or fail the test."""
    folders = os.environ["PATH"].split(os.pathsep)
    # A user's PATH leaves out the sbin beside each bin, where Debian puts servers.
    beside = [str(Path(folder).with_name("sbin")) for folder in folders]
    if path := shutil.which(name, path=os.pathsep.join([str(_TOOLS), *folders, *beside])):
        return path
    return give_up(f"{name} is not installed: run 'make servers'")


def give_up(reason: str) -> NoReturn:
    """Skip the test for want of what the reason says how to get; fail where all must be there."""
    if os.environ.get("REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


class ServerProcess(Process):
    """A server; ``kill -9`` and ``start`` again keep its port and data."""

    def __init__(
        self, command: list[str], *, port: int, log: Path, env: dict[str, str] | None = None
    ) -> None:
        super().__init__(command, {**os.environ, **(env or {})}, log)
        self.port = port

    def start(self) -> Self:
        """Start it and wait until it listens."""
        self.spawn()
        return self.wait_until(lambda: listens(self.port), f"nobody at port {self.port}")


class MariaDb(ServerProcess):
    """A MariaDB server on an empty data folder; user ``root`` has no password."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None, *arguments: str) -> None:
        server = find_binary("mariadbd")
        data = folder / "data"
        # A server that starts removes the temporary tables that it finds, also another one's.
        temporary = folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        # As root the server must be told that it may run as root.
        user = ["--user=root"] if os.geteuid() == 0 else []
        installed = subprocess.run(
            [
                find_binary("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *user,
            ],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        if installed.returncode:
            pytest.fail(f"mariadb-install-db: {installed.stdout}{installed.stderr}")
        port = free_port()
        super().__init__(
            [
                server,
                "--no-defaults",
                f"--datadir={data}",
                f"--tmpdir={temporary}",
                f"--socket={data / 'socket'}",
                f"--port={port}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                # A machine without power would lose what is written; a killed server does not.
                "--innodb-flush-method=nosync",
                "--debug-no-sync",
                *user,
                *arguments,
            ],
            port=port,
            log=folder / "mariadbd.log",
            env=env,
        )

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database on this server."""
        return f"mysql+asyncmy://root@127.0.0.1:{self.port}/{database}"


class Nsqlookupd(ServerProcess):
    """The directory of nsqd instances; ``port`` is TCP, ``http_port`` HTTP."""

    def __init__(self, folder: Path) -> None:
        self.http_port = free_port()
        port = free_port()
        super().__init__(
            [
                find_binary("nsqlookupd"),
                f"--tcp-address=127.0.0.1:{port}",
                f"--http-address=127.0.0.1:{self.http_port}",
            ],
            port=port,
            log=folder / "nsqlookupd.log",
        )

    @property
    def http_url(self) -> str:
        """Return where consumers look up nsqd instances."""
        return f"http://127.0.0.1:{self.http_port}"


class Nsqd(ServerProcess):
    """One queue server; ``port`` is TCP, ``http_port`` HTTP."""

    def __init__(self, folder: Path, lookupd: Nsqlookupd | None = None, *arguments: str) -> None:
        data = folder / "nsqd"
        data.mkdir(exist_ok=True)
        self.http_port = free_port()
        port = free_port()
        super().__init__(
            [
                find_binary("nsqd"),
                f"--tcp-address=127.0.0.1:{port}",
                f"--http-address=127.0.0.1:{self.http_port}",
                "--broadcast-address=127.0.0.1",
                f"--data-path={data}",
                *([f"--lookupd-tcp-address=127.0.0.1:{lookupd.port}"] if lookupd else []),
                *arguments,
            ],
            port=port,
            log=folder / "nsqd.log",
        )

    @property
    def http_url(self) -> str:
        """Return where publishers publish."""
        return f"http://127.0.0.1:{self.http_port}"


class VersityGw(ServerProcess):
    """An S3 server over a folder, with the bucket ``facestack``."""

    access_key_id: Final = "test-access"
    secret_access_key: Final = "test-secret-key"

    def __init__(self, folder: Path, *arguments: str) -> None:
        (folder / "buckets" / "facestack").mkdir(parents=True, exist_ok=True)
        port = free_port()
        super().__init__(
            [
                find_binary("versitygw"),
                "--port",
                f"127.0.0.1:{port}",
                *arguments,
                "posix",
                str(folder / "buckets"),
            ],
            port=port,
            log=folder / "versitygw.log",
            env={
                "ROOT_ACCESS_KEY": self.access_key_id,
                "ROOT_SECRET_KEY": self.secret_access_key,
            },
        )

    @property
    def endpoint(self) -> str:
        """Return the address for S3 clients."""
        return f"http://127.0.0.1:{self.port}"
