"""Who may do what: scopes, the roles that people have, and who acts."""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class AccessScope(StrEnum):
    """What somebody may do; each route needs one."""

    SUBMIT = "submit"
    """Hand in pictures, and have them looked at again."""
    READ = "read"
    """See, look for and export what is stored."""
    NAME = "name"
    """Say who is who, and correct or remove what the machine or somebody else said."""
    ADMINISTER = "administer"
    """Forget people for good, hand out access, see who did what, and run the installation."""


ALL_SCOPES: Final = frozenset(AccessScope)


class Role(StrEnum):
    """What a person who logs in is; see :data:`SCOPES`."""

    VIEWER = "viewer"
    EDITOR = "editor"
    ADMINISTRATOR = "administrator"


SCOPES: Final = MappingProxyType(
    {
        Role.VIEWER: frozenset({AccessScope.READ}),
        Role.EDITOR: frozenset({AccessScope.READ, AccessScope.SUBMIT, AccessScope.NAME}),
        Role.ADMINISTRATOR: ALL_SCOPES,
    }
)


class ActorKind(StrEnum):
    """How somebody showed who they are."""

    ANYBODY = "anybody"
    """Not at all: the installation is open."""
    COMMAND = "command"
    """By running a command beside the receiver."""
    KEY = "key"
    USER = "user"
    FRONTEND = "frontend"
    """The frontend itself, for nobody who is logged in."""
    UNKNOWN = "unknown"
    """Not at all, or in vain: of these only the audit speaks."""


class Caller(StrEnum):
    """Whom a route is for that needs no scope."""

    KNOWN = "known"
    """Whoever shows who they are."""
    FRONTEND = "frontend"
    """The frontend alone, for nobody who is logged in."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts. ``id`` is a key's or a user's; ``session`` the id of the session, of a user."""

    kind: ActorKind
    name: str
    scopes: frozenset[AccessScope]
    id: str | None = None
    session: str | None = None
    role: Role | None = None


ANYBODY: Final = Principal(ActorKind.ANYBODY, "anybody", ALL_SCOPES)
ADMINISTRATOR_KEY: Final = Principal(ActorKind.KEY, "administrator key", ALL_SCOPES)
FRONTEND: Final = Principal(ActorKind.FRONTEND, "frontend", frozenset())
UNKNOWN: Final = Principal(ActorKind.UNKNOWN, "", frozenset())


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows: its key, and what the frontend says beside its own.

    ``by_hand``: not what an open page asks for by itself.
    """

    key: str
    session: str | None = None
    by_hand: bool = True
