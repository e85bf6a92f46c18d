"""Looks up what many ask for at the same time by one query, and keeps nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")

_GATHER_SECONDS: Final = 0.002
"""Answers to a batch go out together, and so the next requests come together, but not in one turn
of the loop: without this pause a query serves half of them, and submissions take a third more."""


class SharedLookup(Generic[_K, _V]):
    """Answers that are never older than the question, however many ask.

    One query runs at a time, for all who came before it began: so whoever asks after a change was
    committed, by whichever replica, sees it. ``many`` returns what is there of the ids.
    """

    def __init__(self, many: Callable[[Collection[_K]], Awaitable[Mapping[_K, _V]]]) -> None:
        self._many = many
        self._turn = asyncio.Lock()
        self._ids: set[_K] = set()
        self._next: asyncio.Task[Mapping[_K, _V]] | None = None

    async def get(self, key: _K) -> _V | None:
        """Return what has the id; None when there is nothing. Raises what ``many`` raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._query())
        self._ids.add(key)
        # Shielded: a client that goes away does not take it from the others.
        return (await asyncio.shield(self._next)).get(key)

    async def _query(self) -> Mapping[_K, _V]:
        async with self._turn:
            await asyncio.sleep(_GATHER_SECONDS)
            # Who asks from here on may know of a change that this query no longer sees.
            ids, self._ids, self._next = self._ids, set(), None
            return await self._many(ids)
