"""Starts the services as processes of their own, starts again what dies, and stops all of them.

By hand: honcho ends all when one ends; circus and supervisor do not know when a service is ready,
and when they are killed their children live on.

Every child has its own session, so that Ctrl-C reaches only the supervisor, which then ends the
children in the order that loses nothing.
"""

import asyncio
import json
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from services.local.errors import LocalError
from services.local.processes import ServiceProcess, describe_end
from services.local.programs import Plan, Program

Say = Callable[[str], None]
"""Prints one line, whose first word is the service that it is about."""

STOP_ORDER: Final = (
    # Seconds after the start of the stop until the next group's turn comes anyway.
    (2.0, ("frontend",)),
    (4.0, ("receiver",)),
    (8.0, ("image_processor", "redeemer", "people", "webhooks")),
    (9.5, ("face_recog",)),
)
"""Who gives work ends before who does it."""

_START_SECONDS: Final = 120.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_STABLE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.1


class Log:
    """What a child writes to a file, of which warnings and errors are said aloud."""

    def __init__(self, name: str, file: Path, say: Say) -> None:
        self._name = name
        self._say = say
        file.write_bytes(b"")
        self._input = file.open("rb")
        self._partial = b""
        self.last_line = ""

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

    def __init__(self, program: Program, plan: Plan, say: Say) -> None:
        self.name = program.name
        file = plan.logs / f"{program.name}.log"
        self.log = Log(program.name, file, say)
        self.process = ServiceProcess(
            f"services.{program.name}", program.environment, file, program.probe_url, plan.folder
        )
        self.was_ready = False
        self._say = say
        self._stopping = False

    async def keep_running(self) -> None:
        """Run it until it is told to stop; raise :class:`LocalError` if it never got ready."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping:
            started = loop.time()
            end = describe_end(code := await self.run())
            if self._stopping:
                # Before it was ready it may not have learnt yet what SIGTERM means.
                if code and self.was_ready:
                    self._say(f"{self.name} {end} while stopping")
                return
            if not self.was_ready:
                reason = self.log.last_line or "it said nothing"
                raise LocalError(f"{self.name} {end} before it was ready: {reason}")
            if loop.time() - started > _STABLE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            self._say(f"{self.name} {end}, starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def run(self) -> int:
        """Start it and follow its log until it ends; return its exit status."""
        self.process.spawn()
        while (code := self.process.code) is None:
            self.log.follow()
            await asyncio.sleep(_LOOK_SECONDS)
        self.process.send_all(signal.SIGKILL)  # workers that a crashed process left behind
        self.log.follow()
        return code

    async def wait_ready(self) -> None:
        """Return when the process says that it can serve."""
        while not self.was_ready:
            self.was_ready = await asyncio.to_thread(self.process.is_ready)
            await asyncio.sleep(_LOOK_SECONDS)

    def terminate(self) -> None:
        """Tell the process to drain, and start no other."""
        self._stopping = True
        self.process.send(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and its workers at once, and say so."""
        if self.process.is_running():
            self._stopping = True
            self._say(f"{self.name} did not stop in time and was killed")
            self.process.send_all(signal.SIGKILL)


class Supervisor:
    """All processes of a plan."""

    def __init__(self, plan: Plan, *, say: Say) -> None:
        self._plan = plan
        self._say = say
        self._children: list[Child] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, on_ready: Callable[[str], None]) -> None:
        """Migrate, start everything and wait until all of it is ready; tell of each that is.

        Raises :class:`LocalError`.
        """
        migrations = Program("migrations", self._plan.environment, "")
        try:
            self._plan.logs.mkdir(parents=True, exist_ok=True)
            first, *self._children = [
                Child(program, self._plan, self._say)
                for program in (migrations, *self._plan.programs)
            ]
        except OSError as error:
            raise LocalError(f"cannot write {error.filename}: {error.strerror}") from None
        code = await first.run()
        first.log.close()
        if code:
            raise LocalError(f"the database cannot be set up: {first.log.last_line}")
        on_ready("database")
        self._tasks = {
            child.name: asyncio.create_task(child.keep_running()) for child in self._children
        }
        await self._wait_ready(on_ready)

    async def wait(self) -> None:
        """Wait until something ends that is not started again, and raise what it raised."""
        # Not gather: cancelled, it would cancel the tasks that stop() still needs.
        done, _ = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """End every process in the order that loses nothing, within ten seconds."""
        begin = asyncio.get_running_loop().time()
        for seconds, names in STOP_ORDER:
            group = [child for child in self._children if child.name in names]
            for child in group:
                child.terminate()
            await self._wait_ended(group, begin + seconds)
        self.kill()
        await self._wait_ended(self._children, asyncio.get_running_loop().time() + 1)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for child in self._children:
            child.log.close()

    def kill(self) -> None:
        """End at once what still runs; unfinished work is repeated at the next run."""
        for child in self._children:
            child.kill()

    async def _wait_ready(self, on_ready: Callable[[str], None]) -> None:
        async def ready(child: Child) -> None:
            await child.wait_ready()
            on_ready(child.name)

        waiting: asyncio.Future[Any] = asyncio.gather(*map(ready, self._children))
        try:
            async with asyncio.timeout(_START_SECONDS):
                await asyncio.wait(
                    {waiting, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED
                )
        except TimeoutError:
            late = ", ".join(child.name for child in self._children if not child.was_ready)
            raise LocalError(
                f"{late} not ready after {_START_SECONDS:g} s: see the logs in {self._plan.logs}"
            ) from None
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        for task in self._tasks.values():
            if task.done():
                task.result()

    async def _wait_ended(self, children: Iterable[Child], until: float) -> None:
        tasks = [self._tasks[child.name] for child in children if child.process.is_running()]
        if tasks:
            left = until - asyncio.get_running_loop().time()
            await asyncio.wait(tasks, timeout=max(0.0, left))
