"""Settings of the image processor."""

from typing import Final, Self

from pydantic import Field, model_validator

from services.common.cgroups import memory_limit
from services.common.settings import (
    CHANNEL,
    NSQ_NAME,
    ClaimSettings,
    DatabaseSettings,
    NsqSettings,
    ObjectStoreSettings,
    Port,
    RecogniserClientSettings,
    Seconds,
    Settings,
)
from services.image_processor.domain import MAX_LONG, Backoff, BreakerLimits

PROCESS_BYTES: Final = 110 * 1024**2
PICTURE_BYTES: Final = 120 * 1024**2
"""What one of 20 MiB takes on its way to face_recog, as itself, as its message and in gRPC's
buffers: up to 75 MiB, and 105 on a busy machine, where the next is read before these are free."""


class ImageProcessorSettings(
    Settings,
    DatabaseSettings,
    ObjectStoreSettings,
    RecogniserClientSettings,
    NsqSettings,
    ClaimSettings,
):
    """What the environment says."""

    probe_port: Port = Field(9101, description="Port of probes and metrics.")
    face_recog_timeout_seconds: float = Field(
        600.0,
        gt=0,
        lt=900,
        description="Deadline of one picture. Waiting in face_recog's queue counts, so it is far"
        " beyond any work; a dead connection is noticed within 25 s, and NSQ holds a message for"
        " 15 minutes at most. More than LONG_SECONDS of face_recog: raise it with that.",
    )
    nsqlookupd_urls: tuple[str, ...] | None = Field(
        None,
        description='nsqlookupd instances as JSON, ["http://nsqlookupd:4161"];'
        " when not set, the rows are polled.",
    )
    nsq_channel: str = Field(
        CHANNEL,
        pattern=NSQ_NAME,
        description="Channel of the topic, one for all image_processors: another one where names"
        " on a shared NSQ follow a rule.",
    )
    concurrency: int = Field(
        4,
        ge=1,
        le=100,
        description="Pictures in flight; more than face_recog has workers, so that none is idle."
        f" Beside them, as many of stored faces and up to {MAX_LONG} that need long may be on their"
        f" way: one more takes {2 * PICTURE_BYTES >> 20} MiB of the memory limit.",
    )
    poll_seconds: Seconds = Field(
        0.1,
        description="Pause between two polls of the rows, without NSQ: more to leave a small"
        " machine alone, less to begin sooner.",
    )
    grace_seconds: float = Field(
        20.0,
        ge=0,
        description="How long pictures in flight may take after SIGTERM; the rest is given back,"
        " and costs no attempt. With DRAIN_SECONDS it must fit into what Kubernetes waits.",
    )
    first_backoff_seconds: Seconds = Field(
        Backoff.first_ms / 1000,
        description="Pause after an image's first failed attempt; each further one is twice as"
        " long, and all a fifth more or less. Less where faults pass in a moment.",
    )
    max_backoff_seconds: Seconds = Field(
        Backoff.longest_ms / 1000,
        description="Longest pause between attempts: more where faults last for minutes, so that"
        " attempts are not used up meanwhile.",
    )
    breaker_faults: int = Field(
        BreakerLimits.faults,
        ge=1,
        description="After so many calls in a row that face_recog did not answer, nothing is sent"
        " and no attempt is used up: more where single calls fail often, less to notice sooner.",
    )
    first_cool_down_seconds: Seconds = Field(
        BreakerLimits.first_cool_down,
        description="Pause before face_recog is asked whether it is back; doubled each time."
        " Less where it restarts in a moment.",
    )
    max_cool_down_seconds: Seconds = Field(
        BreakerLimits.longest_cool_down,
        description="Longest such pause, and so the longest time that its return is not noticed.",
    )

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.lease_seconds < 3 * self.database_timeout_seconds:
            raise ValueError(
                f"LEASE_SECONDS {self.lease_seconds:g} is less than three times"
                f" DATABASE_TIMEOUT_SECONDS {self.database_timeout_seconds:g}, so one renewal that"
                " gets no answer would lose the claim: raise LEASE_SECONDS, of redeemer too, or"
                " lower DATABASE_TIMEOUT_SECONDS"
            )
        if self.max_backoff_seconds > self.lease_seconds:
            raise ValueError(
                f"MAX_BACKOFF_SECONDS {self.max_backoff_seconds:g} is longer than LEASE_SECONDS"
                f" {self.lease_seconds:g}, beyond which a due time counts as one of a clock that"
                " was set back: lower MAX_BACKOFF_SECONDS or raise LEASE_SECONDS, of redeemer too"
            )
        for first, longest in (
            ("first_backoff_seconds", "max_backoff_seconds"),
            ("first_cool_down_seconds", "max_cool_down_seconds"),
        ):
            if getattr(self, first) > getattr(self, longest):
                raise ValueError(
                    f"{first.upper()} {getattr(self, first):g} is longer than {longest.upper()}"
                    f" {getattr(self, longest):g}: lower the first or raise the other"
                )
        return self

    @model_validator(mode="after")
    def _check_memory(self) -> Self:
        # Those of stored faces are on their way, too, when new ones come.
        pictures = 2 * self.concurrency + MAX_LONG
        needed = PROCESS_BYTES + pictures * PICTURE_BYTES
        if needed > (limit := memory_limit()):
            raise ValueError(
                f"CONCURRENCY {self.concurrency}, as many pictures of stored faces and {MAX_LONG}"
                f" that need long may take {needed >> 20} MiB at 20 MiB each, and there are"
                f" {limit >> 20}: lower CONCURRENCY or raise the memory limit"
            )
        return self

    @property
    def backoff(self) -> Backoff:
        """The pauses between attempts."""
        return Backoff(
            first_ms=round(1000 * self.first_backoff_seconds),
            longest_ms=round(1000 * self.max_backoff_seconds),
        )

    @property
    def breaker_limits(self) -> BreakerLimits:
        """When the breaker opens, and for how long."""
        return BreakerLimits(
            self.breaker_faults, self.first_cool_down_seconds, self.max_cool_down_seconds
        )

    @property
    def renew_seconds(self) -> float:
        """How often leases are renewed: one may fail before a lease is over."""
        return self.lease_seconds / 3

    @property
    def message_timeout_seconds(self) -> float:
        """After so long without TOUCH nsqd gives a message to somebody else, before the lease."""
        return 2 * self.renew_seconds
