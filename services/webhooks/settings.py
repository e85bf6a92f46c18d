"""Settings of the webhooks."""

from pathlib import Path

from pydantic import Field

from services.common.settings import DatabaseSettings, Port, Settings


class WebhooksSettings(Settings, DatabaseSettings):
    """What the environment says."""

    probe_port: Port = Field(9105, description="Port of probes and metrics.")
    webhooks_file: Path | None = Field(
        None,
        description="JSON file with the endpoints; without it, and while it is not there, nobody"
        " is told anything.",
    )
