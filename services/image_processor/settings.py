"""Settings of the image processor."""

from pydantic import Field

from services.common.settings import (
    DatabaseSettings,
    ObjectStoreSettings,
    Port,
    RecogniserClientSettings,
    Seconds,
    Settings,
)


class ImageProcessorSettings(
    Settings, DatabaseSettings, ObjectStoreSettings, RecogniserClientSettings
):
    """What the environment says."""

    probe_port: Port = Field(9101, description="Port of probes and metrics.")
    face_recog_timeout_seconds: Seconds = Field(
        600.0,
        description="Deadline of one picture. Waiting in face_recog's queue counts, so it is far"
        " beyond any work; a dead connection is noticed within 25 s, and NSQ holds a message for"
        " 15 minutes at most.",
    )
    nsqlookupd_urls: tuple[str, ...] | None = Field(
        None,
        description='nsqlookupd instances as JSON, ["http://nsqlookupd:4161"];'
        " when not set, the rows are polled.",
    )
    concurrency: int = Field(
        4,
        ge=1,
        le=100,
        description="Pictures in flight; more than face_recog has workers, so that none is idle.",
    )
    poll_seconds: Seconds = Field(0.1, description="Pause between two polls of the rows.")
    grace_seconds: float = Field(
        20.0, ge=0, description="How long pictures in flight may take after SIGTERM."
    )
