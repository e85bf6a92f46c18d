"""Why this service itself does not do what is asked, below the branches of ``common/errors.py``.

AwayError
├── BusyError           too much waits or is in memory: the same request works later
└── TooManyAttemptsError  too many passwords were wrong: one may be tried after a while

RefusedError
├── NotFoundError       what is named does not exist
├── ConflictError       its state does not allow the request
├── UnknownCallerError  nobody knows who calls: the same for every reason
├── WrongLogInError     nobody may log in with that: the same for every reason
├── NoRoleError         a provider vouches for them, but no group of theirs has a role
└── InvalidError        the request can never work; ``faults`` names each wrong part

The message of each is meant for the client.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.errors import AwayError, RefusedError


class BusyError(AwayError):
    """Too much waits or is in memory already: this would wait too long, or find no room."""

    service = "receiver"


class NotFoundError(RefusedError):
    """What the request names does not exist."""


class ConflictError(RefusedError):
    """The request does not fit the present state."""


class UnknownCallerError(RefusedError):
    """What was shown is no valid key or session; why is nobody's business."""

    def __init__(self) -> None:
        super().__init__(
            "this needs a key that is valid: send the header Authorization: Bearer KEY"
        )


class UnknownSessionError(UnknownCallerError):
    """What the frontend has shown beside its own key is no valid session."""


class TooManyAttemptsError(AwayError):
    """From this address no password may be tried for ``seconds``, of this name or of any."""

    service = "receiver"

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many passwords were wrong: try again in {seconds} s")
        self.seconds = seconds


class WrongLogInError(RefusedError):
    """Nobody may log in with what was given; why is nobody's business."""

    def __init__(self) -> None:
        super().__init__("the name or the password is wrong, or this user may not log in")


class NoRoleError(RefusedError):
    """None of the groups that a provider told of somebody has a role here."""

    def __init__(self) -> None:
        super().__init__(
            "this account is in none of the groups that may log in: whoever administers the"
            " provider's groups can add it to one"
        )


@dataclass(frozen=True)
class Fault:
    """One wrong part of a request; ``pointer`` is where it stands, such as ``/paths/3/path``."""

    pointer: str
    detail: str


class InvalidError(RefusedError):
    """The request is wrong and will stay so."""

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)
