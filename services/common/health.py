"""Health checks: which of the services that a process needs are away."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

Check = Callable[[], Awaitable[None]]
"""Raises when a dependency is away."""

_CHECK_TIMEOUT_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.5
_START_SECONDS: Final = 30.0


async def failed_checks(checks: Mapping[str, Check]) -> dict[str, str]:
    """Run all checks at once and return why each failed one did, by its name."""
    problems = await asyncio.gather(
        *(_problem(asyncio.wait_for(check(), _CHECK_TIMEOUT_SECONDS)) for check in checks.values())
    )
    return {name: problem for name, problem in zip(checks, problems, strict=True) if problem}


def at_start(check: Check, seconds: float = _START_SECONDS) -> Check:
    """Return the check of what a process waits for at its start, but no longer than ``seconds``.

    A network takes a moment to let a new pod through its policies
    (https://kubernetes.io/docs/concepts/services-networking/network-policies, "Pod lifecycle").
    What it can do without that dependency it does afterwards all the same.
    """
    deadline = time.monotonic() + seconds

    async def checked() -> None:
        if time.monotonic() < deadline:
            await check()

    return checked


class HealthChecks:
    """Checks dependencies whenever somebody asks, and remembers which are away.

    A dependency is away once every check of it has failed for ``patience`` seconds: neither one
    that a busy machine slows down is, nor one of which a replica drains. It is back with the first
    check that succeeds.
    """

    def __init__(self, checks: Mapping[str, Check], *, patience: float = 10.0) -> None:
        self._checks = checks
        self._patience = patience
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._away: dict[str, str] = {}

    async def away(self) -> dict[str, str]:
        """Return why each dependency that is away is, by its name, within about a second."""
        for name, check in self._checks.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._ask(name, check))
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_ANSWER_SECONDS)
        return {name: self._away[name] for name in self._checks if name in self._away}

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, name: str, check: Check) -> None:
        reason = f"no answer within {self._patience:g} s"
        try:
            async with asyncio.timeout(self._patience):
                while problem := await _problem(check()):
                    reason = problem
                    await asyncio.sleep(_PAUSE_SECONDS)
            self._away.pop(name, None)
        except TimeoutError:
            self._away[name] = reason
        finally:
            del self._tasks[name]


async def _problem(answer: Awaitable[None]) -> str | None:
    try:
        await answer
    except Exception as error:  # noqa: BLE001, whatever it is, the dependency cannot be used
        return str(error) or type(error).__name__
    return None
