"""What was done and refused, beyond what the transactions of what is done record by themselves."""

from typing import Final

import structlog

from services.common.errors import DatabaseUnavailableError
from services.receiver.domain.access import ActorKind
from services.receiver.domain.acts import Act, Record
from services.receiver.ports import AuditRows

log = structlog.get_logger(__name__)

WRITE_SECONDS: Final = 1.0
"""Between two times that what was refused is written."""

_TOLD_APART: Final = 100
_UNKNOWN_TOLD_APART: Final = 10
"""Refusals, of callers that are known and of others, that one writing tells apart: more are not to
fill the database, and are counted without an address, and of the unknown without what they tried.
"""

_SEVERAL: Final = "several"


class Auditing:
    """Records what no transaction did, and counts what was refused.

    All refusals of one kind, of one caller, from one address make one row a second, which says how
    many they were: whoever tries ten thousand keys gets that many answers, none of which waits for
    the database, and leaves a handful of rows.
    """

    def __init__(self, rows: AuditRows) -> None:
        self._rows = rows
        self._refused: dict[Record, Record] = {}
        """What is not written yet, by what they have in common."""

    async def done(self, act: Act) -> None:
        """Record what was done; raises ``DatabaseUnavailableError``."""
        await self._rows.add([act.done()])
        act.recorded = True

    def refused(self, act: Act, status: int) -> None:
        """Count an act that was answered with an error."""
        self._count(act.refused(status))

    def _count(self, record: Record) -> None:
        common = record._replace(subject_kind=None, subject_id=None, times=0)
        if common not in self._refused and self._is_full(record.kind):
            action = _SEVERAL if record.kind is ActorKind.UNKNOWN else record.action
            record = record._replace(address="", action=action)
            common = common._replace(address="", action=action)
        before = self._refused.get(common)
        if before is not None:
            same = before.subject_kind == record.subject_kind
            same = same and before.subject_id == record.subject_id
            record = (record if same else common)._replace(times=before.times + record.times)
        self._refused[common] = record

    def _is_full(self, kind: ActorKind) -> bool:
        unknown = sum(record.kind is ActorKind.UNKNOWN for record in self._refused)
        if kind is ActorKind.UNKNOWN:
            return unknown >= _UNKNOWN_TOLD_APART
        return len(self._refused) - unknown >= _TOLD_APART

    async def write(self) -> None:
        """Write what was refused since the last time; raises ``DatabaseUnavailableError``."""
        refused, self._refused = self._refused, {}
        try:
            if refused:
                await self._rows.add(list(refused.values()))
        except DatabaseUnavailableError:
            for record in refused.values():
                self._count(record)
            raise

    async def close(self) -> None:
        """Write what is left, if that is possible."""
        try:
            await self.write()
        except DatabaseUnavailableError as error:
            lost = sum(record.times for record in self._refused.values())
            log.warning("refusals are not in the audit", refusals=lost, error=str(error))
