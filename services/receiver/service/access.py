"""Decides who a request comes from."""

import hmac
from typing import Final

from services.receiver.domain.access import (
    ADMINISTRATOR_KEY,
    ANYBODY,
    FRONTEND,
    Credentials,
    Principal,
)
from services.receiver.domain.errors import UnknownCallerError
from services.receiver.ports import KeyFile
from services.receiver.service.keys import KeyCheck
from services.receiver.service.sessions import Sessions

MAX_KEY_LENGTH: Final = 200
"""Ours have 60 characters."""


def holds(file: KeyFile, shown: str) -> bool:
    """Tell whether a file holds what is shown."""
    return any(hmac.compare_digest(key, shown.encode()) for key in file())


class Access:
    """Tells who shows which credentials; everybody is :data:`ANYBODY` when ``is_open``.

    ``administrator_key`` and ``frontend_key`` are read for every request, so that one that was
    changed holds at once.
    """

    def __init__(
        self,
        *,
        is_open: bool,
        keys: KeyCheck | None = None,
        administrator_key: KeyFile | None = None,
        frontend_key: KeyFile | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        self._is_open = is_open
        self._sessions = sessions
        self._keys = keys
        self._files = [
            (file, principal)
            for file, principal in (
                (administrator_key, ADMINISTRATOR_KEY),
                (frontend_key, FRONTEND),
            )
            if file is not None
        ]

    async def principal(self, credentials: Credentials | None) -> Principal:
        """Return who shows these.

        Raises :class:`UnknownCallerError`, always the same one, and ``DatabaseUnavailableError``.
        """
        if self._is_open:
            return ANYBODY
        if credentials is None or len(credentials.key) > MAX_KEY_LENGTH:
            raise UnknownCallerError
        for file, principal in self._files:
            if holds(file, credentials.key):
                if principal is FRONTEND and self._sessions and credentials.session is not None:
                    return await self._sessions.principal(
                        credentials.session, by_hand=credentials.by_hand
                    )
                return principal
        if self._keys and (program := await self._keys.principal(credentials.key)):
            return program
        raise UnknownCallerError

    async def close(self) -> None:
        """Finish what is being noted."""
        if self._keys:
            await self._keys.close()
        if self._sessions:
            await self._sessions.close()
