import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from services.common import event_rows as module
from services.common.clock import database_now
from services.common.database import Database
from services.common.event_rows import is_lost, latest_position, note_events, read_events
from services.common.events import KEPT_MS, EventKind, Position
from services.common.tables import events
from services.testing.fixtures import new_mariadb_settings
from services.testing.servers import MariaDb

ids = st.integers(1, 2**63 - 1)


async def start(database: Database) -> Position:
    async with database.reading() as connection:
        return await latest_position(connection, database_now())


async def read(database: Database, position: Position) -> tuple[list[int], Position]:
    async with database.reading() as connection:
        found, position = await read_events(connection, database_now(), position)
    return [one.subject_id for one in found], position


async def lost(database: Database, position: Position) -> bool:
    async with database.reading() as connection:
        return await is_lost(connection, database_now(), position)


async def note(database: Database, *subjects: int) -> None:
    async with database.transaction() as connection:
        await note_events(connection, database_now(), EventKind.IMAGE, subjects)


class Open:
    """A transaction that has noted a change and goes on."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def note(self, database: Database, *subjects: int) -> "Open":
        connection = await self._stack.enter_async_context(database.transaction())
        await note_events(connection, database_now(), EventKind.IMAGE, subjects)
        return self

    async def commit(self) -> None:
        await self._stack.aclose()

    async def roll_back(self) -> None:
        error = KeyError("rolled back")
        await self._stack.__aexit__(KeyError, error, None)


@pytest.fixture
async def mariadb_pool(mariadb: MariaDb) -> AsyncIterator[Database]:
    settings = new_mariadb_settings(mariadb)
    database = Database(settings)
    yield database
    await database.close()


async def test_a_reader_is_told_of_what_comes_after_it_began_once(database: Database) -> None:
    await note(database, 1)
    position = await start(database)
    await note(database, 2, 3)
    found, position = await read(database, position)
    assert found == [2, 3]
    assert (await read(database, position))[0] == []
    await note(database, 2)
    assert (await read(database, position))[0] == [2]


async def test_a_transaction_that_ends_later_than_a_younger_one_is_read(
    mariadb_pool: Database,
) -> None:
    database = mariadb_pool
    before = await start(database)
    await note(database, 1)
    first = await Open().note(database, 2, 3, 4)
    second = await Open().note(database, 5)
    began_within = await start(database)
    await second.commit()
    began_behind = await start(database)
    found, following = await read(database, before)
    assert found == [1, 5]
    assert (await read(database, following))[0] == []
    await first.commit()
    for position, expected in (
        (following, [2, 3, 4]),
        (Position.parse(str(following)), [2, 3, 4]),
        (began_within, [2, 3, 4, 5]),
        (began_behind, [2, 3, 4]),
    ):
        assert position
        found, after = await read(database, position)
        assert found == expected
        assert not after.missing
        assert (await read(database, after))[0] == []


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_order_transactions_end_in_each_event_is_read_once(
    mariadb_pool: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 4)
    chance = random.Random(seed)
    database = mariadb_pool
    running: list[tuple[Open, list[int]]] = []
    committed: list[int] = []
    # Who began when, what was committed then, and what it has read since.
    readers: list[tuple[Position, set[int], list[int]]] = [(await start(database), set(), [])]
    subject = 0
    for _ in range(150):
        match chance.choice(["note", "note", "end", "end", "read", "join"]):
            case "note" if len(running) < 6:
                subjects = list(range(subject + 1, subject + chance.randint(1, 6) + 1))
                subject = subjects[-1]
                running.append((await Open().note(database, *subjects), subjects))
            case "end" if running:
                transaction, subjects = running.pop(chance.randrange(len(running)))
                if chance.random() < 0.2:
                    await transaction.roll_back()
                else:
                    await transaction.commit()
                    committed += subjects
            case "join" if len(readers) < 6:
                readers.append((await start(database), set(committed), []))
            case _:
                number = chance.randrange(len(readers))
                position, known, told = readers[number]
                found, position = await read(database, position)
                resumed = Position.parse(str(position))
                assert resumed == position
                readers[number] = (resumed, known, told + found)
    for transaction, subjects in running:
        await transaction.commit()
        committed += subjects
    for last, known, told in readers:
        position = last
        while True:
            found, position = await read(database, position)
            if not found:
                break
            told.extend(found)
        assert sorted(told) == sorted(set(committed) - known)


async def test_what_was_rolled_back_is_not_looked_for_when_older_rows_are_gone(
    mariadb_pool: Database,
) -> None:
    database = mariadb_pool
    position = await start(database)
    await note(database, 1)
    await (await Open().note(database, 2)).roll_back()
    await note(database, 3)
    _, position = await read(database, position)
    assert position.missing == ((2, 2),)
    _, position = await read(database, position)
    assert position.missing == ((2, 2),)
    async with database.transaction() as connection:
        await connection.execute(sa.delete(events).where(events.c.id < 3))
    _, position = await read(database, position)
    assert position.missing == ((2, 2),), "its transaction may go on"
    async with database.transaction() as connection:
        await connection.execute(sa.update(events).values(created_at=position.at - KEPT_MS))
    _, position = await read(database, position)
    assert position.missing == ()


async def test_a_position_is_good_for_as_long_as_rows_are_kept(database: Database) -> None:
    await note(database, 1)
    position = await start(database)
    assert not await lost(database, position)
    assert await lost(database, Position(position.last, position.at - KEPT_MS))
    assert not await lost(database, Position(position.last, position.at - KEPT_MS + 120_000))
    assert await lost(database, Position(position.last + 1, position.at)), "of other rows"
    async with database.transaction() as connection:
        await connection.execute(sa.delete(events))
    assert not await lost(database, position), "nothing has happened for an hour"
    await note(database, 2)
    assert (await read(database, position))[0] == [2]


async def test_rows_that_wait_do_not_make_a_position_younger(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Position(0, 1)
    await note(database, *range(1, 6))
    monkeypatch.setattr(module, "PAGE", 5)
    found, position = await read(database, old)
    assert (found, position) == ([1, 2, 3, 4, 5], Position(5, 1))
    found, position = await read(database, position)
    assert found == []
    assert position.at > 1


@given(ids, ids, st.lists(st.tuples(ids, ids), max_size=100))
def test_a_position_is_read_as_it_was_written(
    last: int, at: int, missing: list[tuple[int, int]]
) -> None:
    position = Position(last, at, tuple(missing))
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1.", "1.2.", "a.b", "1.2.3", "1.2.3-", "1.2.3-4,", "-1.2", "1.2 ", "1.2\n"),
        *("9223372036854775808.1", "1.1.1-9999999999999999999"),
        *("1.2." + ",".join(["1-2"] * 101), "\u0661.\u0662", "1" * 5000),
    ],
)
def test_what_is_no_position_is_none(text: str) -> None:
    assert Position.parse(text) is None


def test_missing_ids_are_limited() -> None:
    position = Position(0, 1)
    for event_id in range(2, 1002, 2):
        position = position.past(event_id)
    assert len(position.missing) == 100
    assert position.missing[-1] == (999, 999)
    wide = Position(10, 1, ((1, 9),))
    for event_id in (1, 9, 5):
        wide = wide.past(event_id)
    assert wide.missing == ((2, 4), (6, 8))


async def test_many_changes_are_noted_by_one_statement(mariadb_pool: Database) -> None:
    """One for each takes seconds of a transaction in which thousands of faces get a name."""
    count = sa.text("SHOW SESSION STATUS LIKE 'Com_insert'")
    async with mariadb_pool.transaction() as connection:
        before = int((await connection.execute(count)).one().Value)
        await note_events(connection, database_now(), EventKind.IMAGE, range(1, 2_001))
        assert int((await connection.execute(count)).one().Value) == before + 1
        [noted] = await connection.execute(
            sa.select(sa.func.count(), sa.func.count(events.c.created_at.distinct()))
        )
        assert noted == (2_000, 1)
