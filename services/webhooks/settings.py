"""Settings of the webhooks."""

from pathlib import Path
from typing import Final, Self

from pydantic import Field, model_validator

from services.common.settings import DatabaseSettings, Port, Seconds, Settings
from services.webhooks.domain import LEASE_MS, RETRIED_MS

_DAY_MS: Final = 24 * 3_600_000


class WebhooksSettings(Settings, DatabaseSettings):
    """What the environment says."""

    probe_port: Port = Field(9105, description="Port of probes and metrics.")
    webhooks_file: Path | None = Field(
        None,
        description="JSON file with the endpoints; without it, and while it is not there, nobody"
        " is told anything.",
    )
    endpoint_concurrency: int = Field(
        4,
        ge=1,
        le=100,
        description="Requests to one endpoint at a time: one where it can take no more, more where"
        " its answers are slow and deliveries pile up.",
    )
    endpoint_timeout_seconds: Seconds = Field(
        15.0,
        description="How long an endpoint may take for its whole answer: more where one works"
        " before it answers.",
    )
    kept_days: float = Field(
        7.0,
        gt=0,
        description="How long a delivery is kept, however it ended, and its address may be asked"
        " for: fewer days for less of what was said of people, more to look into later.",
    )

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        # An attempt reads its data before, and stores its end after the request.
        needed = self.endpoint_timeout_seconds + 2 * self.database_timeout_seconds
        if 1000 * needed > LEASE_MS:
            raise ValueError(
                f"ENDPOINT_TIMEOUT_SECONDS {self.endpoint_timeout_seconds:g} and twice"
                f" DATABASE_TIMEOUT_SECONDS {self.database_timeout_seconds:g} are longer than the"
                f" {LEASE_MS // 1000} s after which another replica tries the same again: lower one"
            )
        if self.kept_days * _DAY_MS < RETRIED_MS:
            raise ValueError(
                f"KEPT_DAYS {self.kept_days:g} is less than the {RETRIED_MS / _DAY_MS:.1f} days"
                " that all tries of a delivery take: raise KEPT_DAYS"
            )
        return self

    @property
    def kept_ms(self) -> int:
        """How long a delivery is kept."""
        return round(self.kept_days * _DAY_MS)
