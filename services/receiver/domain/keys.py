"""Keys of programs: what a program shows, and what is kept of it.

Kept is an HMAC of the key's public half, keyed with its secret half. A slow hash, as passwords need
one, defends what can be guessed: 32 random bytes cannot, and every request would pay for it.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from services.receiver.domain.access import AccessScope, Principal

MAX_KEY_NAME_LENGTH: Final = 100
KEY_ID_PATTERN: Final = "^[a-z2-7]{12}$"

# The last of 43 characters has only the 4 bits that are left of 32 bytes, so a key has one form.
_KEY: Final = re.compile("fsk_([a-z2-7]{12})_([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])")


def check_key_name(name: str) -> str:
    """Return the name of a key without space around it, or raise ``ValueError``."""
    name = name.strip()
    if not name or len(name) > MAX_KEY_NAME_LENGTH or not name.isprintable():
        raise ValueError(
            f"a key's name has 1 to {MAX_KEY_NAME_LENGTH} characters that can be seen, got {name!r}"
        )
    return name


class SecretKey(NamedTuple):
    """What a program shows: an id, which everybody may know, and a secret, of 32 random bytes."""

    id: str
    secret: bytes

    @property
    def text(self) -> str:
        """What is shown to people once, and sent by programs."""
        secret = base64.urlsafe_b64encode(self.secret).decode().rstrip("=")
        return f"fsk_{self.id}_{secret}"

    @property
    def tag(self) -> str:
        """What is kept: HMAC-SHA-256 of the id, in hexadecimal, keyed with the secret."""
        return hmac.digest(self.secret, self.id.encode(), hashlib.sha256).hex()


NO_TAG: Final = SecretKey("", secrets.token_bytes(32)).tag
"""Nobody's: what the tag of an id is compared with that is not there."""


def new_secret_key() -> SecretKey:
    """Return one that nobody has."""
    key_id = base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]
    return SecretKey(key_id, secrets.token_bytes(32))


def read_secret_key(text: str) -> SecretKey | None:
    """Return what has the form of a key; None for any other text."""
    found = _KEY.fullmatch(text)
    return SecretKey(found[1], base64.urlsafe_b64decode(found[2] + "=")) if found else None


class ValidKey(NamedTuple):
    """What is kept of a key that is valid, and who shows it."""

    tag: str
    principal: Principal


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, as people see it. Times are milliseconds since the Unix epoch."""

    id: str
    name: str
    scopes: frozenset[AccessScope]
    created_at: int
    created_by: str
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    """To a minute."""


class WantedKey(NamedTuple):
    """A key that is to be made; ``expires_at`` in milliseconds since the Unix epoch."""

    name: str
    scopes: frozenset[AccessScope]
    expires_at: int | None


def write_scopes(scopes: Iterable[AccessScope]) -> str:
    """Return scopes as a row has them."""
    return " ".join(sorted(scopes))


def read_scopes(text: str) -> frozenset[AccessScope]:
    """Return the scopes of a row; what a newer version may have put there is none."""
    return frozenset(AccessScope(scope) for scope in text.split() if scope in set(AccessScope))
