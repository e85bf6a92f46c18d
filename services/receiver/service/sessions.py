"""On whose session somebody acts."""

import hashlib
from collections.abc import Collection, Mapping
from contextlib import suppress

from services.common.errors import AwayError
from services.receiver.domain.access import SCOPES, ActorKind, Principal
from services.receiver.domain.errors import UnknownSessionError
from services.receiver.domain.users import ValidSession
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
        self._valid = SharedLookup(self._look_up)

    async def principal(self, token: str) -> Principal:
        """Return who has logged in with the token's session.

        Raises :class:`UnknownSessionError` and ``DatabaseUnavailableError``.
        """
        session = await self._valid.get(session_id(token))
        if session is None:
            raise UnknownSessionError
        return Principal(
            ActorKind.USER,
            session.name,
            SCOPES[session.role],
            id=str(session.user_id),
            session=session.id,
            role=session.role,
        )

    async def _look_up(self, session_ids: Collection[str]) -> Mapping[str, ValidSession]:
        found = await self._rows.valid(session_ids)
        if stale := [session.id for session in found.values() if session.is_stale]:
            with suppress(AwayError):  # they are valid all the same, and the next request tries
                await self._rows.touch(stale)
        return found
