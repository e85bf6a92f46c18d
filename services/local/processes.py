"""A process on this machine: how runs, the demo, tests, benchmarks and faults start and end one."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import httpx

from services.local.errors import LocalError

_ROOT: Final = Path(__file__).resolve().parents[2]

START_SECONDS: Final = 300.0
"""Whoever does not listen, or is not ready, after so long never will be: people needs minutes to
load a million faces."""

_STOP_SECONDS: Final = 30.0

_SETPRIV: Final = shutil.which("setpriv")
"""Linux alone can have it end with whoever started it; elsewhere it outlives one that is killed."""

_given: Final[set[int]] = set()

# One for all, as making one takes 20 ms; a connection that is kept would fail with its process.
_client: Final = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


class Process:
    """A command in a session of its own, run in ``folder`` or else its log's, away from ``.env``.

    It can be started again when it has ended. On Linux it ends with the thread that has started it,
    however that ends, by the signal ``ends_by``.
    """

    ends_by = signal.SIGTERM

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        folder: Path | None = None,
    ) -> None:
        self.command = list(command)
        self.environment = environment
        self.log = log
        self.folder = folder or log.parent
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Start it; what it says is appended to the log."""
        prefix = [_SETPRIV, "--pdeathsig", self.ends_by.name, "--"] if _SETPRIV else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603, the command is ours
                prefix + self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The id of the process that was started last."""
        assert self._process  # noqa: S101, it was started
        return self._process.pid

    @property
    def code(self) -> int | None:
        """What it ended with, less than 0 by a signal; None while it runs, and after ``kill``."""
        return self._process.poll() if self._process else None

    def is_running(self) -> bool:
        """Tell whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def send(self, signum: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP; none when it has ended."""
        if self._process:
            self._process.send_signal(signum)

    def send_all(self, signum: signal.Signals) -> None:
        """Send it and its workers a signal, also workers that it has left behind."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    def wait(self, seconds: float = _STOP_SECONDS) -> int:
        """Wait for its end and return the exit status, or raise ``subprocess.TimeoutExpired``."""
        assert self._process  # noqa: S101, it was started
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send(signal.SIGKILL)
        if self._process:
            self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Ask it to end, and wait; kill it and raise ``TimeoutExpired`` when it does not."""
        self.send(signal.SIGTERM)
        if self._process:
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def wait_until(self, condition: Callable[[], bool], without: str) -> Self:
        """Return when the condition holds; kill it and raise :class:`LocalError` if it never will.

        That is when the process ends first, or after five minutes.
        """
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if not self.is_running() or time.monotonic() > deadline:
                end = "is alive" if self.code is None else describe_end(self.code)
                self.kill()
                error = LocalError(f"{' '.join(self.command[:3])} {end}, {without}: see {self.log}")
                error.add_note(self.log.read_text(errors="replace")[-2000:])
                raise error
            time.sleep(0.05)
        return self


class ServiceProcess(Process):
    """``python -m module`` of this checkout; at ``url`` it answers probes."""

    def __init__(
        self,
        module: str,
        environment: Mapping[str, str],
        log: Path,
        url: str,
        folder: Path | None = None,
    ) -> None:
        more = {"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"}
        super().__init__([sys.executable, "-m", module], {**environment, **more}, log, folder)
        self.url = url

    def is_ready(self) -> bool:
        """Tell whether it says now that it can serve."""
        return answers(f"{self.url}/readyz")

    def wait_ready(self) -> Self:
        """Return when it says that it can serve."""
        return self.wait_until(self.is_ready, "not ready")


def answers(url: str) -> bool:
    """Ask once; tell whether the answer is that all is well."""
    try:
        return _client.get(url).is_success
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """Return a TCP port that nobody listens on, another one each time.

    It is below those that Linux gives to outgoing connections (net.ipv4.ip_local_port_range), one
    of which could take it before the server does.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        if port in _given:  # and not listened on yet: of 30 that a test takes, in 1 of 50 tests
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port


def listens(port: int) -> bool:
    """Tell whether somebody takes connections at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def describe_end(code: int) -> str:
    """Say how a process ended."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
