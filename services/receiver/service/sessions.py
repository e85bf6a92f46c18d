"""On whose session somebody acts."""

import asyncio
import hashlib
from contextlib import suppress

from services.common.errors import AwayError
from services.receiver.domain.access import SCOPES, ActorKind, Principal
from services.receiver.domain.errors import UnknownSessionError
from services.receiver.ports import SessionRows
from services.receiver.service.lookups import SharedLookup


def session_id(token: str) -> str:
    """Return by which id the session of a token is stored.

    A hash without salt is enough: nobody guesses 256 random bits.
    """
    return hashlib.sha256(token.encode()).hexdigest()


class Sessions:
    """Sessions as they are when they are asked for."""

    def __init__(self, rows: SessionRows) -> None:
        self._rows = rows
        self._valid = SharedLookup(rows.valid)
        self._notes: dict[str, asyncio.Task[None]] = {}

    async def principal(self, token: str, *, by_hand: bool) -> Principal:
        """Return who has logged in with the token's session.

        What is asked for ``by_hand`` counts as use. Raises :class:`UnknownSessionError` and
        ``DatabaseUnavailableError``.
        """
        session = await self._valid.get(session_id(token))
        if session is None:
            raise UnknownSessionError
        if by_hand and session.is_stale and session.id not in self._notes:
            self._notes[session.id] = asyncio.create_task(self._note_use(session.id))
        return Principal(
            ActorKind.USER,
            session.name,
            SCOPES[session.role],
            id=str(session.user_id),
            session=session.id,
            role=session.role,
        )

    async def _note_use(self, session_id: str) -> None:
        # It is valid all the same: no request fails for it, or waits, and the next one tries again.
        try:
            with suppress(AwayError):
                await self._rows.touch(session_id)
        finally:
            del self._notes[session_id]

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._notes.values())
