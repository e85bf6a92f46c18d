"""People with a name, their known pictures, and whom a page has to choose from."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from services.common.person_names import by_id
from services.frontend.domain.documents import ReceiverDocument
from services.frontend.domain.faces import Face, FaceKey
from services.frontend.domain.pictures import SubmittedPicture
from services.frontend.domain.words import counted, fingerprint

PEOPLE_ON_A_PAGE: Final = 24
"""A screen or two."""

SUGGESTED: Final = 100
"""Names that a page has to choose from; of more people they follow what is typed."""


class KnownPicture(ReceiverDocument):
    """One picture that a person is recognised by."""

    id: int
    image_name: str
    created_at: datetime

    @property
    def content_version(self) -> str:
        """Return a text that changes when the picture behind the same id has changed."""
        return fingerprint(self.image_name)


class Merge(ReceiverDocument):
    """Somebody who was said to be the same person, for whoever takes that back."""

    id: int
    name: str
    created_at: datetime


class Person(ReceiverDocument):
    """Somebody with a name and known pictures; ``face`` stands for them."""

    id: int | None = None
    """An older receiver says none, and cannot give another name."""

    name: str
    hidden: bool | None = None
    """An older receiver says nothing of it, and finds nobody by id."""

    face: FaceKey | None = None
    pictures: tuple[KnownPicture, ...]
    merges: tuple[Merge, ...] = ()

    @property
    def who(self) -> str:
        """Return what the receiver knows them by: others may bear the name, too."""
        return self.name if self.id is None or self.hidden is None else by_id(self.id)

    @property
    def key(self) -> str:
        """Return what tells them from all others on a page."""
        return fingerprint(self.who)

    @property
    def count(self) -> str:
        """Say how many known pictures there are."""
        return counted(len(self.pictures), "known picture")

    @property
    def portrait(self) -> str | None:
        """Return the address of a picture that stands for them; None without any."""
        if self.face is not None:
            return self.face.thumbnail
        return self.address_of(self.pictures[0]) if self.pictures else None

    def address_of(self, picture: KnownPicture) -> str:
        """Return the address of a known picture for a card."""
        address = f"/people/{quote(self.who, safe='')}/pictures/{picture.id}/thumbnail"
        return f"{address}?v={picture.content_version}"

    def faces_in(self, picture: SubmittedPicture) -> tuple[Face, ...]:
        """Return which faces of a picture are theirs."""
        return tuple(
            face
            for face in picture.faces
            if (face.person == self.name if face.person_id is None else face.person_id == self.id)
        )


class Erased(ReceiverDocument):
    """How much of somebody is forgotten for good."""

    known_pictures: int
    faces: int
    pictures: int

    @property
    def summary(self) -> str:
        """Say it in words."""
        return (
            f"{counted(self.known_pictures, 'known picture')}, {counted(self.faces, 'face')} and"
            f" {counted(self.pictures, 'submitted picture')} are removed, and with them the name."
        )


class PeoplePage(ReceiverDocument):
    """Some people by name, and the cursor of those behind them; an older receiver has none."""

    people: tuple[Person, ...]
    next_cursor: str | None = None

    @property
    def shared(self) -> frozenset[str]:
        """Return the names that several of them bear."""
        counts = Counter(person.name for person in self.people)
        return frozenset(name for name, count in counts.items() if count > 1)


@dataclass(frozen=True)
class PersonChoice:
    """Somebody to choose; of people with one name the labels tell who is who."""

    who: str
    name: str
    label: str


@dataclass(frozen=True)
class PersonChoices:
    """People to choose from, and whether there are more."""

    people: tuple[PersonChoice, ...]
    more: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names to type, each once."""
        return tuple(dict.fromkeys(person.name for person in self.people))


def choices_of(page: PeoplePage) -> PersonChoices:
    """Return whom a page of people has to choose from."""
    shared = page.shared
    return PersonChoices(
        tuple(
            PersonChoice(
                person.who,
                person.name,
                f"{person.name} ({person.count}, {person.who})"
                if person.name in shared
                else person.name,
            )
            for person in page.people
        ),
        more=page.next_cursor is not None,
    )
