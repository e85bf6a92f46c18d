"""Tables of fields that must have certain values."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from scripts.manifests.model import Finding, at


@dataclass(frozen=True)
class Must:
    """A field, what its value must fulfil, and what to do when it does not."""

    field: str
    test: Callable[[Any], bool]
    advice: str


def exactly(wanted: Any) -> Callable[[Any], bool]:
    """Return a test for one value of one type: 1 is not true."""
    return lambda value: type(value) is type(wanted) and value == wanted


def between(low: int, high: int) -> Callable[[Any], bool]:
    """Return a test for a whole number."""
    return lambda value: type(value) is int and low <= value <= high


def said(value: Any) -> str:
    """Return how a message tells a field's value."""
    return "is missing" if value is None else f"is {value!r}"


def broken(where: str, node: Any, prefix: str, table: Iterable[Must]) -> Iterator[Finding]:
    """Yield a finding for every line of the table that the node does not fulfil."""
    for must in table:
        value = at(node, must.field)
        if not must.test(value):
            yield Finding(where, prefix + must.field, f"{said(value)}: {must.advice}")
