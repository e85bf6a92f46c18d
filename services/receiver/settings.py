"""Settings of the receiver."""

from pydantic import Field

from services.common.settings import (
    DatabaseSettings,
    HttpSettings,
    ObjectStoreSettings,
    Port,
    RecogniserClientSettings,
    Settings,
)


class ReceiverSettings(
    Settings, HttpSettings, DatabaseSettings, ObjectStoreSettings, RecogniserClientSettings
):
    """What the environment says."""

    port: Port = Field(8000, description="Port of the HTTP interface.")
    nsqd_url: str | None = Field(
        None,
        pattern="^https?://",
        description="nsqd's HTTP interface; when not set, processors poll the rows.",
    )
    people_target: str = Field(
        "dns:///people:50052", description="gRPC target of people, which finds stored faces."
    )
    max_in_flight: int = Field(
        128,
        ge=1,
        description="Submissions served at once, and other requests: further ones get 429.",
    )
    max_json_bytes: int = Field(
        # 1000 of the longest paths, each character escaped, have 3 MiB.
        8 * 1024 * 1024,
        ge=1024,
        description="Largest JSON body.",
    )
