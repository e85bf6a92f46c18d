"""People who log in, and on what they go on then."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from services.receiver.domain.access import ADMINISTRATOR_KEY, ANYBODY, FRONTEND, SCOPES, Role

ADMINISTRATOR: Final = "administrator"
"""The name with which the administrator's key is a password."""

KEY_ISSUER: Final = "administrator-key"
"""The issuer of who shows it."""

RESERVED_NAMES: Final = frozenset(
    {ADMINISTRATOR, *(one.name for one in (ADMINISTRATOR_KEY, ANYBODY, FRONTEND))}
)
"""What the audit calls others, so nobody whom a provider names is called so."""

MIN_PASSWORD_LENGTH: Final = 12
"""Characters (OWASP ASVS 4.0.3, 2.1.1), whichever they are (NIST SP 800-63B-3, 5.1.1.2)."""

MAX_PASSWORD_LENGTH: Final = 200
"""Both of these want 64 at least; without any bound a password could be made to cost much."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in; ``issuer`` is of those whom a provider vouches for."""

    id: int
    name: str
    role: Role
    issuer: str | None
    created_at: int
    disabled_at: int | None


@dataclass(frozen=True, slots=True)
class UserChange:
    """What is to be otherwise of a user; None stays."""

    role: Role | None = None
    password_hash: str | None = None
    disabled: bool | None = None


@dataclass(frozen=True, slots=True)
class StoredPassword:
    """By what a user is known who has a password."""

    user_id: int
    hash: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a provider vouches for: ``issuer`` and ``subject`` say who it is."""

    issuer: str
    subject: str
    name: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that has just begun; ``ends_at`` is when it does whatever happens."""

    name: str
    role: Role
    ends_at: int


@dataclass(frozen=True, slots=True)
class ValidSession:
    """On whose session somebody acts; ``is_stale``: its use was written down a while ago."""

    id: str
    user_id: int
    name: str
    role: Role
    is_stale: bool


def role_of(groups: Iterable[str], roles: Mapping[str, Role]) -> Role | None:
    """Return the role with the most scopes of those that the groups have; None without any."""
    found = [roles[group] for group in groups if group in roles]
    return max(found, key=lambda role: len(SCOPES[role]), default=None)
