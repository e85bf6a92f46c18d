"""Why a command, or a part of it, cannot be done; the messages are for a person at a terminal.

AwayError
└── ServerAwayError       nothing answers at the address, or something that is no Facestack
RefusedError
├── NoKeyError            the server does not know who calls: nothing goes on
├── ItemRefusedError      one thing of several, by the server or by a file here: others may go on
└── NotWrittenError       no file can be written here: nothing goes on
"""

from services.common.errors import AwayError, RefusedError


class ServerAwayError(AwayError):
    """There is no Facestack at the address now."""

    service = "receiver"


class NoKeyError(RefusedError):
    """The server knows no such key, or wants one."""


class ItemRefusedError(RefusedError):
    """One thing of those that were asked for cannot be done; ``status`` is what the server said."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class NotWrittenError(RefusedError):
    """A file of the answer cannot be written."""
