"""Keys of programs, in the database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now
from services.common.database import Database, HeldConnection
from services.common.tables import api_keys
from services.receiver.adapters.rows.conflicts import retry_on_conflict
from services.receiver.adapters.rows.on_database import OnDatabase
from services.receiver.domain.access import ActorKind, Principal
from services.receiver.domain.errors import ConflictError, NotFoundError
from services.receiver.domain.keys import (
    ApiKey,
    SecretKey,
    ValidKey,
    WantedKey,
    read_scopes,
    write_scopes,
)

_LISTED: Final = 1000
_NOTED_MS: Final = 60_000

_SHOWN: Final = [column for column in api_keys.c if column is not api_keys.c.tag]


def _is_valid() -> sa.ColumnElement[bool]:
    expires_at = api_keys.c.expires_at
    return sa.and_(
        api_keys.c.revoked_at.is_(None), expires_at.is_(None) | (expires_at > database_now())
    )


class DatabaseApiKeys(OnDatabase):
    """Keys of programs; one query for valid ones at a time."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._held = HeldConnection(database)

    async def valid(self, ids: Collection[str]) -> Mapping[str, ValidKey]:
        c = api_keys.c
        query = sa.select(c.id, c.name, c.scopes, c.tag).where(c.id.in_(ids), _is_valid())
        return {
            row.id: ValidKey(
                row.tag, Principal(ActorKind.KEY, row.name, read_scopes(row.scopes), row.id)
            )
            for row in await self._held.rows(query)
        }

    async def close(self) -> None:
        """Give back what is held."""
        await self._held.close()

    async def note_use(self, key_id: str) -> None:
        now, last = database_now(), api_keys.c.last_used_at
        is_long_ago = last.is_(None) | (last < now - _NOTED_MS)  # another replica may have noted it
        note = sa.update(api_keys).where(api_keys.c.id == key_id, is_long_ago)
        async with self._database.transaction() as connection:
            await connection.execute(note.values(last_used_at=now))

    async def all(self) -> Sequence[ApiKey]:
        c = api_keys.c
        query = sa.select(*_SHOWN).order_by(c.revoked_at.is_not(None), c.created_at.desc(), c.id)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.limit(_LISTED))).all()
        return [_key(row) for row in rows]

    @retry_on_conflict
    async def add(self, secret: SecretKey, wanted: WantedKey, *, by: str) -> ApiKey:
        async with self._database.transaction() as connection:
            return await _insert(connection, secret, wanted, by, most=1)

    @retry_on_conflict
    async def add_like(self, secret: SecretKey, key_id: str, *, by: str) -> ApiKey:
        now = sa.select(database_now()).scalar_subquery()
        like = sa.select(api_keys, now.label("now")).where(api_keys.c.id == key_id, _is_valid())
        async with self._database.transaction() as connection:
            row = (await connection.execute(like)).first()
            if row is None:
                raise NotFoundError(f"there is no valid key {key_id}")
            ends = None if row.expires_at is None else row.now + row.expires_at - row.created_at
            wanted = WantedKey(row.name, read_scopes(row.scopes), ends)
            return await _insert(connection, secret, wanted, by, most=2)

    async def revoke(self, key_id: str) -> None:
        its = sa.update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        async with self._database.transaction() as connection:
            revoked = await connection.execute(its.values(revoked_at=database_now()))
        if not revoked.rowcount:
            raise NotFoundError(f"there is no key {key_id} that is not revoked")


async def _insert(
    connection: AsyncConnection, secret: SecretKey, wanted: WantedKey, by: str, *, most: int
) -> ApiKey:
    row = {
        "id": secret.id,
        "name": wanted.name,
        "scopes": write_scopes(wanted.scopes),
        "tag": secret.tag,
        "created_at": database_now(),
        "created_by": by,
        "expires_at": wanted.expires_at,
    }
    await connection.execute(sa.insert(api_keys).values(row))
    # Counted after that and locked: of two that are added at once, one waits for the other's row.
    counts = _is_valid() | (api_keys.c.id == secret.id)  # also one that ends at once
    of_name = sa.select(*_SHOWN).where(api_keys.c.name == wanted.name, counts)
    rows = (await connection.execute(of_name.with_for_update())).all()
    if len(rows) > most:
        others = " and ".join(sorted(row.id for row in rows if row.id != secret.id))
        advice = "rotate it" if most == 1 else "revoke one of them first"
        raise ConflictError(
            f"there is a valid key with the name {wanted.name!r} already: {others}; {advice}"
        )
    return next(_key(row) for row in rows if row.id == secret.id)


def _key(row: Any) -> ApiKey:
    values = {field.name: getattr(row, field.name) for field in fields(ApiKey)}
    return ApiKey(**values | {"scopes": read_scopes(row.scopes)})
