"""Metrics of the service of people."""

from typing import Final

from prometheus_client import Counter, Gauge

STORED_FACES: Final = Gauge("facestack_stored_faces", "Stored faces that are compared in memory.")
WAITING: Final = Gauge(
    "facestack_changed_people", "People who have changed and whose faces are not all decided again."
)
DECIDED: Final = Counter(
    "facestack_faces_decided_again_total", "Stored faces that were decided on again.", ["result"]
)
for _result in ("changed", "same"):
    DECIDED.labels(_result)
GROUPS: Final = Gauge(
    "facestack_face_groups", "Groups of unknown faces, at the replica that makes them."
)
UNKNOWN_FACES: Final = Gauge(
    "facestack_unknown_faces", "Unknown faces in these groups, at the replica that makes them."
)
QUESTIONS: Final = Gauge(
    "facestack_group_questions", "Questions about groups that wait for a person."
)
