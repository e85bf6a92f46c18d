"""Metrics of the image processor."""

from prometheus_client import Counter, Gauge

ATTEMPTS = Counter("facestack_attempts_total", "Attempts by how they ended.", ["outcome"])
for _outcome in ("processed", "rejected", "failed", "dead", "released", "superseded"):
    ATTEMPTS.labels(_outcome)  # a rate over an outcome that never happened is 0, not missing

BREAKER_STATE = Gauge(
    "facestack_breaker_state",
    "Circuit breaker around face_recog: 0 closed, 1 half-open, 2 open.",
)
FACES_ENCODED = Counter(
    "facestack_faces_encoded_total",
    "Stored faces that were given an encoding of the engine in use.",
)
ENCODING_SKIPPED = Counter(
    "facestack_encoding_skipped_total",
    "Images whose stored faces could not be given one.",
    ["reason"],
)
for _reason in ("gone", "replaced", "unreadable", "failed", "changed"):
    ENCODING_SKIPPED.labels(_reason)
ENCODING_LEFT = Gauge(
    "facestack_encoding_images_left", "Images with a stored face that is to be given one."
)
IN_FLIGHT = Gauge("facestack_images_in_flight", "Images claimed by this process now.")
