"""Settings of the service of people."""

from pydantic import Field

from services.common.settings import (
    DatabaseSettings,
    Port,
    RecogniserTargetSettings,
    Seconds,
    Settings,
)


class PeopleSettings(Settings, DatabaseSettings, RecogniserTargetSettings):
    """What the environment says."""

    port: Port = Field(50052, description="Port of gRPC.")
    probe_port: Port = Field(9104, description="Port of probes and metrics.")
    poll_seconds: Seconds = Field(
        0.5,
        description="Pause between two looks for people who have changed, and for new faces: more"
        " to spare the database, less to decide sooner.",
    )
