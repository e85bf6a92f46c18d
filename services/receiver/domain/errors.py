"""Why a request is refused.

ReceiverError
├── NotFoundError   the thing that is named does not exist
├── ConflictError   its state does not allow the request
├── BusyError       too much waits or is in memory; the same request works later
└── InvalidError    the request can never work; ``faults`` names each wrong part

The message of each is meant for the client.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class ReceiverError(Exception):
    """The request was refused."""


class NotFoundError(ReceiverError):
    """What the request names does not exist."""


class ConflictError(ReceiverError):
    """The request does not fit the present state."""


class BusyError(ReceiverError):
    """Too much waits or is in memory already: this would wait too long, or find no room."""


@dataclass(frozen=True)
class Fault:
    """One wrong part of a request; ``pointer`` is where it stands, such as ``/paths/3/path``."""

    pointer: str
    detail: str


class InvalidError(ReceiverError):
    """The request is wrong and will stay so."""

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)
