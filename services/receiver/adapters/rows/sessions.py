"""Sessions in the database."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import DatabaseClock, database_now
from services.common.database import Database
from services.common.errors import DatabaseConflictError
from services.common.person_names import MAX_NAME_LENGTH, InvalidNameError, check_name
from services.common.tables import sessions, users
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.domain.access import Role
from services.receiver.domain.acts import SubjectKind, acting
from services.receiver.domain.users import (
    KEY_ISSUER,
    RESERVED_NAMES,
    Identity,
    NewSession,
    StoredPassword,
    ValidSession,
)

_TOUCH_MS: Final = 60_000
"""How often at most it is written down that a session is used."""

_FORGOTTEN_AT_ONCE: Final = 1000


class DatabaseSessions:
    """Sessions in the database, which end when they are not used for a while, and in any case."""

    def __init__(
        self,
        database: Database,
        *,
        idle_ms: int,
        longest_ms: int,
        now: DatabaseClock = database_now,
    ) -> None:
        self._database = database
        self._idle_ms = idle_ms
        self._longest_ms = longest_ms
        self._now = now

    @retry_on_conflict
    async def begin(
        self, session_id: str, password: StoredPassword, new_hash: str | None
    ) -> NewSession | None:
        its = users.c.id == password.user_id
        async with self._database.transaction() as connection:
            # Held until the session is there: who disables the user afterwards ends it, too.
            query = sa.select(users).where(
                its, users.c.password_hash == password.hash, users.c.disabled_at.is_(None)
            )
            user = (await connection.execute(query.with_for_update())).first()
            if user is None:
                return None
            if new_hash is not None:
                await connection.execute(sa.update(users).where(its).values(password_hash=new_hash))
            return await self._add(connection, session_id, user)

    @retry_on_conflict
    async def begin_for(self, session_id: str, identity: Identity, role: Role) -> NewSession | None:
        try:
            async with self._database.transaction() as connection:
                user = await self._vouched_for(connection, identity, role)
                return user and await self._add(connection, session_id, user)
        except sa.exc.IntegrityError as error:
            # Somebody else was added at the same moment, with the same name or the same identity.
            raise DatabaseConflictError(str(error.orig)) from error

    async def _vouched_for(
        self, connection: AsyncConnection, identity: Identity, role: Role
    ) -> Any | None:
        """Return the row of somebody, up to date; None when they are disabled."""
        whose = sa.and_(users.c.issuer == identity.issuer, users.c.subject == identity.subject)
        query = sa.select(users).where(whose).with_for_update()
        user = (await connection.execute(query)).first()
        if user is None:
            new = {"issuer": identity.issuer, "subject": identity.subject, "role": role}
            name = await _free_name(connection, identity)
            await connection.execute(
                sa.insert(users).values(**new, name=name, created_at=self._now())
            )
        elif user.disabled_at is not None:
            return None
        elif user.role != role:
            await connection.execute(sa.update(users).where(whose).values(role=role))
            await connection.execute(sa.delete(sessions).where(sessions.c.user_id == user.id))
        else:
            return user
        return (await connection.execute(query)).one()

    async def _add(self, connection: AsyncConnection, session_id: str, user: Any) -> NewSession:
        now = self._now()
        await connection.execute(
            sa.insert(sessions).values(
                id=session_id,
                user_id=user.id,
                created_at=now,
                used_at=now,
                ends_at=now + self._longest_ms,
            )
        )
        query = sa.select(sessions.c.ends_at).where(sessions.c.id == session_id)
        ends_at = (await connection.execute(query)).scalar_one()
        if act := acting.get():
            act.about_new(SubjectKind.USER, user.id)
        return NewSession(user.name, Role(user.role), ends_at)

    async def valid(self, session_ids: Collection[str]) -> Mapping[str, ValidSession]:
        now = self._now()
        query = (
            sa.select(
                sessions.c.id,
                sessions.c.user_id,
                users.c.name,
                users.c.role,
                (sessions.c.used_at <= now - _TOUCH_MS).label("is_stale"),
            )
            .join_from(sessions, users)
            .where(
                sessions.c.id.in_(session_ids),
                sessions.c.ends_at > now,
                sessions.c.used_at > now - self._idle_ms,
                users.c.disabled_at.is_(None),
            )
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return {
            row.id: ValidSession(row.id, row.user_id, row.name, Role(row.role), bool(row.is_stale))
            for row in rows
        }

    async def touch(self, session_id: str) -> None:
        its = sa.update(sessions).where(sessions.c.id == session_id)
        async with self._database.transaction() as connection:
            await connection.execute(its.values(used_at=self._now()))

    async def end(self, session_id: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(sessions).where(sessions.c.id == session_id))

    @retry_on_conflict
    async def forget_ended(self) -> int:
        # Those that were only left unused go, too, by then.
        ended = sa.select(sessions.c.id).where(sessions.c.ends_at <= self._now())
        async with self._database.reading() as connection:
            ids = (await connection.scalars(ended.limit(_FORGOTTEN_AT_ONCE))).all()
        if ids:
            async with self._database.transaction() as connection:
                await connection.execute(sa.delete(sessions).where(sessions.c.id.in_(ids)))
        return len(ids)


async def _free_name(connection: AsyncConnection, identity: Identity) -> str:
    """Return what somebody new is called: as the provider says, unless somebody else is.

    A provider's users must not pass for others by a name.
    """
    told = hashlib.sha256(f"{identity.issuer} {identity.subject}".encode()).hexdigest()[:12]
    try:
        name = check_name(identity.name[:MAX_NAME_LENGTH])
    except InvalidNameError:
        return f"user ({told})"
    taken = sa.select(users.c.id).where(users.c.name == name)
    reserved = identity.issuer != KEY_ISSUER and name.casefold() in RESERVED_NAMES
    if not reserved and await connection.scalar(taken) is None:
        return name
    return f"{name[: MAX_NAME_LENGTH - len(told) - 3]} ({told})"
