"""One benchmark in a process of its own, which ends in time with all that it has started."""

import importlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from services.common import logs
from services.common.jobs import end_on_sigterm
from services.local.errors import LocalError

_LONGEST_SECONDS: Final = 1800
"""Each takes some minutes; a busy machine may need longer."""

_STOP_SECONDS: Final = 20.0
"""How long one that is told to end may take to end what it has started."""


def measure(module: str, short: bool) -> None:
    """Run the benchmark of a module of this package, which prints its tables."""
    end_on_sigterm()
    logs.configure("bench", "WARNING")
    console = Console(highlight=False, width=110)
    run = importlib.import_module(f"bench.{module}").run
    with tempfile.TemporaryDirectory(prefix="facestack-bench-") as folder:
        try:
            run(console, Path(folder), short=short)
        except (LocalError, pytest.fail.Exception, pytest.skip.Exception) as error:
            # Of services.testing.
            raise SystemExit(str(error)) from None


def run_alone(
    target: Callable[..., None], *arguments: object, seconds: float = _LONGEST_SECONDS
) -> bool:
    """Call the target in a new process, for at most so many seconds; tell whether it came back.

    Nothing that it has started goes on, unless that has made a session of its own.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_in_a_session, args=(target, *arguments)
    )
    process.start()
    try:
        if not wait([process.sentinel], seconds):
            print(f"no end after {seconds:g} s", flush=True)
    finally:
        if not wait([process.sentinel], 0):
            process.terminate()
            wait([process.sentinel], _STOP_SECONDS)
        assert process.pid  # noqa: S101, it was started
        with suppress(ProcessLookupError):  # before join, so that the number is still its own
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # it has no session before its first line
        process.join()
    return process.exitcode == 0


def _in_a_session(target: Callable[..., None], *arguments: object) -> None:
    os.setsid()
    target(*arguments)
