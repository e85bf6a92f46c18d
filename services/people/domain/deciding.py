"""A change of a person, and what is decided on faces anew."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.common.faces import Likely, Says
from services.common.object_keys import folder_of

NEXT_PASS_MS: Final = 15_000
"""A picture whose faces were named by the people of before is stored within this time: face_recog
names them when it has found them all, and its answer is stored at once."""

AGAIN_MS: Final = 2_000
"""When a change is taken up again for which face_recog or the database was away."""

LATER_MS: Final = 5_000
"""When one is that face_recog and the database have not agreed on for a while."""

_SAME_DISTANCE: Final = 1e-4
"""An encoding is stored with fewer digits than it was first compared with, and a distance too."""


@dataclass(frozen=True)
class Work:
    """A change of a person that is ours until the lease ends.

    Known pictures lie in ``folder``. When some were ``removed``, whoever was asked about by them
    counts, too. Images up to ``after_image_id`` are done.
    """

    person_id: int
    folder: str
    removed: bool
    token: str
    after_image_id: int
    passes_left: int


@dataclass(frozen=True)
class Decision:
    """Who a face may be, likeliest first, and whether it is the first of them."""

    candidates: Sequence[Likely]
    named: bool


def differ(one: Says, other: Says) -> bool:
    """Tell whether two say something else; how alike the face is, alone, is nothing else.

    That a rule has decided at all is.
    """
    return (
        (one.person, one.person_id, one.ambiguous)
        != (other.person, other.person_id, other.ambiguous)
        or (one.calibration is None) != (other.calibration is None)
        or not _is_near(one.distance, other.distance)
        or len(one.candidates) != len(other.candidates)
        or any(
            (first["person"], first["image_name"]) != (second["person"], second["image_name"])
            or not _is_near(first["distance"], second["distance"])
            for first, second in zip(one.candidates, other.candidates, strict=True)
        )
    )


def _is_near(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, abs_tol=_SAME_DISTANCE)


@dataclass(frozen=True)
class RecordedFace:
    """A stored face.

    ``by_hand`` is final. ``encoding`` is None where it is another engine's, or there is none.
    ``folders`` are those of its person's known pictures, ``denied`` those of people who it is not.
    """

    index: int
    says: Says
    by_hand: bool
    encoding: bytes | None
    folders: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RecordedPicture:
    """A stored picture's faces, by the result of this time."""

    image_id: int
    processed_at: int | None
    faces: Sequence[RecordedFace]

    @property
    def open(self) -> Sequence[RecordedFace]:
        """Faces that can be decided on."""
        return [face for face in self.faces if not face.by_hand and face.encoding]

    def given(self, unknown: str | None) -> frozenset[str]:
        """Return the folders of people who are faces that cannot be decided on.

        That is but for who is ``unknown`` now: a machine's word for them is worth nothing.
        """
        held = (
            face.folders
            for face in self.faces
            if face.by_hand or (not face.encoding and unknown not in face.folders)
        )
        return frozenset().union(*held)


def without(face: RecordedFace, folder: str) -> Says:
    """Return what is left to say of a face that cannot be compared, when somebody is not known."""
    left = [
        candidate
        for candidate in face.says.candidates
        if folder_of(candidate["image_name"]) != folder
    ]
    named = face.says.person is not None and folder not in face.folders
    if named:
        return replace(face.says, candidates=left)
    return Says(None, None, None, bool(left), left, calibration=face.says.calibration)
