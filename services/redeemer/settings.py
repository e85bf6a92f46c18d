"""Settings of the redeemer."""

from pydantic import Field

from services.common.settings import (
    DatabaseSettings,
    ObjectStoreSettings,
    Port,
    Seconds,
    Settings,
)


class RedeemerSettings(Settings, DatabaseSettings, ObjectStoreSettings):
    """What the environment says."""

    probe_port: Port = Field(9103, description="Port of probes and metrics.")
    nsqd_url: str | None = Field(
        None,
        pattern="^https?://",
        description="nsqd's HTTP address; when not set, processors poll the rows.",
    )
    sweep_seconds: Seconds = Field(2.0, description="Pause between two looks at the rows.")
