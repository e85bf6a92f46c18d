"""Takes submissions: a row for each, committed before anybody is told."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from services.common.image_states import Status
from services.common.object_keys import PICTURES
from services.receiver.domain.acts import ActOnPaths, acting
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


class _Batch:
    """What one transaction commits: of requests for the same path the first gives the row a name.

    ``committed`` returns the rows by their paths.
    """

    def __init__(self) -> None:
        self.size = 0
        self.submissions: dict[str, Submission] = {}
        self.acts: list[ActOnPaths] = []
        self.committed: asyncio.Task[dict[str, Accepted]]
        self._claimed: set[str] = set()

    def add(self, submissions: Sequence[Submission]) -> None:
        """Take a request's submissions."""
        self.size += len(submissions)
        if act := acting.get():
            self.acts.append((act, submissions))
        for submission in submissions:
            self.submissions.setdefault(submission.path, submission)

    def claim(self, row: Accepted) -> Accepted:
        """Return a row to a request; who asks for the path after the first gets a duplicate."""
        if row.path in self._claimed:
            return row._replace(duplicate=True)
        self._claimed.add(row.path)
        return row


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
        self._turns = asyncio.Semaphore(parallel)
        self._next: _Batch | None = None
        """The last of those that wait for their turn, if it takes more."""
        self._waiting_rows = 0
        self._commits: set[asyncio.Task[dict[str, Accepted]]] = set()

    async def submit(self, submissions: Sequence[Submission]) -> list[Accepted]:
        """Return the accepted rows, in order, once they are durable: all of them or none.

        A path that has a result is looked at again if its picture was replaced since. Raises
        ``DatabaseUnavailableError``, :class:`BusyError` when too many rows wait, and
        ``ObjectStoreUnavailableError`` when the store cannot tell; the rows are there then.
        """
        if self._waiting_rows + len(submissions) > MAX_WAITING_ROWS:
            raise BusyError(f"too many submissions at once, {self._waiting_rows} paths wait")
        self._waiting_rows += len(submissions)
        batch = self._next
        if batch is None or batch.size + len(submissions) > _MAX_ROWS:
            batch = self._begin()
        batch.add(submissions)
        # A client that goes away does not take the transaction from the others.
        rows = await asyncio.shield(batch.committed)
        accepted = [batch.claim(rows[submission.path]) for submission in submissions]
        if any(row.tag for row in accepted):
            return list(await asyncio.gather(*map(self._compared, accepted)))
        return accepted

    def _begin(self) -> _Batch:
        batch = self._next = _Batch()
        batch.committed = asyncio.create_task(self._commit(batch))
        self._commits.add(batch.committed)
        batch.committed.add_done_callback(self._ended)
        return batch

    def _ended(self, commit: asyncio.Task[dict[str, Accepted]]) -> None:
        self._commits.discard(commit)
        if not commit.cancelled():
            commit.exception()  # whoever waited for it may have gone

    async def _commit(self, batch: _Batch) -> dict[str, Accepted]:
        acting.set(None)  # it is the first request's, and this is done for all of them
        async with self._turns:
            if self._next is batch:
                self._next = None
            self._waiting_rows -= batch.size
            rows = await self._rows.add(list(batch.submissions.values()), batch.acts)
        self.announce(rows.values())
        return rows

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
