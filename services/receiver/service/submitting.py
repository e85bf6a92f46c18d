"""Takes submissions: a row for each, committed before anybody is told."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from services.common.images import PICTURES, Status
from services.receiver.domain.errors import BusyError
from services.receiver.domain.submissions import MAX_BATCH, Accepted, Submission
from services.receiver.ports import ImageRows, Pictures
from services.receiver.service.ringing import Ringer

log = structlog.get_logger(__name__)

_MAX_ROWS: Final = MAX_BATCH
"""Rows in one transaction: a larger one keeps everybody waiting longer than it saves."""


MAX_WAITING_ROWS: Final = 8 * MAX_BATCH
"""Rows that wait for their transaction: more would wait for longer than it takes to come again."""

_COMPARISONS_AT_ONCE: Final = 16
"""Of a result's picture with the one in the store; more would wait in the store."""


class Submissions:
    """Group commit: what arrives while transactions commit goes into the next one together.

    ``parallel`` is how many transactions the database takes at once.
    """

    def __init__(
        self, rows: ImageRows, pictures: Pictures, ringer: Ringer, *, parallel: int
    ) -> None:
        self._rows = rows
        self._pictures = pictures
        self._comparisons = asyncio.Semaphore(_COMPARISONS_AT_ONCE)
        self._ringer = ringer
        self._waiting: deque[tuple[Sequence[Submission], asyncio.Future[list[Accepted]]]] = deque()
        self._waiting_rows = 0
        self._idle = parallel
        self._writers: set[asyncio.Task[None]] = set()

    async def submit(self, submissions: Sequence[Submission]) -> list[Accepted]:
        """Return the accepted rows, in order, once they are durable: all of them or none.

        A path that has a result is looked at again if its picture was replaced since. Raises
        ``DatabaseUnavailableError``, :class:`BusyError` when too many rows wait, and
        ``ObjectStoreUnavailableError`` when the store cannot tell; the rows are there then.
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
        accepted = await future
        if any(one.tag for one in accepted):
            return list(await asyncio.gather(*map(self._compared, accepted)))
        return accepted

    async def _compared(self, accepted: Accepted) -> Accepted:
        if await self.look_again_if_changed(accepted.id, accepted.path, accepted.tag):
            return accepted._replace(status=Status.PENDING)
        return accepted

    async def look_again_if_changed(self, image_id: int, path: str, tag: str | None) -> bool:
        """Send a processed image back to pending if its picture has another tag than this.

        What a picture showed that is gone stays known.
        """
        if tag is None:
            return False
        async with self._comparisons:
            if await self._pictures.tag(PICTURES + path) in (tag, None):
                return False
        if await self._rows.look_again(image_id, tag):
            log.info("the picture has changed", image_id=image_id)
            self._ringer.ring([image_id])
        return True

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
        self.announce(rows.values())
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

    def announce(self, rows: Iterable[Accepted]) -> None:
        """Log and ring for what waits since this moment."""
        new = [row.id for row in rows if row.sent_back or not row.duplicate]
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
        rows[path] = row._replace(duplicate=True)
    return row
