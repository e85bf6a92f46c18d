"""Metrics of the image processor."""

from prometheus_client import Counter, Gauge

ATTEMPTS = Counter("facestack_attempts_total", "Attempts by how they ended.", ["outcome"])
for _outcome in ("processed", "rejected", "failed", "dead", "released", "superseded"):
    ATTEMPTS.labels(_outcome)  # a rate over an outcome that never happened is 0, not missing

BREAKER_STATE = Gauge(
    "facestack_breaker_state",
    "Circuit breaker around face_recog: 0 closed, 1 half-open, 2 open.",
)
IN_FLIGHT = Gauge("facestack_images_in_flight", "Images claimed by this process now.")
