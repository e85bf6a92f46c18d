"""What the page of search shows: faces of a picture, and stored ones that are near."""

from typing import Final

from services.common.faces import Box
from services.common.person_names import by_id
from services.frontend.domain.documents import ReceiverDocument

_WORDS: Final = (
    (1.0, "Surely the same person"),
    (100.0, "Very likely the same person"),
    (10_000.0, "Perhaps the same person"),
)
"""By how many pairs of strangers in a million are as near, at most; docs/recognition.md tells."""

_ELSE: Final = "Looks similar"


class PictureFace(ReceiverDocument):
    """A face of the picture that was uploaded."""

    index: int
    box: Box


class FoundFace(ReceiverDocument):
    """A stored face; ``strangers`` is how many of a million pairs of strangers are as near."""

    image_id: int
    face_index: int
    person: str | None
    person_id: int | None
    distance: float
    strangers: float

    @property
    def who(self) -> str | None:
        """Return what the receiver knows the person by; None of somebody unknown."""
        return self.person if self.person_id is None else by_id(self.person_id)

    @property
    def sure(self) -> str:
        """Say how sure it is that this is the person who was looked for."""
        return next((words for most, words in _WORDS if self.strangers <= most), _ELSE)

    @property
    def is_likely(self) -> bool:
        """Tell whether it may be the same person; others are shown apart."""
        return self.sure != _ELSE


class SearchResult(ReceiverDocument):
    """What was found, nearest first; ``faces`` and the ``searched`` one are an upload's."""

    faces: tuple[PictureFace, ...]
    searched: int | None
    found: tuple[FoundFace, ...]

    @property
    def likely(self) -> list[FoundFace]:
        """Return those that may be the same person."""
        return [face for face in self.found if face.is_likely]

    @property
    def similar(self) -> list[FoundFace]:
        """Return the others."""
        return [face for face in self.found if not face.is_likely]
