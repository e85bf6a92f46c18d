"""What is told to endpoints of webhooks, as the rows hold it."""

from enum import StrEnum


class WebhookType(StrEnum):
    """What an endpoint may be told of."""

    IMAGE_PROCESSED = "image.processed"
    IMAGE_REJECTED = "image.rejected"
    IMAGE_DEAD = "image.dead"
    PERSON_CHANGED = "person.changed"
    """Also when they are gone."""


class DeliveryStatus(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    """It is tried, again and again, at ``due_at``."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """Its attempts are used up; a person may have it tried again."""
