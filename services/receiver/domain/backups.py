"""How the backups stand."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackupStatus:
    """How the backups stand.

    ``last_good_seconds`` is the age of the last good one, None before the first. ``error`` says why
    the last one failed that ended.
    """

    last_good_seconds: float | None
    is_old: bool
    error: str | None
