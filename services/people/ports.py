"""What the use cases need of the world."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.common.errors import AwayError
from services.common.events import Event, Position
from services.common.faces import Likely, Says, Whose
from services.people.domain.deciding import Decision, RecordedFace, RecordedPicture, Work
from services.people.domain.grouping import LikelyPair
from services.people.domain.regrouping import AskedPair, FaceId, GroupingClaim, Regrouped


class RowsChangedError(AwayError):
    """The rows that were decided on are others by now: decide again."""

    service = "database"


class WorkRows(Protocol):
    """Changes of people, and faces to decide on; each call raises ``DatabaseUnavailableError``."""

    async def claim(self) -> Work | None:
        """Claim the change that has been due longest; None when none is."""

    async def waiting(self) -> int:
        """Return how many changes there are."""

    async def renew(self, work: Work) -> None:
        """Prolong the lease, or raise :class:`ClaimLostError`."""

    async def give_back(self, work: Work, due_in: int) -> None:
        """Let anybody take it up where it is, in so many ms; a lost claim stays lost."""

    async def end_pass(self, work: Work) -> None:
        """Have the next pass made later; after the last one the change is done."""

    async def disagreement(
        self, work: Work, pictures: Mapping[str, bool]
    ) -> tuple[Collection[str], Collection[str]]:
        """Return known pictures that a view lacks, and those in it that are to be removed."""

    async def rename(self, work: Work) -> bool:
        """Bring the name of some faces up to date; return whether there may be more."""

    async def touched(self, work: Work) -> set[int]:
        """Return images in which the person is named, or is not, or when removed asked about.

        Only those that are not done.
        """

    async def pictures(
        self, image_ids: Collection[int], engine: str, size: int = 0
    ) -> list[RecordedPicture]:
        """Return images with their faces, and the encodings by an engine, of so many bytes."""

    async def whose(self, candidates: Iterable[Likely]) -> Whose:
        """Return who each is."""

    async def write(
        self,
        work: Work,
        changes: Sequence[tuple[RecordedPicture, RecordedFace, Says]],
        through: int,
    ) -> None:
        """Write what faces are now, and that all images up to one are done.

        Faces that a hand has decided, or that are another result's by now, stay as they are.
        Raises :class:`ClaimLostError`, and :class:`RowsChangedError` when somebody named is gone.
        """


class FaceRows(Protocol):
    """Stored faces, and what tells of them; each call raises ``DatabaseUnavailableError``.

    Where ``images`` is a range, it is of all ids in it.
    """

    async def newest_engine(self) -> str | None:
        """Return the engine of the newest result; None when there is none."""

    async def last_image_id(self) -> int:
        """Return the highest id of an image; 0 when there is none."""

    async def encodings(
        self, images: range | Collection[int], engine: str
    ) -> list[tuple[int, int, bytes]]:
        """Return image, index and encoding of the faces of some images, as they are stored."""

    async def latest(self) -> Position:
        """Return the position before whatever is not committed yet."""

    async def lost(self, position: Position) -> bool:
        """Tell whether events after the position may be removed already."""

    async def after(self, position: Position) -> tuple[list[Event], Position]:
        """Return up to ``PAGE`` events after the position, and the new one; fewer are all."""

    async def adopt(self, images: range | Collection[int]) -> None:
        """Give faces with a name alone their person's id, of some images."""


class GroupingRows(Protocol):
    """Groups of unknown faces, and those faces; each call raises ``DatabaseUnavailableError``.

    A face is unknown that has no name, is not struck out, and has an encoding of the engine. Where
    ``images`` is a range, it is of all ids in it.
    """

    async def claim(self) -> GroupingClaim | None:
        """Claim the making of groups; None while somebody else has it."""

    async def renew(self, claim: GroupingClaim) -> None:
        """Prolong the lease, or raise :class:`ClaimLostError`."""

    async def give_back(self, claim: GroupingClaim) -> None:
        """Let anybody claim it; a lost claim stays lost."""

    async def begin(self, claim: GroupingClaim, engine: str) -> None:
        """Have groups made anew, of another engine's encodings, or raise ``ClaimLostError``.

        Those of before have no size any more; a face leaves them when it is placed. What a person
        has said is not in one of them is in no group with a face of it.
        """

    async def next_group(self) -> int:
        """Return an id over that of every group that there ever was."""

    async def grouped(self, images: range, engine: str) -> Sequence[tuple[FaceId, int, bytes]]:
        """Return the unknown faces that are in groups of this engine, and their encodings."""

    async def unknown(
        self, images: range | Collection[int], engine: str
    ) -> Mapping[FaceId, int | None]:
        """Return the unknown faces, and the group that each is in."""

    async def strays(self, images: range | Collection[int]) -> Collection[FaceId]:
        """Return the faces that are in a group though they have a name, or are struck out."""

    async def encodings(self, keys: Collection[FaceId], engine: str) -> Mapping[FaceId, bytes]:
        """Return the encodings of faces, of those that have one."""

    async def denied(
        self, images: Collection[int] | None = None
    ) -> Mapping[FaceId, Collection[int]]:
        """Return the groups that a person has said faces are not to be in.

        Of one that was merged, the group in which its faces are.
        """

    async def kept_out(self, groups: Collection[int]) -> Mapping[int, Collection[FaceId]]:
        """Return the faces of which a person has said that they are not to be in these groups."""

    async def miscounted(self) -> Collection[int]:
        """Return the groups of this engine that have another size than is written down."""

    async def write(self, claim: GroupingClaim, regrouped: Regrouped) -> None:
        """Write it, but for faces that are not unknown any more.

        What a person has said is not in a group is not in the one that its faces go to, either:
        when it is merged, or of another engine. Raises :class:`ClaimLostError`, and
        :class:`RowsChangedError` when a face would be where a person has just said it is not.
        """

    async def questions(self, answer: str | None = None) -> Sequence[AskedPair]:
        """Return the questions, or those with an answer, the oldest first.

        Each with the groups in which the faces of merged ones are.
        """

    async def denied_people(self) -> Collection[tuple[int, int]]:
        """Return groups, each with somebody who a face in it is not, as a person has said."""

    async def means(self, engine: str, size: int) -> Mapping[int, NDArray[np.float32]]:
        """Return the mean encoding, of so many numbers, of people who are not hidden."""

    async def ask(self, claim: GroupingClaim, suggestions: Sequence[LikelyPair]) -> None:
        """Have these be the open questions.

        Raises :class:`ClaimLostError`, and :class:`RowsChangedError` when somebody is gone.
        """


class PeopleView(Protocol):
    """The known people at one time; each call raises ``RecogniserError``.

    ``pictures`` says of those of one person whether they are known; else they are skipped. Of these
    are the ``mean``, None without any, and what products with it hardly any face is under.
    """

    engine: str
    calibration: int
    pictures: Mapping[str, bool]
    mean: NDArray[np.float32] | None
    least_product: float

    async def sift(self, encodings: Sequence[bytes]) -> Sequence[bool]:
        """Tell of each face whether it may be the person."""

    async def decide(
        self, pictures: Sequence[RecordedPicture], unknown: str | None
    ) -> Sequence[Sequence[Decision]]:
        """Say who the open faces of each picture are; see ``RecordedPicture.given``."""


OpenView: TypeAlias = Callable[[str], AbstractAsyncContextManager[PeopleView]]
"""Opens a view for the sake of a folder's person; raises ``RecogniserError``, also within."""
