"""What the pages of unknown faces show: groups of them, and questions about two."""

from typing import Final

from services.common.person_names import by_id
from services.frontend.domain.documents import ReceiverDocument
from services.frontend.domain.faces import FaceKey
from services.frontend.domain.words import counted

GROUPS_ON_A_PAGE: Final = 12
"""Each with its faces: some hundred small pictures."""

FACES_ON_A_PAGE: Final = 48
"""Fills whole rows of 2, 3, 4, 6 and 8."""

QUESTIONS: Final = 3
"""Shown at a time; behind one that is answered the next appears."""


class Group(ReceiverDocument):
    """Unknown faces that are one person's, as it seems, some of them; and where the others begin.

    ``size`` is how many there are in all.
    """

    id: int
    size: int
    faces: tuple[FaceKey, ...]
    next_cursor: str | None = None

    @property
    def title(self) -> str:
        """Return what there is to name."""
        return counted(self.size, "face")


class GroupPage(ReceiverDocument):
    """Some groups, largest first, and the cursor of those behind them."""

    groups: tuple[Group, ...]
    next_cursor: str | None


class Somebody(ReceiverDocument):
    """A person who may be the one."""

    id: int
    name: str
    face: FaceKey | None = None

    @property
    def who(self) -> str:
        """Return what names this person and nobody else."""
        return by_id(self.id)


class Question(ReceiverDocument):
    """Whether a group, and another one or a person, are the same; one of these two is there."""

    id: int
    group: Group
    other: Group | None = None
    person: Somebody | None = None


class Questions(ReceiverDocument):
    """Those that are open, likeliest first."""

    questions: tuple[Question, ...]


class Named(ReceiverDocument):
    """What became of a group: so many faces are this person's now."""

    person: str
    faces: int

    @property
    def text(self) -> str:
        """Return that as a sentence."""
        return (
            f"{counted(self.faces, 'face')} {'is' if self.faces == 1 else 'are'} {self.person} now."
        )
