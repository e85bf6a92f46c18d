"""What the receiver did not do.

AwayError
└── ReceiverAwayError     it, or what it needs, is away: the same call may work later
RefusedError
└── RequestRefusedError   it, or a page before it, refused what was asked for

``NotDoneError`` is either of them.
"""

from http import HTTPStatus
from typing import Final

from services.common.errors import AwayError, RefusedError

NO_ANSWER: Final = "The receiver does not answer. Pictures can be neither shown nor accepted."


class NotDoneError(Exception):
    """Something was not done; ``message`` says it to people, with ``status`` as HTTP status."""

    message: str
    status: int


class ReceiverAwayError(NotDoneError, AwayError):
    """The receiver answered that it cannot serve now; or, with a technical ``reason``, not at all.

    ``problem`` is what that means for people.
    """

    service = "receiver"
    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, problem: str = NO_ANSWER, *, reason: str = "") -> None:
        super().__init__(reason or problem)
        self.message = f"{problem} Try again in a moment." if reason else problem
        self.problem = problem
        self.reason = reason


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
