"""Who is logged in, and what administrators see of access."""

from datetime import datetime
from typing import Final

from services.frontend.domain.documents import ReceiverDocument


class Account(ReceiverDocument):
    """Who is logged in, and which scopes they have."""

    name: str
    role: str | None
    scopes: frozenset[str]


class OpenedSession(ReceiverDocument):
    """What a log-in gives: ``token`` is the proof that the browser keeps."""

    token: str
    name: str
    role: str


SCOPES: Final = {
    "read": "see and look for what is stored",
    "submit": "hand pictures in",
    "name": "say who is who, and delete pictures",
    "administer": "forget people, and give access",
}
"""What a key may do, for people."""

ROLES: Final = {
    "viewer": "Viewer: sees everything",
    "editor": "Editor: also uploads, names and deletes",
    "administrator": "Administrator: also forgets people, and gives access",
}
"""What a user is, for people."""


class ApiKey(ReceiverDocument):
    """A program's key, without its secret."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class KeyList(ReceiverDocument):
    """Keys: first those that are not revoked."""

    keys: tuple[ApiKey, ...]


class MadeKey(ReceiverDocument):
    """A key that has just been made; ``key`` is shown this once."""

    name: str
    key: str


class User(ReceiverDocument):
    """Somebody who may log in; ``issuer`` is the provider of who has no password here."""

    id: int
    name: str
    role: str
    issuer: str | None
    disabled: bool


class UserPage(ReceiverDocument):
    """Users, oldest first."""

    users: tuple[User, ...]
    next_cursor: str | None


class Act(ReceiverDocument):
    """Who did what; ``status`` is that with which it was refused, None for what was done."""

    at: datetime
    kind: str
    who: str
    address: str
    action: str
    subject_kind: str | None
    subject_id: str | None
    status: int | None
    times: int

    @property
    def what(self) -> str:
        """Return the action in words."""
        times = f" ({self.times} times)" if self.times > 1 else ""
        return f"{self.action.replace('_', ' ').capitalize()}{times}"

    @property
    def link(self) -> str | None:
        """Return the address of the page of what it is about, if there is one."""
        pages = {"image": "/images/", "person": "/people/~", "group": "/who/"}
        page = pages.get(self.subject_kind or "")
        return f"{page}{self.subject_id}" if page and self.subject_id else None


class AuditPage(ReceiverDocument):
    """Who did what, newest first."""

    acts: tuple[Act, ...]
    next_cursor: str | None
