"""Logs when what a service depends on goes away, and when it is back."""

import structlog

_log = structlog.get_logger(__name__)


class AvailabilityLog:
    """Says once when a dependency goes away and once when it is back, however often it is tried."""

    def __init__(self, dependency: str) -> None:
        self._dependency = dependency
        self.away = False

    def failed(self, error: Exception) -> None:
        """Note that it did not answer."""
        if not self.away:
            self.away = True
            _log.warning(f"{self._dependency} is away", error=str(error))

    def passed(self) -> None:
        """Note that it answered."""
        if self.away:
            self.away = False
            _log.info(f"{self._dependency} is back")
