"""Metrics of the receiver."""

from prometheus_client import Counter, Gauge

SUBMISSIONS = Counter(
    "facestack_submissions_total", "Paths and uploads taken.", ["endpoint", "result"]
)
RINGS = Counter("facestack_rings_total", "Doorbell rings by what became of them.", ["result"])
LISTENERS = Gauge("facestack_listeners", "Clients that listen to /events now.")
for _result in ("sent", "failed", "dropped"):
    RINGS.labels(_result)  # a rate over a result that never happened is 0, not missing
for _endpoint in ("/image/post", "/images/post", "/images"):
    for _result in ("new", "duplicate"):
        SUBMISSIONS.labels(_endpoint, _result)
