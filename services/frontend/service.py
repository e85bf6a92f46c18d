"""What all open pages share: the names to choose from."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from services.frontend.domain.errors import LoggedOutError
from services.frontend.domain.people import PeoplePage, PersonChoices, choices_of

_REST: Final = 10.0


class Names:
    """The first names, which every page that is open asks for.

    ``fetch()`` returns the first people. For ten times as long as that takes, the same names are
    given again. Raises what ``fetch`` raises.
    """

    def __init__(self, fetch: Callable[[], Awaitable[PeoplePage]]) -> None:
        self._fetch = fetch
        self._asked: asyncio.Task[PersonChoices] | None = None
        self._good_until = 0.0

    async def get(self) -> PersonChoices:
        """Return the names, in the order of ``fetch``."""
        asked = self._asked
        if asked is None or (asked.done() and time.monotonic() >= self._good_until):
            asked = self._asked = asyncio.create_task(self._ask())
            return await asyncio.shield(asked)
        try:
            return await asyncio.shield(asked)
        except LoggedOutError:
            # Whoever began to ask has no session any more, which says nothing of who waits, too.
            return choices_of(await self._fetch())

    async def _ask(self) -> PersonChoices:
        start = time.monotonic()
        names = choices_of(await self._fetch())
        end = time.monotonic()
        self._good_until = end + _REST * (end - start)
        return names
