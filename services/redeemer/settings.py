"""Settings of the redeemer."""

from typing import Final

from pydantic import Field

from services.common.settings import (
    ClaimSettings,
    DatabaseSettings,
    NsqdSettings,
    ObjectStoreSettings,
    Port,
    Seconds,
    Settings,
)

_DAY_MS: Final = 86_400_000

_CENTURY: Final = 36_500
"""Days; above that is a time in another unit."""


class RedeemerSettings(
    Settings, DatabaseSettings, ObjectStoreSettings, NsqdSettings, ClaimSettings
):
    """What the environment says."""

    probe_port: Port = Field(9103, description="Port of probes and metrics.")
    sweep_seconds: Seconds = Field(
        2.0,
        description="Pause between two looks at the rows: less to repair sooner, more to spare the"
        " database.",
    )
    ring_again_seconds: float = Field(
        10.0,
        ge=1,
        description="How long a pending image waits until the queue is told of it again: more where"
        " nothing is lost but images wait in the queue for longer, so that fewer are in it twice.",
    )
    max_queued_rings: int = Field(
        1000,
        ge=1,
        description="The queue is kept filled up to so many rings, what 500 pictures a second need"
        " between two sweeps: more where more are processed. What waits behind them follows"
        " when there is room.",
    )
    count_seconds: Seconds = Field(
        10.0,
        description="Pause between two counts of the rows, for the metrics: a million take a"
        " moment, so more with many millions.",
    )
    keep_days: float | None = Field(
        None,
        gt=0,
        le=_CENTURY,
        description="So many days after a picture was submitted last it is erased, with all that"
        " was made of it (docs/data-at-rest.md): as long as you may keep faces. Kept for ever when"
        " not set.",
    )
    audit_days: float = Field(
        365.0,
        gt=0,
        le=_CENTURY,
        description="How long is kept who did what: more where it is asked for later, less for less"
        " of what was said of people.",
    )
    thumbnails_seconds: Seconds = Field(
        86_400.0,
        description="Pause between two looks for thumbnails whose picture is gone, which a rollout"
        " alone can leave. All are listed for it, 5,000 a second: more where listings cost money.",
    )

    @property
    def keep_ms(self) -> int | None:
        """How long pictures are kept; None: for ever."""
        return None if self.keep_days is None else round(self.keep_days * _DAY_MS)

    @property
    def audit_ms(self) -> int:
        """How long rows of the audit are kept."""
        return round(self.audit_days * _DAY_MS)
