"""Settings of the redeemer."""

from typing import Annotated, Final

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

Days = Annotated[float, Field(gt=0, le=36_500)]

DAY_MS: Final = 86_400_000


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
    keep_days: Days | None = Field(
        None,
        description="Pictures are erased so many days after they were submitted last, with all that"
        " was made of them (docs/data-at-rest.md): as long as you may keep them. Kept for ever when"
        " not set.",
    )
    audit_days: Days = Field(
        365,
        description="How long it is kept who did what: as long as somebody may ask.",
    )
    thumbnails_seconds: Seconds = Field(
        86_400.0,
        description="Pause between two looks for thumbnails whose picture is gone, which a rollout"
        " alone can leave. All are listed for it, 5,000 a second: more where listings cost money.",
    )
