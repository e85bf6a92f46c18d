"""Settings of the frontend."""

from pydantic import Field

from services.common.settings import HttpSettings, Port, Settings


class FrontendSettings(Settings, HttpSettings):
    """Where to listen and where the receiver answers."""

    port: Port = Field(8080, description="HTTP port of the pages.")
    receiver_url: str = Field(
        "http://127.0.0.1:8000", pattern="^https?://", description="Base URL of the receiver."
    )
