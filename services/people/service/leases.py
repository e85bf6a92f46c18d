"""Keeping a claim while one works on what is claimed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from services.common.errors import ClaimLostError, DatabaseUnavailableError

RENEW_SECONDS: Final = 10.0
"""One renewal may fail before the lease is over."""


@asynccontextmanager
async def renewed(renew: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Renew a lease while the block runs; that it is lost, the block's next write finds out."""
    renewing = asyncio.create_task(_renew(renew))
    try:
        yield
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await renewing


async def _renew(renew: Callable[[], Awaitable[None]]) -> None:
    with suppress(ClaimLostError):
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with suppress(DatabaseUnavailableError):
                await renew()
