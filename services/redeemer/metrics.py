"""Metrics of the redeemer."""

from typing import Final

from prometheus_client import Counter, Gauge

from services.common.image_states import Status

IMAGES: Final = Gauge("facestack_images", "Rows per status.", ["status"])
for _status in Status:
    IMAGES.labels(_status.value)
OLDEST_PENDING: Final = Gauge(
    "facestack_oldest_pending_seconds", "Age of the oldest image that waits; 0 when none does."
)
QUEUE_DEPTH: Final = Gauge("facestack_queue_depth", "Rings that no processor has been given yet.")
REMOVED: Final = Counter("facestack_objects_removed_total", "Objects removed that no row names.")
ERASED: Final = Counter(
    "facestack_images_erased_total", "Images erased that were submitted longer ago than KEEP_DAYS."
)
OVERDUE: Final = Gauge(
    "facestack_erasing_overdue_seconds",
    "For how long the oldest image should have been erased that is still there; 0 when none is.",
)
WITHOUT_BACKUP: Final = Gauge(
    "facestack_without_backup_seconds",
    "Age of the last good backup, or of the first attempt at one; 0 when none was ever tried.",
)
REDEEMED: Final = Counter("facestack_redeemed_total", "Repairs.", ["reason"])
for _reason in ("pending", "failed", "lease", "dead"):
    REDEEMED.labels(_reason)
