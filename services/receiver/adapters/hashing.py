"""Hashes passwords with argon2id."""

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from services.receiver.domain.errors import BusyError

_T = TypeVar("_T")

_AT_ONCE: Final = 2
"""Each takes 64 MiB and four threads for some 50 ms, by the library's defaults (RFC 9106, 4)."""

_WAITING: Final = 32


class Argon2Hasher:
    """Hashes in threads, a few at once; some wait for their turn, and more are refused."""

    def __init__(self, hasher: argon2.PasswordHasher | None = None) -> None:
        self._hasher = hasher or argon2.PasswordHasher()
        self._pool = ThreadPoolExecutor(_AT_ONCE, "argon2")
        self._taken = 0
        # Of nothing: no password has a hash of zeros. It costs what checking a new one does.
        self._nobodys = (
            f"$argon2id$v=19$m={self._hasher.memory_cost},t={self._hasher.time_cost}"
            f",p={self._hasher.parallelism}${'A' * 22}${'A' * 43}"
        )

    async def hash(self, password: str) -> str:
        return await self._in_turn(lambda: self._hasher.hash(_normal(password)))

    async def verify(self, stored: str | None, password: str) -> bool:
        return await self._in_turn(lambda: self._is_right(stored or self._nobodys, password))

    def is_outdated(self, stored: str) -> bool:
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _is_right(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, _normal(password))
        except (VerificationError, InvalidHashError):  # the latter for a row that is damaged
            return False

    async def _in_turn(self, work: Callable[[], _T]) -> _T:
        if self._taken >= _AT_ONCE + _WAITING:
            raise BusyError(f"too many log in at once, {_WAITING} are waiting: try again")
        self._taken += 1
        # Whoever goes away leaves a place only when the thread is free.
        running = self._pool.submit(work)
        loop = asyncio.get_running_loop()
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
        return await asyncio.wrap_future(running)

    def _leave(self) -> None:
        self._taken -= 1


def _normal(password: str) -> str:
    """Return the one form of what looks alike, however a keyboard makes it (SP 800-63B-3)."""
    return unicodedata.normalize("NFKC", password)
