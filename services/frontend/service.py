"""What pages are made of and what is kept: small versions of pictures, and names to choose from."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from services.frontend.domain import NotNowError, PeoplePage, Suggestions

CACHE_BYTES: Final = 64 * 1024 * 1024
"""About a thousand thumbnails of 640 px."""

CONCURRENCY: Final = 1
"""Pictures decoded at a time: the hungriest takes 770 MB, of the pod's 1 GiB."""

_REST: Final = 10.0

_MAX_WAITING: Final = 256
_ENTRY_BYTES: Final = 200  # what an entry costs beside its content

Key = tuple[str, str, int]
"""The picture's address at the receiver, its version, and the longest side in pixels."""


class Thumbnails:
    """Makes small JPEG versions with ``shrink(content, longest_side)``.

    ``fetch(address)`` returns a picture as it was submitted, or None when it is missing or too
    large. ``shrink`` runs in a thread and returns None for what is no picture. Both None are
    remembered like a result; an exception of ``fetch`` is passed on and not remembered.
    """

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[bytes | None]],
        shrink: Callable[[bytes, int], bytes | None],
        *,
        cache_bytes: int = CACHE_BYTES,
        concurrency: int = CONCURRENCY,
    ) -> None:
        self._fetch = fetch
        self._shrink = shrink
        self._room = cache_bytes
        self._slots = asyncio.Semaphore(concurrency)
        self._made: OrderedDict[Key, bytes | None] = OrderedDict()
        self._making: dict[Key, asyncio.Task[bytes | None]] = {}

    async def get(self, key: Key) -> bytes | None:
        """Return the JPEG, or None when the picture cannot be shown."""
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        task = self._making.get(key)
        if task is None:
            if len(self._making) >= _MAX_WAITING:
                raise NotNowError("Too many pictures at once.")
            # Its own task: a client that goes away does not take it from the others.
            task = self._making[key] = asyncio.create_task(self._make(key))
            task.add_done_callback(lambda _: self._making.pop(key))
        return await asyncio.shield(task)

    async def _make(self, key: Key) -> bytes | None:
        address, _, longest_side = key
        async with self._slots:
            content = await self._fetch(address)
            made = (
                None
                if content is None
                else await asyncio.to_thread(self._shrink, content, longest_side)
            )
        self._keep(key, made)
        return made

    def _keep(self, key: Key, made: bytes | None) -> None:
        self._made[key] = made
        self._room -= _cost(made)
        while self._room < 0:
            _, oldest = self._made.popitem(last=False)
            self._room += _cost(oldest)


class Names:
    """The first names, asked for by every page that is open.

    ``fetch()`` returns the first people. For ten times as long as that takes, the same names are
    given again. Raises what ``fetch`` raises.
    """

    def __init__(self, fetch: Callable[[], Awaitable[PeoplePage]]) -> None:
        self._fetch = fetch
        self._asked: asyncio.Task[Suggestions] | None = None
        self._good_until = 0.0

    async def get(self) -> Suggestions:
        """Return the names, in the order of ``fetch``."""
        if self._asked is None or (self._asked.done() and time.monotonic() >= self._good_until):
            self._asked = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asked)

    async def _ask(self) -> Suggestions:
        start = time.monotonic()
        names = suggestions_of(await self._fetch())
        end = time.monotonic()
        self._good_until = end + _REST * (end - start)
        return names


def suggestions_of(page: PeoplePage) -> Suggestions:
    """Return the names of a page of people."""
    return Suggestions(
        tuple(person.name for person in page.people), more=page.next_cursor is not None
    )


def _cost(made: bytes | None) -> int:
    return len(made or b"") + _ENTRY_BYTES
