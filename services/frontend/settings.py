"""Settings of the frontend."""

from pydantic import Field

from services.common.settings import HttpSettings, Port, Seconds, SecretFile, Settings


class FrontendSettings(Settings, HttpSettings):
    """Where to listen and where the receiver answers."""

    port: Port = Field(8080, description="HTTP port of the pages.")
    probe_port: Port = Field(9107, description="Port of probes and metrics.")
    receiver_url: str = Field(
        "http://127.0.0.1:8000", pattern="^https?://", description="Base URL of the receiver."
    )
    receiver_key_file: SecretFile | None = Field(
        None,
        description="File with the key of the frontend at the receiver, with which people log in;"
        " without it the receiver must be open.",
    )
    receiver_timeout_seconds: Seconds = Field(
        15.0,
        description="How long the receiver may take for an answer before the page says that it is"
        " away: more on a machine that is busy with a rollout, where late is better than away.",
    )
    upload_timeout_seconds: Seconds = Field(
        60.0,
        description="The same for what sends pictures, exports or has faces cut out, of a group"
        " up to ten: more where the object store or face_recog is slow.",
    )
