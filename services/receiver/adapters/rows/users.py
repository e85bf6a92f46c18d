"""Users in the database."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now
from services.common.tables import sessions, users
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.on_database import OnDatabase, page_by_id
from services.receiver.domain.access import Role
from services.receiver.domain.acts import SubjectKind, acting
from services.receiver.domain.cursors import Page
from services.receiver.domain.errors import ConflictError, NotFoundError
from services.receiver.domain.users import StoredPassword, User, UserChange


class DatabaseUsers(OnDatabase):
    """Users in the database."""

    async def page(self, *, after: int | None, limit: int) -> Page[User, int]:
        query = sa.select(users).order_by(users.c.id).limit(limit + 1)
        if after is not None:
            query = query.where(users.c.id > after)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return page_by_id(rows, _user, limit)

    @retry_on_conflict
    async def add(self, name: str, role: Role, password_hash: str) -> User:
        values = {"name": name, "role": role, "password_hash": password_hash}
        try:
            async with self._database.transaction() as connection:
                await connection.execute(
                    sa.insert(users).values(**values, created_at=database_now())
                )
                user = _user(await _read(connection, users.c.name == name))
                if act := acting.get():
                    act.about_new(SubjectKind.USER, user.id)
                return user
        except sa.exc.IntegrityError:
            raise ConflictError(f"there is a user {name!r} already") from None

    @retry_on_conflict
    async def change(self, user_id: int, change: UserChange, *, keep_administrator: bool) -> User:
        its = users.c.id == user_id
        values: dict[str, object] = {}
        async with self._database.transaction() as connection:
            if keep_administrator and (
                change.disabled or change.role not in (None, Role.ADMINISTRATOR)
            ):
                await _keep_administrator(connection, user_id)
            row = await _read(connection, its)
            if row is None:
                raise _no_user(user_id)
            user = _user(row)
            if change.role is not None:
                _check_own(user, "role")
                values["role"] = change.role
            if change.password_hash is not None:
                _check_own(user, "password")
                values["password_hash"] = change.password_hash
            if change.disabled is not None:
                since = sa.func.coalesce(users.c.disabled_at, database_now())
                values["disabled_at"] = since if change.disabled else None
            if not values:
                return user
            await connection.execute(sa.update(users).where(its).values(values))
            await connection.execute(sa.delete(sessions).where(sessions.c.user_id == user_id))
            return _user(await _read(connection, its))

    @retry_on_conflict
    async def delete(self, user_id: int, *, keep_administrator: bool) -> None:
        async with self._database.transaction() as connection:
            if keep_administrator:
                await _keep_administrator(connection, user_id)
            # Their sessions go by the foreign key.
            gone = await connection.execute(sa.delete(users).where(users.c.id == user_id))
        if not gone.rowcount:
            raise _no_user(user_id)

    async def password(self, name: str) -> StoredPassword | None:
        query = sa.select(users.c.id, users.c.password_hash).where(
            users.c.name == name,
            users.c.password_hash.is_not(None),
            users.c.disabled_at.is_(None),
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else StoredPassword(row.id, row.password_hash)


async def _keep_administrator(connection: AsyncConnection, user_id: int) -> None:
    """Raise ``ConflictError`` when nobody else is an administrator; hold those who are."""
    query = sa.select(users.c.id).where(
        users.c.role == Role.ADMINISTRATOR, users.c.disabled_at.is_(None)
    )
    if set(await connection.scalars(query.with_for_update())) == {user_id}:
        raise ConflictError(
            "this is the last administrator who may log in, and no key is set that may do as much:"
            " make another user an administrator first, or set ADMINISTRATOR_KEY_FILE"
        )


async def _read(connection: AsyncConnection, its: sa.ColumnElement[bool]) -> Any:
    """Return a user's row, which is held until the transaction ends; None without one."""
    query = sa.select(users).where(its).with_for_update()
    return (await connection.execute(query)).first()


def _check_own(user: User, what: str) -> None:
    if user.issuer is not None:
        raise ConflictError(
            f"user {user.id} logs in with {user.issuer}, which decides on their {what}: change it"
            " there, or disable the user here"
        )


def _no_user(user_id: int) -> NotFoundError:
    return NotFoundError(f"there is no user {user_id}")


def _user(row: Any) -> User:
    return User(row.id, row.name, Role(row.role), row.issuer, row.created_at, row.disabled_at)
