"""Saying what keeps the known people from being read."""

import structlog

from services.common.errors import AwayError, RefusedError
from services.face_recog import metrics

log = structlog.get_logger(__name__)


def describe(error: Exception) -> str:
    """Return an error's words, for people, with its kind where that says more."""
    return str(error) if _is_expected(error) else f"{type(error).__name__}: {error}"


def _is_expected(error: Exception) -> bool:
    return isinstance(error, AwayError | RefusedError)


class Trouble:
    """Says once what keeps the known people from being read, and once that nothing does."""

    def __init__(self) -> None:
        self.reason = ""
        self._all_failed = False

    def note(self, error: Exception | None, *, of_all: bool) -> None:
        """Note what a look ended with: one at all the known people, or at some of them."""
        # What a look at all failed with is neither over nor said again by one at some.
        if of_all or not self._all_failed:
            self._say(error)
        if of_all:
            self._all_failed = error is not None

    def _say(self, error: Exception | None) -> None:
        reason = "" if error is None else describe(error)
        if error is None:
            if self.reason:
                log.info("known people can be read again")
        elif not self.reason or (reason != self.reason and not _is_expected(error)):
            log.warning(
                "known people cannot be read, the last ones are kept: %s",
                reason,
                exc_info=None if _is_expected(error) else error,
            )
        self.reason = reason
        metrics.GALLERY_TROUBLE.set(bool(reason))
