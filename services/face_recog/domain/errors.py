"""What this service does not do, on the branches of :mod:`services.common.errors`.

AwayError
├── ObjectStoreUnavailableError
└── RecogniserError
    ├── NotReadyError                the known people are not loaded yet
    ├── RecogniserUnavailableError   no worker runs
    ├── RecogniserBusyError          too many pictures wait already, or the service stops
    └── RecogniserFailedError        the worker failed on a picture that may work later

RefusedError
├── RejectedError                    the content of a request is at fault
├── WrongEngineError                 encodings are another engine's
└── DamagedError                     kept bytes are not what was to be kept: that is made again
"""

from enum import StrEnum

from services.common.errors import ObjectStoreError, RecogniserError, RefusedError


class NotReadyError(RecogniserError):
    """The known people are not loaded yet."""


class Rejection(StrEnum):
    """Why a picture or a request cannot be answered; trying again changes nothing."""

    NOT_FOUND = "not_found"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    INVALID_REQUEST = "invalid_request"


class RejectedError(RefusedError):
    """The content of a request is at fault; the message is for people."""

    def __init__(self, message: str, rejection: Rejection = Rejection.INVALID_REQUEST) -> None:
        super().__init__(message)
        self.rejection = rejection


class WrongEngineError(RefusedError):
    """The encodings are another engine's."""


class DamagedError(RefusedError):
    """The bytes are not what was to be kept; the message says why."""


def describe(error: Exception) -> str:
    """Return an error's words, for people, with its kind where that says more."""
    return str(error) if is_expected(error) else f"{type(error).__name__}: {error}"


def is_expected(error: Exception) -> bool:
    """Tell whether it is the store's or the recogniser's, else a bug."""
    return isinstance(error, ObjectStoreError | RecogniserError)
