"""What has changed, for those who follow along."""

from collections.abc import Sequence
from typing import NamedTuple

from services.common.events import Position


class Change(NamedTuple):
    """An image or a person has changed: its ``status`` now, or their ``name``; None: it is gone.

    ``kind`` is an ``EventKind``; ``position`` is that of whoever knows of this change.
    """

    position: Position
    kind: str
    id: int
    status: str | None
    name: str | None


class Changes(NamedTuple):
    """Changes in order, the position of whoever knows of them all, and whether there are more."""

    changes: Sequence[Change]
    position: Position
    more: bool
