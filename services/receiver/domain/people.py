"""People, their known pictures, and which may become one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from services.common.faces import SeenFace
from services.common.object_keys import folder_of
from services.common.person_names import InvalidNameError, check_name, check_who
from services.common.picture_formats import format_of
from services.common.quality import Flaw
from services.receiver.domain.errors import Fault, InvalidError, NotFoundError
from services.receiver.domain.faces import FaceKey
from services.receiver.domain.merges import Merge
from services.receiver.domain.objects import digest, unique_name


@dataclass(frozen=True, slots=True)
class KnownPicture:
    """A known picture of a person; ``image_name`` is its key below ``known_people/``.

    ``face`` is the one that it was cut out of; None for a file of its own, and where nobody noted
    it. That image may be gone.
    """

    id: int
    person_id: int
    person: str
    image_name: str
    created_at: int
    face: FaceKey | None = None

    @property
    def folder(self) -> str:
        """Return where the person's known pictures lie, whatever their name is by now."""
        return folder_of(self.image_name)

    def is_cut_from(self, face: FaceKey, named: int | None) -> bool:
        """Tell whether it shows that face, given its content; ``named``: whom a hand said it is."""
        return self.face == face or (self.face is None and self.person_id == named)


@dataclass(frozen=True, slots=True)
class Somebody:
    """Who is meant; ``id`` is None where no row says so yet.

    ``folder``: where their known pictures lie, or would lie. ``has_name_alone``: faces are theirs
    that have only the name, as older services write it. ``another``: somebody new, whoever else is
    called so; ``beside`` pictures of one who has the name as a folder, and no row.
    """

    id: int | None
    name: str
    folder: str
    has_name_alone: bool = True
    another: bool = False
    beside: bool = False


class NewKnownPicture(NamedTuple):
    """A picture to become known; ``image_name`` is a key that nobody else ever writes."""

    person: Somebody
    image_name: str
    content_digest: str


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can be recognised; the id stays when the name changes.

    ``face`` stands for them: the one that somebody chose, else any; None without a face of theirs.
    ``merges`` can be taken back; where several people are told of, they are left out.
    """

    id: int
    name: str
    hidden: bool
    face: FaceKey | None
    pictures: tuple[KnownPicture, ...]
    merges: tuple[Merge, ...] = ()


def nobody(who: str) -> NotFoundError:
    """Return the error of somebody who is not there."""
    return NotFoundError(f"there is nobody called {who!r}")


def new_known_picture(person: Somebody, content: bytes) -> NewKnownPicture:
    """Return a known picture to be stored in a person's folder under a name that was never used.

    The recogniser has found a face, so the content has one of the formats that it reads.
    """
    content_digest = digest(content)
    found = format_of(content)
    if found is None:
        raise InvalidError("the content has no format that is known")
    return NewKnownPicture(
        person, f"{person.folder}/{unique_name(content_digest)}.{found.extension}", content_digest
    )


def check_person(name: str) -> str:
    """Return the name as it is kept; raises :class:`InvalidError`."""
    try:
        return check_name(name)
    except InvalidNameError as error:
        raise InvalidError(str(error)) from None


def check_who_is_meant(who: str) -> str:
    """Return a name or ``~id`` as it is kept, or raise :class:`InvalidError`."""
    try:
        return check_who(who)
    except InvalidNameError as error:
        raise InvalidError(str(error)) from None


_ADVICE: Final[Mapping[str, str]] = {
    Flaw.SMALL: "choose a picture that shows it larger",
    Flaw.BLURRED: "choose a sharper picture",
    Flaw.TURNED: "choose a picture from the front",
    Flaw.DARK: "choose one with more light",
    Flaw.OVEREXPOSED: "choose one with less light",
    Flaw.PALE: "choose one with more contrast",
}


def check_fit(person: str, face: SeenFace, taken_for: str | None) -> None:
    """Raise :class:`InvalidError` when a face had better not become a known one of a person.

    ``taken_for`` is somebody else whose name it would get. Somebody may insist on it.
    """
    doubts = []
    if face.quality and (flaw := face.quality.flaw):
        advice = _ADVICE.get(flaw, "choose another picture")
        doubts.append(f"the face is {flaw}: {advice}")
    if face.like_person is False:
        doubts.append(f"the face does not look like the other pictures of {person!r}")
    if taken_for:
        doubts.append(f"the face looks like {taken_for!r}, who is known: check the name")
    if doubts:
        raise InvalidError("; ".join(doubts), [Fault(INSIST, "enrols it nevertheless, if true")])


INSIST: Final = "/query/insist"
"""The pointer of a fault that the parameter ``insist`` overrules."""
