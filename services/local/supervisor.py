"""Starts the services as processes of their own, starts again what dies, and stops all of them.

Every child has its own session, so that Ctrl-C reaches only the supervisor, which then ends the
children in the order that loses nothing.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx

from services.local.programs import LocalError, Plan, Program

Say = Callable[[str], None]
"""Prints one line; the second word of a line from a service is its level."""

STOP_ORDER: Final = (
    # Seconds after the start of the stop until the next group's turn comes anyway.
    (2.0, ("frontend",)),
    (4.0, ("receiver",)),
    (8.0, ("image_processor", "redeemer", "people")),
    (9.5, ("face_recog",)),
)
"""Who gives work ends before who does it."""

_START_SECONDS: Final = 120.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_STABLE_SECONDS: Final = 60.0


class Log:
    """The file that a child writes to, of which warnings and errors are said aloud."""

    def __init__(self, name: str, file: Path, say: Say) -> None:
        self._name = name
        self._say = say
        self._file = file
        self._output = file.open("wb")
        self._input = file.open("rb")
        self._partial = b""
        self.last_line = ""

    def fileno(self) -> int:
        """Return what a child gets as standard output and error."""
        return self._output.fileno()

    def follow(self) -> None:
        """Say what was written since the last call and deserves it."""
        *lines, self._partial = (self._partial + self._input.read()).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if not text:
                continue
            level, self.last_line = read_line(text)
            if level in {"warning", "error", "critical"}:
                self._say(f"{self._name} {level}: {self.last_line}")

    def close(self) -> None:
        """Close the file."""
        self._output.close()
        self._input.close()


def read_line(line: str) -> tuple[str, str]:
    """Return the level and the text for people of one log line.

    What is not a JSON line of ours, as the lines of a traceback, has the level "".
    """
    try:
        entry = json.loads(line)
        level, text = str(entry.pop("level")), str(entry.pop("event"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", line
    trace = entry.pop("exception", None)
    for key in ("service", "logger", "timestamp"):
        entry.pop(key, None)
    details = [f"{key}={value}" for key, value in entry.items()]
    if trace:
        details.append(f"({str(trace).strip().splitlines()[-1]})")
    return level, " ".join([text, *details])


class Child:
    """One program's process; a new one is started for each that dies."""

    def __init__(self, program: Program, log: Log, *, watch: int, folder: Path, say: Say) -> None:
        self.program = program
        self.log = log
        self.was_ready = False
        self._watch = watch
        self._folder = folder
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def keep_running(self) -> None:
        """Run it until it is told to stop; raise :class:`LocalError` if it never got ready."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping:
            started = loop.time()
            code = await self._run_once()
            if self._stopping:
                # Before it was ready it may not have learnt yet what SIGTERM means.
                if code and self.was_ready:
                    self._say(f"{self.program.name} {describe_end(code)} while stopping")
                return
            if not self.was_ready:
                raise LocalError(
                    f"{self.program.name} {describe_end(code)} before it was ready:"
                    f" {self.log.last_line or 'it said nothing'}"
                )
            if loop.time() - started > _STABLE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            self._say(f"{self.program.name} {describe_end(code)}, starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _run_once(self) -> int:
        self._process = await start_process(
            self.program.name,
            self.program.environment,
            log=self.log,
            watch=self._watch,
            folder=self._folder,
        )
        code = await self._process.wait()
        self._signal_session(signal.SIGKILL)  # workers that a crashed process left behind
        self.log.follow()
        return code

    async def wait_ready(self, client: httpx.AsyncClient) -> None:
        """Return when the process says that it can serve."""
        while True:
            try:
                answer = await client.get(f"{self.program.probe_url}/readyz")
            except httpx.HTTPError:
                pass
            else:
                if answer.is_success:
                    self.was_ready = True
                    return
            await asyncio.sleep(0.1)

    def terminate(self) -> None:
        """Tell the process to drain, and start no other."""
        self._stopping = True
        if self._process and self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the process and its workers at once."""
        self._stopping = True
        self._signal_session(signal.SIGKILL)

    def _signal_session(self, signum: signal.Signals) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    @property
    def ended(self) -> bool:
        """Whether no process runs."""
        return self._process is None or self._process.returncode is not None


