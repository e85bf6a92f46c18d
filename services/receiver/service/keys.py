"""Keys of programs: whose one is that is shown, and making, replacing and ending them."""

import asyncio
import hmac
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from services.common.errors import AwayError
from services.receiver.domain.access import Principal
from services.receiver.domain.acts import SubjectKind, acting
from services.receiver.domain.keys import (
    NO_TAG,
    ApiKey,
    WantedKey,
    new_secret_key,
    read_secret_key,
)
from services.receiver.ports import ApiKeys
from services.receiver.service.lookups import SharedLookup

_NOTED_SECONDS: Final = 60.0
"""Between two notes that a key is in use."""


class KeyCheck:
    """Tells whose key it is that somebody shows.

    Nothing is kept from one request to the next, so a key that was revoked before a request came
    is of no use to it, whichever replica revoked it.
    """

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._valid = SharedLookup(keys.valid)
        self._next_note: dict[str, float] = {}  # only of keys that were valid
        self._notes: set[asyncio.Task[None]] = set()

    async def principal(self, text: str) -> Principal | None:
        """Return who has this key; None when it is no valid one.

        Raises ``DatabaseUnavailableError``.
        """
        shown = read_secret_key(text)
        if shown is None:
            return None
        valid = await self._valid.get(shown.id)
        # An id that is not there takes as long as a wrong secret.
        is_right = hmac.compare_digest(valid.tag if valid else NO_TAG, shown.tag)
        if valid is None or not is_right:
            return None
        self._note_use(shown.id)
        return valid.principal

    def _note_use(self, key_id: str) -> None:
        now = time.monotonic()
        if now < self._next_note.get(key_id, now):
            return
        self._next_note[key_id] = now + _NOTED_SECONDS
        note = asyncio.create_task(self._note(key_id))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _note(self, key_id: str) -> None:
        # People look at it for keys that nobody uses: no request fails for it, or waits.
        with suppress(AwayError):
            await self._keys.note_use(key_id)

    async def close(self) -> None:
        """Wait for the notes that are being written."""
        await asyncio.gather(*self._notes)


class Keyring:
    """All keys."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def all(self) -> Sequence[ApiKey]:
        """Return up to 1,000: first those that are not revoked, each part newest first."""
        return await self._keys.all()

    async def make(self, wanted: WantedKey, *, by: str) -> tuple[ApiKey, str]:
        """Make a key; return it and its text, which is kept nowhere.

        Raises ``ConflictError`` while another one of its name is valid.
        """
        secret = new_secret_key()
        if act := acting.get():
            act.about(SubjectKind.KEY, secret.id)
        return await self._keys.add(secret, wanted, by=by), secret.text

    async def rotate(self, key_id: str, *, by: str) -> tuple[ApiKey, str]:
        """Make another key with the name and scopes of one, and valid for as long from now on.

        Both are valid until one is revoked, so that its users can change over. Raises
        ``NotFoundError`` without a valid one, and ``ConflictError`` when there are two already.
        """
        secret = new_secret_key()
        return await self._keys.add_like(secret, key_id, by=by), secret.text

    async def revoke(self, key_id: str) -> None:
        """End a key: no request that begins from here on is served for it.

        Raises ``NotFoundError`` when there is none, or it was revoked already.
        """
        await self._keys.revoke(key_id)
