"""Counts the rows, once for all who ask at the same time."""

import asyncio
import time
from typing import Final

from services.receiver.domain.images import StatusReport
from services.receiver.ports import ImageRows

_REST: Final = 2.0
"""How much longer than a count took the next one waits: while counts take less than 0.5 s, at most
a third of one of the database's processors. One reads an index of all rows, 0.1 s for a million. A
fragment of a page waits for at most two counts and this between them."""

_MAX_REST_SECONDS: Final = 1.0


class Counting:
    """Reports that are never older than the question.

    So a report has everything that any replica acknowledged before it was asked for. All its counts
    come from one statement: an image is in one of them, whatever happens to it meanwhile.
    """

    def __init__(self, rows: ImageRows) -> None:
        self._rows = rows
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[StatusReport] | None = None
        self._rested_at = 0.0

    async def report(self) -> StatusReport:
        """Return a report; raises ``DatabaseUnavailableError`` when the database is away."""
        if self._next is None:
            self._next = asyncio.create_task(self._count())
        # Shielded: a client that goes away does not take it from the others.
        return await asyncio.shield(self._next)

    async def _count(self) -> StatusReport:
        async with self._turn:
            await asyncio.sleep(self._rested_at - time.monotonic())
            # Who asks from here on may know of something that this count no longer sees.
            self._next = None
            start = time.monotonic()
            try:
                return await self._rows.status()
            finally:
                end = time.monotonic()
                self._rested_at = end + min(_REST * (end - start), _MAX_REST_SECONDS)
