"""Settings of the receiver."""

from pydantic import Field

from services.common.settings import (
    DatabaseSettings,
    HttpSettings,
    NsqdSettings,
    ObjectStoreSettings,
    Port,
    RecogniserClientSettings,
    Seconds,
    Settings,
)


class ReceiverSettings(
    Settings,
    HttpSettings,
    DatabaseSettings,
    ObjectStoreSettings,
    RecogniserClientSettings,
    NsqdSettings,
):
    """What the environment says."""

    port: Port = Field(8000, description="Port of the HTTP interface.")
    people_target: str = Field(
        "dns:///people:50052", description="gRPC target of people, which finds stored faces."
    )
    people_timeout_seconds: Seconds = Field(
        10.0,
        description="How long people may take for a search: more with many millions of faces on"
        " slow CPUs.",
    )
    max_in_flight: int = Field(
        128,
        ge=1,
        description="Submissions served at once, and as many other requests; further ones get"
        " 429: more for more clients on more CPUs, less to answer those that are served sooner.",
    )
    max_json_bytes: int = Field(
        # 1000 of the longest paths, each character escaped, have 3 MiB.
        8 * 1024 * 1024,
        ge=1024,
        description="Largest JSON body; 1000 of the longest paths fit.",
    )

    @property
    def storing_ms(self) -> int:
        """How long storing may take, from the note of a file to its row.

        That is twelve times as long as the store has for each. What takes longer is refused and
        removed.
        """
        return 12_000 * self.object_store_timeout_seconds
