"""Begins sessions for who shows that they are a user."""

import math
import secrets
from collections.abc import Mapping
from typing import Final

from services.common.errors import AwayError
from services.common.person_names import as_kept
from services.receiver.domain.access import Role
from services.receiver.domain.errors import NoRoleError, TooManyAttemptsError, WrongLogInError
from services.receiver.domain.users import ADMINISTRATOR, KEY_ISSUER, Identity, NewSession, role_of
from services.receiver.ports import AttemptRows, KeyFile, PasswordHasher, SessionRows, UserRows
from services.receiver.service.access import holds
from services.receiver.service.sessions import session_id

_TOKEN_BYTES: Final = 32

_ADMINISTRATOR: Final = Identity(KEY_ISSUER, ADMINISTRATOR, ADMINISTRATOR, ())
"""Who shows the administrator's key as a password: a way in while there is no other user."""


class LogIn:
    """The ways to log in; each returns the token of the session that has begun, and the session.

    ``roles`` says which role a provider's group has. All methods raise
    ``DatabaseUnavailableError``.
    """

    def __init__(
        self,
        *,
        users: UserRows,
        sessions: SessionRows,
        attempts: AttemptRows,
        hasher: PasswordHasher,
        roles: Mapping[str, Role],
        administrator_key: KeyFile | None,
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._attempts = attempts
        self._hasher = hasher
        self._roles = roles
        self._administrator_key = administrator_key

    async def by_password(self, name: str, password: str, address: str) -> tuple[str, NewSession]:
        """Log somebody in who types from that address.

        Raises :class:`WrongLogInError` after the same work whatever is wrong,
        :class:`TooManyAttemptsError` without any, and ``BusyError``.
        """
        name = as_kept(name)
        if wait_ms := await self._attempts.begin(address, name):
            raise TooManyAttemptsError(math.ceil(wait_ms / 1000))
        try:
            begun = await self._begin(name, password)
        except AwayError:
            await self._attempts.not_made(address, name)
            raise
        await self._attempts.right(address, name)
        return begun

    async def _begin(self, name: str, password: str) -> tuple[str, NewSession]:
        stored = await self._users.password(name)
        is_right = await self._hasher.verify(stored.hash if stored else None, password)
        if (
            name == ADMINISTRATOR
            and self._administrator_key is not None
            and holds(self._administrator_key, password)
        ):
            return await self._begin_for(_ADMINISTRATOR, Role.ADMINISTRATOR)
        if stored is None or not is_right:
            raise WrongLogInError
        outdated = self._hasher.is_outdated(stored.hash)
        new_hash = await self._hasher.hash(password) if outdated else None
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        session = await self._sessions.begin(session_id(token), stored, new_hash)
        if session is None:  # changed while the password was being checked
            raise WrongLogInError
        return token, session

    async def by_identity(self, identity: Identity) -> tuple[str, NewSession]:
        """Log somebody in whom a provider vouches for, as the frontend has checked.

        Raises :class:`NoRoleError`, and :class:`WrongLogInError` for who is disabled.
        """
        role = role_of(identity.groups, self._roles)
        if role is None:
            raise NoRoleError
        return await self._begin_for(identity, role)

    async def _begin_for(self, identity: Identity, role: Role) -> tuple[str, NewSession]:
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        session = await self._sessions.begin_for(session_id(token), identity, role)
        if session is None:
            raise WrongLogInError
        return token, session

    async def tidy(self) -> None:
        """Remove sessions that have ended, and wrong passwords of more than a day ago."""
        for forget in (self._sessions.forget_ended, self._attempts.forget_old):
            while await forget():
                pass
