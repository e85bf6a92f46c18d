"""Programs that rows are piped through."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import environ
from tempfile import TemporaryFile
from typing import IO, Any, Final

from services.backup.domain import BackupError

_MAX_SAID: Final = 400

_END_SECONDS: Final = 1.0
"""How soon a program ends whose end was the reason that somebody else failed."""


@contextmanager
def running(
    command: Sequence[str],
    *,
    stdin: IO[bytes] | int = subprocess.PIPE,
    stdout: IO[bytes] | int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> Iterator[Any]:
    """Run a program, ``Popen``, to its end; raises ``BackupError`` with what it said if it failed.

    Then that is the reason, too, why somebody could not read from it or write to it. A file that it
    reads is its own from now on.
    """
    with TemporaryFile() as said:
        try:
            process = subprocess.Popen(  # noqa: S603, the commands are ours
                command, stdin=stdin, stdout=stdout, stderr=said, env={**environ, **(env or {})}
            )
        except FileNotFoundError:
            raise BackupError(
                f"{command[0]} is not installed: it comes with mariadb-client"
            ) from None
        if not isinstance(stdin, int):
            stdin.close()
        error: BaseException | None = None
        try:
            yield process
        except BaseException as failure:
            error = failure
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
            if process.poll() in {None, 0}:
                process.kill()
                raise
        finally:
            for stream in (process.stdin, process.stdout):
                if stream:
                    with suppress(OSError):  # nobody reads what is left to be written
                        stream.close()
            process.wait()
        if process.returncode:
            said.seek(0)
            reason = said.read().decode(errors="replace").strip()[-_MAX_SAID:]
            raise BackupError(
                f"{command[0]} ended with {process.returncode}: {reason or 'it said nothing'}"
            ) from error
        if error:
            raise error
