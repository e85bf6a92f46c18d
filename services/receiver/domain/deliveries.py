"""What endpoints of webhooks are told."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delivery:
    """What an endpoint of webhooks is to be told; times are milliseconds since the epoch.

    ``due_at`` is None when it is delivered or given up.
    """

    id: int
    message_id: str
    endpoint: str
    type: str
    subject_id: int
    status: str
    attempt: int
    error: str | None
    created_at: int
    updated_at: int
    due_at: int | None
