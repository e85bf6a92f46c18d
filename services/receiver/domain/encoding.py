"""How far stored faces are with encodings of the engine in use."""

from dataclasses import dataclass
from enum import StrEnum


class EncodingState(StrEnum):
    """Whether stored faces are being given encodings."""

    RUNNING = "running"
    STOPPED = "stopped"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class EncodingReport:
    """How far stored faces are with encodings of the engine in use.

    ``engine`` is None until face_recog has said it, ``images_left`` while they are counted;
    ``images_skipped`` and ``faces_encoded`` are of this pass through all images, or the last.
    """

    state: EncodingState
    engine: str | None
    images_left: int | None
    images_skipped: int
    faces_encoded: int
