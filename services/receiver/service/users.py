"""Who may log in, and as what."""

from services.receiver.domain.access import Role
from services.receiver.domain.cursors import Page
from services.receiver.domain.users import User, UserChange
from services.receiver.ports import PasswordHasher, UserRows


class Users:
    """The users; without an administrator key one of them must always be an administrator.

    Otherwise nobody could let anybody in any more. ``has_key`` tells whether there is such a key.
    All methods raise ``DatabaseUnavailableError``.
    """

    def __init__(self, rows: UserRows, hasher: PasswordHasher, *, has_key: bool) -> None:
        self._rows = rows
        self._hasher = hasher
        self._has_key = has_key

    async def page(self, *, after: int | None, limit: int) -> Page[User, int]:
        """Return the users behind that id."""
        return await self._rows.page(after=after, limit=limit)

    async def add(self, name: str, role: Role, password: str) -> User:
        """Add a user; raises ``ConflictError`` when somebody has the name, and ``BusyError``."""
        return await self._rows.add(name, role, await self._hasher.hash(password))

    async def change(
        self, user_id: int, *, role: Role | None, password: str | None, disabled: bool | None
    ) -> User:
        """Change what is not None, and end the user's sessions.

        Raises ``NotFoundError``, ``ConflictError`` and ``BusyError``.
        """
        change = UserChange(
            role=role,
            password_hash=None if password is None else await self._hasher.hash(password),
            disabled=disabled,
        )
        return await self._rows.change(user_id, change, keep_administrator=not self._has_key)

    async def delete(self, user_id: int) -> None:
        """Remove a user, whose sessions end; raises ``NotFoundError`` and ``ConflictError``."""
        await self._rows.delete(user_id, keep_administrator=not self._has_key)
