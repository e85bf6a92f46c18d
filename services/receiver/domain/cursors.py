"""Where the pages of lists begin and end, and how a client is told."""

import re
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from services.common.person_names import MAX_NAME_LENGTH
from services.receiver.domain.errors import Fault, InvalidError

_Item = TypeVar("_Item")
_Place = TypeVar("_Place")

LAST_ID: Final = 2**63 - 1
"""The largest id that a row can have."""


class PersonKey(NamedTuple):
    """A person's place in a list by name; others may have the name, too."""

    name: str
    id: int


class Pair(NamedTuple):
    """A place in a list that two numbers tell: a group's size and id, or a face's image and index.

    Where a page ends, and the next one starts behind.
    """

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Page(Generic[_Item, _Place]):
    """Part of a list; ``last`` is the place of the last of them, None on the last page."""

    items: tuple[_Item, ...]
    last: _Place | None


def encode_cursor(last_id: int) -> str:
    """Return the cursor of the page after this image."""
    return f"{last_id:016x}"


def decode_cursor(cursor: str) -> int:
    """Return the id before which the page starts, or raise :class:`InvalidError`."""
    _check(cursor, CURSOR)
    return int(cursor, 16)


CURSOR: Final = "^[0-7][0-9a-f]{15}$"
"""Exactly the numbers that an id can be."""


def encode_pair(last: Pair) -> str:
    """Return the cursor of the page behind this place."""
    return f"{last.first:016x}-{last.second:016x}"


def decode_pair(cursor: str) -> Pair:
    """Return behind which place the page starts, or raise :class:`InvalidError`."""
    _check(cursor, PAIR_CURSOR)
    first, second = cursor.split("-")
    return Pair(int(first, 16), int(second, 16))


PAIR_CURSOR: Final = "^[0-7][0-9a-f]{15}-[0-7][0-9a-f]{15}$"


def _check(cursor: str, pattern: str) -> None:
    if not re.fullmatch(pattern, cursor):
        reason = "cursor is not what an earlier page gave as its next_cursor"
        raise InvalidError(reason, [Fault("/query/cursor", reason)])


def encode_person_cursor(last: PersonKey) -> str:
    """Return the cursor of the page after this person; no name has a slash."""
    return f"{last.name}/{last.id}"


def decode_person_cursor(cursor: str) -> PersonKey:
    """Return whom the page starts behind; a receiver of before gives everybody of a name at once.

    It is one that matches ``PERSON_CURSOR``.
    """
    name, slash, number = cursor.partition("/")
    return PersonKey(name, min(int(number), LAST_ID) if slash else LAST_ID)


PERSON_CURSOR: Final = rf"^[^/]{{0,{MAX_NAME_LENGTH}}}(/[0-9]{{1,19}})?$"
