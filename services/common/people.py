"""The names by which services still import what is in the modules below."""

from services.common.face_rows import box_in, machine_says, measured_in
from services.common.person_rows import (
    BEING_FORGOTTEN,
    BY_HAND,
    FOLDER,
    LEFT_ITS_ID,
    SHOWN_ID,
    UNKNOWN,
    WHOSE,
    WHOSE_ID,
    bearer,
    find_likely,
    lies_in,
    take_turns,
    whose_pictures,
)

__all__ = [
    "BEING_FORGOTTEN",
    "BY_HAND",
    "FOLDER",
    "LEFT_ITS_ID",
    "SHOWN_ID",
    "UNKNOWN",
    "WHOSE",
    "WHOSE_ID",
    "bearer",
    "box_in",
    "find_likely",
    "lies_in",
    "machine_says",
    "measured_in",
    "take_turns",
    "whose_pictures",
]