async def start_process(
    name: str, environment: Mapping[str, str], *, log: Log, watch: int, folder: Path
) -> asyncio.subprocess.Process:
    """Start a service in its own session; ``watch`` becomes its standard input."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.local.child",
        name,
        stdin=watch,
        stdout=log.fileno(),
        stderr=log.fileno(),
        env=environment,
        cwd=folder,
        start_new_session=True,
    )


def describe_end(code: int) -> str:
    """Say how a process ended."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


class Supervisor:
    """All processes of a plan, running in its folder, away from any ``.env``."""

    def __init__(self, plan: Plan, *, say: Say) -> None:
        self._plan = plan
        self._say = say
        self._children: list[Child] = []
        self._logs: list[Log] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._follower: asyncio.Task[None] | None = None
        # Nothing is ever written: that the other end is open says that we live.
        self._watch, self._alive = os.pipe()

    async def start(self, on_ready: Callable[[str], None]) -> None:
        """Migrate, start everything and wait until all of it is ready; tell of each that is.

        Raises :class:`LocalError`.
        """
        try:
            self._plan.logs.mkdir(parents=True, exist_ok=True)
            migrations = self._open_log("migrations")
            logs = {program.name: self._open_log(program.name) for program in self._plan.programs}
        except OSError as error:
            raise LocalError(f"cannot write {error.filename}: {error.strerror}") from None
        self._follower = asyncio.create_task(self._follow())
        await self._migrate(migrations)
        on_ready("database")
        self._children = [
            Child(
                program,
                logs[program.name],
                watch=self._watch,
                folder=self._plan.folder,
                say=self._say,
            )
            for program in self._plan.programs
        ]
        self._tasks = [asyncio.create_task(child.keep_running()) for child in self._children]
        await self._wait_ready(on_ready)

    async def wait(self) -> None:
        """Wait until something ends that is not started again, and raise what it raised."""
        # Not gather: cancelled, it would cancel the tasks that stop() still needs.
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """End every process in the order that loses nothing, within ten seconds."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        by_name = {child.program.name: child for child in self._children}
        for seconds, names in STOP_ORDER:
            group = [by_name[name] for name in names if name in by_name]
            for child in group:
                child.terminate()
            await self._wait_ended(group, begin + seconds)
        self.kill()
        await self._wait_ended(self._children, loop.time() + 1)
        for task in self._tasks:
            task.cancel()
        if self._follower:
            self._follower.cancel()
        await asyncio.gather(*self._tasks, *filter(None, [self._follower]), return_exceptions=True)
        for log in self._logs:
            log.close()
        os.close(self._watch)
        os.close(self._alive)

    def kill(self) -> None:
        """End at once what still runs, and say so; unfinished work is repeated at the next run."""
        for child in self._children:
            if not child.ended:
                self._say(f"{child.program.name} did not stop in time and was killed")
                child.kill()

    def _open_log(self, name: str) -> Log:
        log = Log(name, self._plan.logs / f"{name}.log", self._say)
        self._logs.append(log)
        return log

    async def _migrate(self, log: Log) -> None:
        process = await start_process(
            "migrations",
            self._plan.environment,
            log=log,
            watch=self._watch,
            folder=self._plan.folder,
        )
        code = await process.wait()
        log.follow()
        if code:
            raise LocalError(f"the database cannot be set up: {log.last_line}")

    async def _wait_ready(self, on_ready: Callable[[str], None]) -> None:
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:

            async def ready(child: Child) -> None:
                await child.wait_ready(client)
                on_ready(child.program.name)

            waiting: asyncio.Future[Any] = asyncio.gather(*map(ready, self._children))
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await asyncio.wait({waiting, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            except TimeoutError:
                late = [child.program.name for child in self._children if not child.was_ready]
                raise LocalError(
                    f"{', '.join(late)} not ready after {_START_SECONDS:g} s:"
                    f" see the logs in {self._plan.logs}"
                ) from None
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        for task in self._tasks:
            if task.done():
                task.result()

    async def _follow(self) -> None:
        while True:
            for log in self._logs:
                log.follow()
            await asyncio.sleep(0.2)

    async def _wait_ended(self, children: list[Child], until: float) -> None:
        loop = asyncio.get_running_loop()
        for child in children:
            task = self._tasks[self._children.index(child)]
            if not child.ended:
                await asyncio.wait({task}, timeout=max(0.0, until - loop.time()))
