"""Metrics of the webhooks."""

from typing import Final

from prometheus_client import Counter

ATTEMPTS: Final = Counter(
    "facestack_webhook_attempts_total", "Attempts to deliver by how they ended.", ["result"]
)
for _result in ("delivered", "retried", "failed"):
    ATTEMPTS.labels(_result)
