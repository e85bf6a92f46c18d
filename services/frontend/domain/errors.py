"""What the receiver did not do.

AwayError
├── ReceiverAwayError     it, or what it needs, is away: the same call may work later
└── ProviderAwayError     the provider with which people log in is, or answers nothing of use
RefusedError
├── RequestRefusedError   it, or a page before it, refused what was asked for
├── LogInRefusedError     a provider's answer does not say who somebody is
└── LoggedOutError        the session is over

``NotDoneError`` is either of them.
"""

from http import HTTPStatus
from typing import Final

from services.common.errors import AwayError, RefusedError

NO_ANSWER: Final = "The receiver does not answer. Pictures can be neither shown nor accepted."
LOGGED_OUT: Final = "You are not logged in, or no longer."


class NotDoneError(Exception):
    """Something was not done; ``message`` says it to people, with ``status`` as HTTP status."""

    message: str
    status: int


class ReceiverAwayError(NotDoneError, AwayError):
    """The receiver answered that it cannot serve now; or, with a technical ``reason``, not at all.

    ``problem`` is what that means for people; ``wait_seconds`` how long one must wait because of
    too many attempts, if that is why.
    """

    service = "receiver"
    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(
        self, problem: str = NO_ANSWER, *, reason: str = "", wait_seconds: str = ""
    ) -> None:
        super().__init__(reason or problem)
        self.message = f"{problem} Try again in a moment." if reason else problem
        self.problem = problem
        self.reason = reason
        self.wait_seconds = wait_seconds


class RequestRefusedError(NotDoneError, RefusedError):
    """The request was refused with ``status``, 400..499, or by its form, before it was sent.

    ``can_insist`` says that it is only a doubt, which a person may overrule.
    """

    def __init__(
        self,
        message: str,
        status: int = HTTPStatus.UNPROCESSABLE_ENTITY,
        *,
        can_insist: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.can_insist = can_insist


class ProviderAwayError(AwayError):
    """The provider does not answer, or not as one does; why is for the log."""

    service = "provider"


class LogInRefusedError(RefusedError):
    """What came back from a provider, or the browser that brought it, proves nothing.

    Why is for the log: who tries to get in learns nothing of it.
    """


class LoggedOutError(RefusedError):
    """The receiver knows no such session, or none any more: no page shows anything then."""
