"""Of which engine the groups are to be."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from services.common.strangers import PairsOfStrangers

_ASK_SECONDS: Final = 10.0
"""So often face_recog is asked what its engine is."""

_SETTLED_SECONDS: Final = 60.0
"""How long it must have said another one: while replicas are replaced, it says this and that."""

EngineOfStrangers: TypeAlias = tuple[str, PairsOfStrangers]
"""An engine's name, and how alike strangers are to it."""

Strangers: TypeAlias = Callable[[], Awaitable[EngineOfStrangers | None]]
"""Tells what face_recog's engine is; None when face_recog does not."""


class SettledEngine:
    """The engine that face_recog has named for long enough."""

    def __init__(self, strangers: Strangers, clock: Callable[[], float]) -> None:
        self._strangers = strangers
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Let the next one be whatever is said first."""
        self._engine: EngineOfStrangers | None = None
        self._asked_at: float | None = None
        self._other_since: float | None = None

    async def ask(self, before: str | None) -> EngineOfStrangers | None:
        """Return it, None when nobody has said it yet.

        ``before`` names the engine that groups are of, for which another one must be settled.
        """
        now = self._clock()
        if self._asked_at is not None and now - self._asked_at < _ASK_SECONDS:
            return self._engine
        found = await self._strangers()
        self._asked_at = now
        if found is None:
            return self._engine
        before = self._engine[0] if self._engine else before
        if before in (None, found[0]):
            self._other_since = None
        elif self._other_since is None:
            self._other_since = now
        if self._other_since is None or now - self._other_since >= _SETTLED_SECONDS:
            self._engine, self._other_since = found, None
        return self._engine
