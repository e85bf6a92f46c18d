"""What is done at somebody's request, as the audit records it."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from services.receiver.domain.access import UNKNOWN, ActorKind, Principal
from services.receiver.domain.submissions import Submission


class SubjectKind(StrEnum):
    """What an act is about."""

    IMAGE = "image"
    PERSON = "person"
    GROUP = "group"
    QUESTION = "question"
    DELIVERY = "delivery"
    KEY = "key"
    USER = "user"


SUBJECTS: Final[Mapping[str, SubjectKind]] = MappingProxyType(
    {f"{kind}_id": kind for kind in SubjectKind}
)
"""By the parameter of an address that holds its id."""

_SUBJECT_LENGTH: Final = 20
"""Characters of an id: longer ones in an address are nobody's."""


class Record(NamedTuple):
    """A row of the audit, without its id and time.

    ``status`` is the HTTP status of the answer, None for what was done. ``times``: how many alike
    it stands for, of what was done how many pictures.
    """

    kind: ActorKind
    who: str
    actor_id: str | None
    address: str
    action: str
    subject_kind: SubjectKind | None
    subject_id: str | None
    status: int | None
    times: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row of the audit; ``at`` is in milliseconds since the epoch."""

    id: int
    at: int
    kind: str
    who: str
    actor_id: str | None
    address: str
    action: str
    subject_kind: str | None
    subject_id: str | None
    status: int | None
    times: int


@dataclass(slots=True)
class Act:
    """What a request does: ``action`` is the operation's id in the OpenAPI document.

    ``address`` is where it comes from. ``audited``: it is recorded when it is done, too, and not
    only when whoever wants it may not. ``recorded``: a row that says so is committed.
    """

    action: str
    address: str
    audited: bool
    principal: Principal = UNKNOWN
    subject: tuple[SubjectKind, str] | None = None
    pictures: int = 1
    recorded: bool = False

    def about(self, kind: SubjectKind, subject_id: object) -> None:
        """Say what it is about, unless that is known."""
        shown = str(subject_id)
        if self.subject is None and len(shown) <= _SUBJECT_LENGTH:
            self.subject = kind, shown

    def about_pictures(self, image_ids: Sequence[int]) -> None:
        """Say which images it is about: of several, how many they are."""
        self.pictures = len(image_ids)
        self.subject = (SubjectKind.IMAGE, str(image_ids[0])) if self.pictures == 1 else None

    def about_new_person(self, person_id: int) -> None:
        """Say that it is about somebody of whom there was no row before, if about a person."""
        if self.subject is None or self.subject[0] is SubjectKind.PERSON:
            self.subject = SubjectKind.PERSON, str(person_id)

    def done(self) -> Record:
        """Return the row of what was done."""
        return self._record(None, self.pictures)

    def refused(self, status: int) -> Record:
        """Return the row of what was not, or not wholly, with the status of the answer."""
        return self._record(status, 1)

    def _record(self, status: int | None, times: int) -> Record:
        by = self.principal
        kind, subject_id = self.subject or (None, None)
        return Record(
            by.kind, by.name, by.id, self.address, self.action, kind, subject_id, status, times
        )


ActOnPaths = tuple[Act, Sequence[Submission]]
"""What a request does, and what it submits."""

acting: Final[ContextVar[Act | None]] = ContextVar("acting", default=None)
"""The act of the request that is being served, if it is audited."""
