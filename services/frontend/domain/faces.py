"""Faces, who they may be, and the words for both."""

import re
from dataclasses import dataclass
from typing import Literal

from services.common.faces import CLOSE, Box, DecidedBy, MeasuredFace
from services.common.person_names import by_id
from services.frontend.domain.documents import ReceiverDocument
from services.frontend.domain.words import closeness

FaceKind = Literal["known", "ambiguous", "unknown"]


@dataclass(frozen=True)
class PersonRef:
    """A person's name, and what the receiver knows them by, which no two have."""

    who: str
    name: str


class Candidate(ReceiverDocument):
    """A known picture near a face; a smaller distance is more alike."""

    person: str
    person_id: int | None = None  # an older receiver says none
    image_name: str
    distance: float

    @property
    def who(self) -> str:
        """Return what the receiver knows the person by."""
        return self.person if self.person_id is None else by_id(self.person_id)

    @property
    def closeness(self) -> str:
        """Return the distance in words."""
        return closeness(self.distance)


@dataclass(frozen=True, kw_only=True)
class Face(MeasuredFace):
    """One face of a picture."""

    index: int
    ambiguous: bool
    person: str | None
    person_id: int | None = None
    distance: float | None
    decided_by: str | None = None  # an older receiver does not say it
    candidates: tuple[Candidate, ...]
    drawn: bool = False
    denials: tuple[str, ...] | None = None  # an older receiver takes none
    denial_ids: tuple[int, ...] | None = None  # an older receiver finds nobody by id

    @property
    def who(self) -> str | None:
        """Return what the receiver knows the person by; None without a name."""
        if self.person is None or self.person_id is None or self.denial_ids is None:
            return self.person
        return by_id(self.person_id)

    @property
    def is_by_hand(self) -> bool:
        """Tell whether a person has said who it is."""
        return self.decided_by == DecidedBy.HAND

    @property
    def deniable(self) -> PersonRef | None:
        """Return whom the machine says or asks that it is; a person may say that it is not."""
        if self.denials is None or self.is_by_hand or self.kind == "unknown":
            return None
        if self.person is not None and self.who is not None:
            return PersonRef(self.who, self.person)
        return PersonRef(self.candidates[0].who, self.candidates[0].person)

    @property
    def denied(self) -> tuple[PersonRef, ...]:
        """Return whom a person has said that it is not."""
        names = self.denials or ()
        if self.denial_ids is None:
            return tuple(PersonRef(name, name) for name in names)
        return tuple(
            PersonRef(by_id(person_id), name)
            for person_id, name in zip(self.denial_ids, names, strict=True)
        )

    @property
    def kind(self) -> FaceKind:
        """Tell how sure the name is; ambiguous, it is none but a question."""
        if self.ambiguous and (self.person or self.candidates):
            return "ambiguous"
        return "known" if self.person else "unknown"

    @property
    def label(self) -> str:
        """Return the name as a box shows it; the question mark says that it is none yet."""
        if self.kind == "ambiguous":
            return f"{self.person or self.candidates[0].person}?"
        return self.person or "Unknown"

    @property
    def origin(self) -> str:
        """Say in a few words where the name comes from."""
        if self.distance is None:
            return "Named by hand"
        return f"Match: {closeness(self.distance)}"

    @property
    def explanation(self) -> str:
        """Say in words how the name came about."""
        others = [other for other in self.candidates if other.person != self.person]
        if self.kind == "unknown":
            return "Nobody known looks like this face."
        if self.person is None:
            return "It may be somebody known, but others look as much alike: please say who it is."
        if self.distance is None:
            return "Named by hand."
        if not self.ambiguous:
            return f"The match is {closeness(self.distance)}."
        if self.distance <= CLOSE and others:
            return (
                f"The match is {closeness(self.distance)},"
                f" but {others[0].person} is nearly as close."
            )
        return "The match is uncertain: the faces are alike, but not much."


class StruckOut(ReceiverDocument):
    """A place of which a person has said that no face is there."""

    index: int
    box: Box


class FaceKey(ReceiverDocument):
    """A face of a picture."""

    image_id: int
    face_index: int

    @property
    def text(self) -> str:
        """Return it as a form names it."""
        return f"{self.image_id}-{self.face_index}"

    @property
    def thumbnail(self) -> str:
        """Return the address of the face cut out."""
        return f"/images/{self.image_id}/faces/{self.face_index}/thumbnail"


def face_key(text: str) -> FaceKey | None:
    """Return the face that a form names; None when it is no such text."""
    found = re.fullmatch("([0-9]{1,18})-([0-9]{1,5})", text)
    return FaceKey(image_id=int(found[1]), face_index=int(found[2])) if found else None
