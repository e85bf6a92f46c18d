"""Takes submissions: a row for each, committed before anybody is told."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog

from services.receiver.domain import MAX_BATCH, Accepted, BusyError, Submission
from services.receiver.service.ports import Rows
from services.receiver.service.ringing import Ringer

log = structlog.get_logger(__name__)

_MAX_ROWS: Final = MAX_BATCH
"""Rows in one transaction: a larger one keeps everybody waiting longer than it saves."""


MAX_WAITING_ROWS: Final = 8 * MAX_BATCH
"""Rows that wait for their transaction: more would wait for longer than it takes to come again."""


class Submissions:
    """Group commit: what arrives while transactions commit goes into the next one together.

    ``parallel`` is how many transactions the database takes at once.
    """

    def __init__(self, rows: Rows, ringer: Ringer, *, parallel: int) -> None:
        self._rows = rows
        self._ringer = ringer
        self._waiting: deque[tuple[Sequence[Submission], asyncio.Future[list[Accepted]]]] = deque()
        self._waiting_rows = 0
        self._idle = parallel
        self._writers: set[asyncio.Task[None]] = set()

    async def submit(self, submissions: Sequence[Submission]) -> list[Accepted]:
        """Return the accepted rows, in order, once they are durable: all of them or none.

        Raises ``DatabaseUnavailableError``, and :class:`BusyError` when too many rows wait.
        """
        if self._waiting_rows + len(submissions) > MAX_WAITING_ROWS:
            raise BusyError(f"too many submissions at once, {self._waiting_rows} paths wait")
        self._waiting_rows += len(submissions)
        future: asyncio.Future[list[Accepted]] = asyncio.get_running_loop().create_future()
        self._waiting.append((submissions, future))
        if self._idle:
            self._idle -= 1
            writer = asyncio.create_task(self._write())
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return await future

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._commit(self._take())
        finally:
            # In the same turn as the look at what waits, so that nobody waits for no writer.
            self._idle += 1

    async def _commit(
        self, requests: list[tuple[Sequence[Submission], asyncio.Future[list[Accepted]]]]
    ) -> None:
        paths: dict[str, Submission] = {}
        for submissions, _ in requests:
            for one in submissions:
                paths.setdefault(one.path, one)  # the first gives the row its name
        try:
            rows = await self._rows.add(list(paths.values()))
        except Exception as error:  # noqa: BLE001, every waiting request gets it
            for _, future in requests:
                if not future.done():
                    future.set_exception(error)
            return
        self._announce([row.id for row in rows.values() if not row.duplicate])
        for submissions, future in requests:
            accepted = [_claim(rows, one.path) for one in submissions]
            if not future.done():  # the client may have gone away
                future.set_result(accepted)

    def _take(self) -> list[tuple[Sequence[Submission], asyncio.Future[list[Accepted]]]]:
        requests = [self._waiting.popleft()]
        size = len(requests[0][0])
        while self._waiting and size + len(self._waiting[0][0]) <= _MAX_ROWS:
            size += len(self._waiting[0][0])
            requests.append(self._waiting.popleft())
        self._waiting_rows -= size
        return requests

    def _announce(self, new: list[int]) -> None:
        if not new:
            return
        # One line a transaction: a line a row would cost as much as the rows.
        if len(new) == 1:
            log.info("accepted", image_id=new[0])
        else:
            log.info("accepted", image_ids=new)
        self._ringer.ring(new)


def _claim(rows: dict[str, Accepted], path: str) -> Accepted:
    """Return the path's row; whoever asks for the same path after the first has a duplicate."""
    row = rows[path]
    if not row.duplicate:
        rows[path] = Accepted(row.id, path, row.status, duplicate=True)
    return row
