"""The names by which services still import what is in the modules below."""

from services.common.claims import (
    LATEST_DUE_MS,
    LEASE_MS,
    MAX_ATTEMPTS,
    NUDGE_MS,
    RING_AFTER_MS,
    STORING_MS,
    Rules,
)
from services.common.image_states import FINAL, RETRIABLE, Status
from services.common.object_keys import (
    CONTROL,
    KNOWN_PEOPLE,
    MAX_PART_BYTES,
    MAX_PATH_BYTES,
    MAX_PATH_LENGTH,
    PATH_PATTERN,
    PICTURES,
    UPLOADS,
    InvalidPathError,
    check_path,
    folder_of,
    forms_of,
)
from services.common.picture_formats import MAX_PICTURE_BYTES

__all__ = [
    "CONTROL",
    "FINAL",
    "KNOWN_PEOPLE",
    "LATEST_DUE_MS",
    "LEASE_MS",
    "MAX_ATTEMPTS",
    "MAX_PART_BYTES",
    "MAX_PATH_BYTES",
    "MAX_PATH_LENGTH",
    "MAX_PICTURE_BYTES",
    "NUDGE_MS",
    "PATH_PATTERN",
    "PICTURES",
    "RETRIABLE",
    "RING_AFTER_MS",
    "STORING_MS",
    "UPLOADS",
    "InvalidPathError",
    "Rules",
    "Status",
    "check_path",
    "folder_of",
    "forms_of",
]
