"""What rows have alike: the database that they are in, and pages by id."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from services.common.database import Database
from services.receiver.domain.cursors import Page


class OnDatabase:
    """An adapter that has nothing else."""

    def __init__(self, database: Database) -> None:
        self._database = database


class _HasId(Protocol):
    @property
    def id(self) -> int: ...


T = TypeVar("T", bound=_HasId)


def page_by_id(rows: Sequence[Any], made: Callable[[Any], T], limit: int) -> Page[T, int]:
    """Return the page of rows that were asked for with one more than its limit."""
    found = tuple(map(made, rows[:limit]))
    return Page(found, found[-1].id if len(rows) > limit else None)
