"""What may be wrong."""

from enum import StrEnum


class Problem(StrEnum):
    """Why a picture or a request cannot be answered; trying again changes nothing."""

    NOT_FOUND = "not_found"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    INVALID_REQUEST = "invalid_request"


class RejectedError(Exception):
    """The content of a request is at fault; the message is for people."""

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem


class RecogniserFaultError(Exception):
    """The recogniser failed on a picture that may work later."""


class RecogniserBusyError(Exception):
    """Too many pictures wait already."""
