"""What became of every picture, as Jepsen's total-queue checker counts: a pure function.

The history holds what clients asked for and were told, every change of status that the database
made, and the rows at the end. An answer that never came, or that was an error of the server, says
nothing: the request may have worked. What was acknowledged must be there, once, final and right.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from services.common.image_states import FINAL, Status

_ARROWS: Final = frozenset(
    {
        (None, Status.PENDING),
        (Status.PENDING, Status.PENDING),
        (Status.PENDING, Status.PROCESSING),
        (Status.PROCESSING, Status.PROCESSING),
        (Status.PROCESSING, Status.PENDING),
        (Status.PROCESSING, Status.PROCESSED),
        (Status.PROCESSING, Status.REJECTED),
        (Status.PROCESSING, Status.FAILED),
        (Status.PROCESSING, Status.DEAD),
        (Status.FAILED, Status.PENDING),
        (Status.FAILED, Status.PROCESSING),
    }
)
"""The arrows of docs/architecture.md; those that a client asks for are looked at one by one."""


class Ask(StrEnum):
    """What a client may want of a path."""

    SUBMIT = "submit"
    DELETE = "delete"


class Told(StrEnum):
    """What it was answered."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Loss(StrEnum):
    """What may not happen."""

    LOST = "lost"
    STUCK = "stuck"
    DOUBLED = "doubled"
    CONTRADICTORY = "contradictory"
    INVENTED = "invented"


@dataclass(frozen=True)
class Attempt:
    """One request's part about one path.

    ``image_id`` is what an acknowledged submission was given, or what a deletion names.
    """

    ask: Ask
    path: str
    told: Told
    image_id: int | None = None


@dataclass(frozen=True)
class Change:
    """A row's status before and after; None before its insertion and after its deletion.

    From processed to processed is a second result.
    """

    image_id: int
    before: Status | None
    after: Status | None


@dataclass(frozen=True)
class Row:
    """A row at the end, with the person of each face; None is somebody unknown."""

    image_id: int
    path: str
    status: Status
    people: tuple[str | None, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Answer:
    """What must come of a picture; ``people`` as in :class:`Row`, in any order."""

    status: Status
    people: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class History:
    """All that is known of a run; attempts in the order in which their answers came."""

    attempts: Sequence[Attempt]
    changes: Sequence[Change]
    rows: Sequence[Row]
    answers: Mapping[str, Answer]


@dataclass(frozen=True)
class Finding:
    """One thing that may not happen, and where it did."""

    loss: Loss
    path: str
    detail: str


@dataclass(frozen=True)
class Account:
    """The findings, and how many attempts were told what; ``pictures`` have an acknowledged id."""

    findings: tuple[Finding, ...]
    pictures: int
    deleted: int
    told: Mapping[Told, int] = field(default_factory=dict)

    def count(self, loss: Loss) -> int:
        """Return how often it happened."""
        return sum(finding.loss is loss for finding in self.findings)


def account(history: History) -> Account:
    """Look for everything that may not happen."""
    ledger = _Ledger(history)
    return Account(
        findings=(
            *ledger.lost(),
            *ledger.stuck(),
            *ledger.doubled(),
            *ledger.contradictory(),
            *ledger.changed(),
            *ledger.invented(),
        ),
        pictures=len(ledger.acknowledged),
        deleted=len(ledger.gone),
        told=Counter(attempt.told for attempt in history.attempts),
    )


class _Ledger:
    def __init__(self, history: History) -> None:
        self._history = history
        self._rows = {row.image_id: row for row in history.rows}
        self.acknowledged: dict[int, str] = {}
        self.gone: set[int] = set()
        self._maybe_gone: set[int] = set()
        self._submitted: Counter[str] = Counter()
        for attempt in history.attempts:
            if attempt.ask is Ask.SUBMIT:
                self._submitted[attempt.path] += attempt.told is not Told.REFUSED
                if attempt.told is Told.ACKNOWLEDGED and attempt.image_id is not None:
                    self.acknowledged[attempt.image_id] = attempt.path
            elif attempt.image_id is not None and attempt.told is not Told.REFUSED:
                self._maybe_gone.add(attempt.image_id)
                if attempt.told is Told.ACKNOWLEDGED:
                    self.gone.add(attempt.image_id)

    def lost(self) -> Iterator[Finding]:
        for image_id, path in self.acknowledged.items():
            if image_id not in self._rows and image_id not in self._maybe_gone:
                yield Finding(Loss.LOST, path, f"image {image_id} was acknowledged and is gone")

    def stuck(self) -> Iterator[Finding]:
        for row in self._history.rows:
            if row.status not in FINAL:
                yield Finding(Loss.STUCK, row.path, f"image {row.image_id} is still {row.status}")

    def doubled(self) -> Iterator[Finding]:
        ids: dict[str, set[int]] = defaultdict(set)
        for row in self._history.rows:
            ids[row.path].add(row.image_id)
        for image_id, path in self.acknowledged.items():
            if image_id not in self._maybe_gone:
                ids[path].add(image_id)
        for path, several in ids.items():
            if len(several) > 1:
                yield Finding(Loss.DOUBLED, path, f"it is {len(several)} images: {sorted(several)}")
        for change in self._history.changes:
            if change.before is Status.PROCESSED and change.after is Status.PROCESSED:
                path = self._path(change.image_id)
                yield Finding(Loss.DOUBLED, path, f"image {change.image_id} has a second result")

    def contradictory(self) -> Iterator[Finding]:
        for row in self._history.rows:
            if row.image_id in self.gone:
                yield Finding(
                    Loss.CONTRADICTORY, row.path, f"image {row.image_id} is there though deleted"
                )
            right = self._history.answers.get(row.path)
            if right is None or row.status not in FINAL:
                continue
            if (row.status, Counter(row.people)) != (right.status, Counter(right.people)):
                yield Finding(
                    Loss.CONTRADICTORY,
                    row.path,
                    f"image {row.image_id} is {_words(row.status, row.people)}"
                    f" and should be {_words(right.status, right.people)}"
                    + (f": {row.error}" if row.error else ""),
                )

    def changed(self) -> Iterator[Finding]:
        for change in self._history.changes:
            path = self._path(change.image_id)
            if not self._may(change, path):
                yield Finding(
                    Loss.CONTRADICTORY,
                    path,
                    f"image {change.image_id} went from {change.before} to {change.after}",
                )

    def _may(self, change: Change, path: str) -> bool:
        if (change.before, change.after) in _ARROWS:
            return True
        if change.after is None:
            return change.image_id in self._maybe_gone
        if change.before is Status.PROCESSED and change.after is Status.PROCESSED:
            return True  # doubled, said already
        # What was rejected or dead is looked at again when somebody submits it again.
        again = change.before in {Status.REJECTED, Status.DEAD} and change.after is Status.PENDING
        return again and self._submitted[path] > 1

    def invented(self) -> Iterator[Finding]:
        for row in self._history.rows:
            if not self._submitted[row.path]:
                yield Finding(Loss.INVENTED, row.path, f"nobody submitted image {row.image_id}")

    def _path(self, image_id: int) -> str:
        row = self._rows.get(image_id)
        return row.path if row else self.acknowledged.get(image_id, f"image {image_id}")


def _words(status: Status, people: Sequence[str | None]) -> str:
    if status is not Status.PROCESSED:
        return status.value
    named = ", ".join(person or "somebody unknown" for person in people)
    return f"processed with {named or 'no face'}"
