"""What the face recogniser counts, besides the metrics that every process has."""

from prometheus_client import Counter, Gauge

POOL_QUEUE = Gauge("facestack_pool_queue_depth", "Pictures that wait for a worker.")
POOL_WORKERS = Gauge("facestack_pool_workers", "Worker processes that can take a picture.")
POOL_LONG = Counter(
    "facestack_pool_long_pictures_total", "Pictures that needed more than one step."
)
POOL_RESTARTS = Counter(
    "facestack_pool_restarts_total", "Worker processes that were replaced.", ["reason"]
)
GALLERY_PEOPLE = Gauge("facestack_gallery_people", "Known people.")
GALLERY_PICTURES = Gauge("facestack_gallery_pictures", "Known pictures that are compared with.")
GALLERY_SKIPPED = Gauge(
    "facestack_gallery_skipped_pictures", "Objects among the known people that cannot be used."
)
GALLERY_TROUBLE = Gauge(
    "facestack_gallery_trouble", "1 while the known people cannot be read and old ones are used."
)
FACES = Counter("facestack_faces_total", "Faces that were found.", ["result"])

# A rate over a label is never missing when the label exists from the start.
for _reason in ("crash", "timeout"):
    POOL_RESTARTS.labels(_reason)
for _result in ("known", "ambiguous", "unknown"):
    FACES.labels(_result)
