"""Groups in the tables are those that the faces make, whoever does what, and is killed when."""

import asyncio
import itertools
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import hypothesis
import numpy as np
import pytest
import sqlalchemy as sa
import structlog
from hypothesis import given
from hypothesis import strategies as st

from services.common.claims import LEASE_MS
from services.common.database import Database
from services.common.errors import DatabaseConflictError, DatabaseUnavailableError
from services.common.event_rows import note_events
from services.common.events import EventKind
from services.common.settings import DatabaseSettings
from services.common.strangers import PairsOfStrangers
from services.common.tables import (
    events,
    face_encodings,
    face_groups,
    faces,
    group_denials,
    group_faces,
    group_questions,
    group_work,
    images,
    persons,
)
from services.face_recog.domain.strangers import DLIB
from services.migrations.__main__ import migrate
from services.people.adapters import group_rows
from services.people.adapters.group_rows import LATER_MS, DatabaseGrouping
from services.people.adapters.rows import DatabaseStoredFaces
from services.people.service import grouping
from services.people.service.grouping import Grouper
from services.people.tests.test_people_kills import KilledError, kill_at
from services.people.tests.world import ENGINE, SURE, World, encoding

PAIRS: Final = DLIB.product.pairs
HALF: Final = 0.28
"""How far two faces are from their person that are asked about, and not joined."""

Key = tuple[int, int]


class Bench:
    """A world in which replicas make groups."""

    def __init__(self, database: Database) -> None:
        self.world = World(database, None)  # type: ignore[arg-type]
        self.engine = ENGINE.name
        self.said = 0

    async def strangers(self) -> tuple[str, PairsOfStrangers] | None:
        return self.engine, PAIRS

    def replica(self, database: Database | None = None) -> Grouper:
        its = database or self.world.database
        return Grouper(
            DatabaseGrouping(its, self.world.clock),
            DatabaseStoredFaces(its, self.world.clock),
            self.strangers,
            clock=lambda: self.world.now,
        )

    def later(self, milliseconds: int = LEASE_MS + 1) -> None:
        self.world.offset += milliseconds
        self.world.now += milliseconds / 1000

    async def groups(self) -> dict[int, set[Key]]:
        found = defaultdict[int, set[Key]](set)
        for row in await self.world.all(sa.select(group_faces)):
            found[row.group_id].add((row.image_id, row.face_index))
        return dict(found)

    async def parts(self) -> set[frozenset[Key]]:
        return {frozenset(one) for one in (await self.groups()).values()}

    async def agrees(self, replica: Grouper) -> bool:
        """Tell whether the tables are what the replica has in memory, with the right sizes."""
        groups = await self.groups()
        sizes = {
            row.id: row.size for row in await self.world.all(sa.select(face_groups)) if row.size
        }
        memory = replica._groups
        mine = {one: memory.members(one) for one in groups} if memory else {}
        held = len(memory) if memory else 0
        return (
            {one: set(its) for one, its in mine.items()} == groups
            and sizes == {one: len(its) for one, its in groups.items()}
            and held == sum(sizes.values())
        )

    async def change(self, image_id: int, *statements: Any) -> None:
        async with self.world.database.transaction() as connection:
            for one in statements:
                await connection.execute(one)
            await note_events(connection, self.world.clock(), EventKind.IMAGE, [image_id])

    async def name(self, key: Key, person: str | None) -> None:
        values = {"person": person, "distance": None, "decided_by": "hand" if person else "machine"}
        await self.change(key[0], sa.update(faces).where(_is(faces, key)).values(values))

    async def strike(self, key: Key) -> None:
        await self.change(
            key[0],
            sa.update(faces).where(_is(faces, key)).values(struck_out=True),
            sa.delete(face_encodings).where(_is(face_encodings, key)),
        )

    async def deny(self, key: Key) -> None:
        """Say that a face does not belong in its group, as the receiver does."""
        row = (await self.world.all(sa.select(group_faces).where(_is(group_faces, key))))[0]
        await self.change(
            key[0],
            sa.insert(group_denials).values(
                image_id=key[0], face_index=key[1], group_id=row.group_id, created_at=0
            ),
            sa.delete(group_faces).where(_is(group_faces, key)),
        )

    async def delete(self, image_id: int) -> None:
        await self.change(image_id, sa.delete(images).where(images.c.id == image_id))

    async def current(self, group: int) -> int:
        its = sa.select(face_groups.c.merged_into).where(face_groups.c.id == group)
        [row] = await self.world.all(its)
        return group if row.merged_into is None else await self.current(row.merged_into)

    async def no(self, one: int, other: int) -> None:
        """Say that two groups are not one, as the receiver does: of their faces, too."""
        self.said += 1
        pair = sorted((one, other))
        its = group_questions.c
        same = its.group_id == pair[0], its.other_group_id == pair[1]
        answer = {"answer": "no", "answered_at": self.said}
        if await self.world.all(sa.select(group_questions).where(*same)):
            await self.world.run(sa.update(group_questions).where(*same).values(answer))
        else:
            values = {"group_id": pair[0], "other_group_id": pair[1], "created_at": 0}
            await self.world.run(sa.insert(group_questions).values(values | answer))
        groups = await self.groups()
        one, other = [await self.current(group) for group in pair]
        rows = [(key, its) for mine, its in ((one, other), (other, one)) for key in groups[mine]]
        denials = {
            (row.image_id, row.face_index, row.group_id)
            for row in await self.world.all(sa.select(group_denials))
        }
        for (image, index), group in rows:
            if (image, index, group) not in denials:
                row = {"image_id": image, "face_index": index, "group_id": group}
                at = {"created_at": self.said}
                await self.world.run(sa.insert(group_denials).values(row | at))

    async def take_back(self, answer: str | None) -> None:
        """Say something else in place of every no."""
        its = sa.select(group_questions.c.answered_at).where(group_questions.c.answer == "no")
        await self.world.run(
            sa.delete(group_denials).where(group_denials.c.created_at.in_(its)),
            sa.update(group_questions)
            .where(group_questions.c.answer == "no")
            .values(answer=answer),
        )

    async def encode(self, image: int, engine: str, *encodings: bytes) -> None:
        """Give the faces of an image encodings of another engine."""
        await self.change(
            image,
            *(
                sa.insert(face_encodings).values(
                    image_id=image, face_index=index, engine=engine, encoding=one
                )
                for index, one in enumerate(encodings)
            ),
        )

    async def settle(self, replica: Grouper, engine: str) -> None:
        """Have face_recog say for long enough that its engine is another one."""
        self.engine = engine
        for _ in range(6):
            self.world.now += 15
            await replica.step()

    async def questions(self, **values: Any) -> list[Any]:
        if values:
            now = self.world.clock()
            await self.world.run(sa.update(group_questions).values(answered_at=now, **values))
        return await self.world.all(sa.select(group_questions).order_by(group_questions.c.id))


def _is(table: sa.Table, key: Key) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.image_id == key[0], table.c.face_index == key[1])


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)


@pytest.fixture(autouse=True)
def _two_groups_a_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_rows, "_COUNTED", 2)


async def test_unknown_faces_are_in_groups_and_leave_them(bench: Bench) -> None:
    world, replica = bench.world, bench.replica()
    await replica.step()
    assert await bench.groups() == {}
    first = await world.picture(encoding("Ada"), encoding("Bob"))
    await replica.step()
    more = [await world.picture(encoding("Ada", SURE, nth), None) for nth in range(1, 4)]
    await replica.step()
    ada = {(first, 0), *((one, 0) for one in more)}
    groups = await bench.groups()
    assert sorted(groups.values(), key=len) == [{(first, 1)}, ada]
    its = next(one for one, members in groups.items() if members == ada)
    await bench.name((more[0], 0), "Ada")
    await bench.strike((more[1], 0))
    await bench.delete(more[2])
    await replica.step()
    assert (await bench.groups())[its] == {(first, 0)}
    assert await bench.agrees(replica)
    await bench.name((more[0], 0), None)
    await replica.step()
    assert (await bench.groups())[its] == {(first, 0), (more[0], 0)}
    assert await bench.agrees(replica)


async def test_whoever_follows_finds_the_last_faces_that_got_a_name(bench: Bench) -> None:
    image = await bench.world.picture(encoding("Ada"), encoding("Bob"))
    await bench.replica().step()
    for index in range(2):
        await bench.name((image, index), "Ada")
    bench.later()
    other = bench.replica()
    await other.step()
    assert await bench.groups() == {}
    assert await bench.agrees(other)


async def test_a_group_keeps_its_address_over_restarts_and_merges_say_where_it_is(
    bench: Bench,
) -> None:
    world = bench.world
    for nth in range(3):
        await world.picture(encoding("Ada", HALF, 1), encoding("Ada", HALF, 2 if nth else 1))
    replica = bench.replica()
    await replica.step()
    old = await bench.groups()
    assert sorted(map(len, old.values())) == [2, 4]
    large, small = sorted(old, key=lambda one: -len(old[one]))
    bench.later()
    other = bench.replica()
    await other.step()
    await world.picture(*[encoding("Ada", SURE, nth) for nth in range(3, 9)])
    await other.step()
    assert list(await bench.groups()) == [large]
    rows = {row.id: row for row in await world.all(sa.select(face_groups))}
    assert (rows[small].merged_into, rows[small].size, rows[large].size) == (large, 0, 12)
    assert await bench.agrees(other)


async def test_one_replica_makes_groups_and_who_was_too_slow_writes_nothing(bench: Bench) -> None:
    world, one, other = bench.world, bench.replica(), bench.replica()
    await world.picture(encoding("Ada"))
    await one.step()
    await other.step()
    assert other._groups is None
    assert await bench.agrees(one)
    bench.later()
    await other.step()
    await world.picture(encoding("Ada", SURE, 1))
    await one.step()
    assert one._groups is None
    await other.step()
    assert await bench.agrees(other)
    await other.close()
    await one.step()
    assert await bench.agrees(one)


async def test_what_services_of_before_change_is_found_by_comparing_all(bench: Bench) -> None:
    world, replica = bench.world, bench.replica()
    images_of = [await world.picture(encoding("Ada", SURE, nth)) for nth in range(3)]
    await replica.step()
    await bench.delete(images_of[2])
    await world.picture(encoding("Ada", SURE, 9))
    await bench.name((images_of[0], 0), "Ada")
    await world.run(sa.delete(events))
    await replica.step()
    assert not await bench.agrees(replica)
    world.now += 1801
    await replica.step()
    assert await bench.agrees(replica)
    assert await bench.parts() == {frozenset({(images_of[1], 0), (4, 0)})}


async def test_who_is_struck_out_of_a_group_stays_out_of_it(bench: Bench) -> None:
    world = bench.world
    for nth in range(3):
        await world.picture(encoding("Ada", SURE, nth))
    replica = bench.replica()
    await replica.step()
    (its,) = await bench.groups()
    await bench.deny((2, 0))
    await replica.step()
    assert (await bench.groups())[its] == {(1, 0), (3, 0)}
    assert await bench.agrees(replica)
    bench.later()
    other = bench.replica()
    await other.step()
    await world.picture(encoding("Ada", SURE, 7))
    await other.step()
    assert (await bench.groups())[its] == {(1, 0), (3, 0), (4, 0)}
    assert (2, 0) in set().union(*(await bench.groups()).values())


async def test_a_face_that_is_another_by_now_is_placed_anew(bench: Bench) -> None:
    world, replica = bench.world, bench.replica()
    await world.picture(encoding("Ada"))
    await world.picture(encoding("Ada", SURE, 1))
    await replica.step()
    row = (await world.all(sa.select(faces).where(_is(faces, (2, 0)))))[0]._mapping
    await bench.change(
        2,
        sa.delete(faces).where(_is(faces, (2, 0))),
        sa.insert(faces).values(**row),
        sa.insert(face_encodings).values(
            image_id=2, face_index=0, engine=ENGINE.name, encoding=encoding("Bob")
        ),
    )
    await replica.step()
    assert await bench.parts() == {frozenset({(1, 0)}), frozenset({(2, 0)})}
    assert await bench.agrees(replica)


async def test_another_engine_s_groups_are_made_anew_and_old_addresses_lead_there(
    bench: Bench,
) -> None:
    world, replica = bench.world, bench.replica()
    for nth in range(3):
        await world.picture(encoding("Ada", SURE, nth))
    await replica.step()
    (old,) = await bench.groups()
    bench.engine = "test-2"
    for image in (1, 2):
        await bench.change(
            image,
            sa.insert(face_encodings).values(
                image_id=image, face_index=0, engine="test-2", encoding=encoding("Ada")
            ),
        )
    world.now += 15
    await replica.step()
    assert list(await bench.groups()) == [old], "replicas of face_recog may be being replaced"
    for _ in range(5):
        world.now += 15
        await replica.step()
    groups = await bench.groups()
    new = max(groups)
    assert groups == {new: {(1, 0), (2, 0)}, old: {(3, 0)}}
    rows = {row.id: row for row in await world.all(sa.select(face_groups))}
    assert (rows[old].size, rows[old].merged_into, rows[new].size) == (0, new, 2)
    bench.later()
    other = bench.replica()
    await other.step()
    await bench.change(
        3,
        sa.insert(face_encodings).values(
            image_id=3, face_index=0, engine="test-2", encoding=encoding("Ada", SURE, 2)
        ),
    )
    await other.step()
    assert await bench.groups() == {new: {(1, 0), (2, 0), (3, 0)}}
    assert await bench.agrees(other)


async def test_what_cannot_be_compared_is_in_no_group(bench: Bench) -> None:
    world, replica = bench.world, bench.replica()
    odd = [b"abcd", bytes(512), np.full(128, np.nan, "<f4").tobytes(), encoding("Ada")]
    await world.picture(*odd, encoding("Ada", SURE, 1), encoding("Ada", SURE, 2))
    await replica.step()
    await replica.step()
    assert await bench.parts() == {frozenset({(1, 3), (1, 4), (1, 5)})}


async def test_a_conflict_in_the_database_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = bench.replica()
    await bench.world.picture(encoding("Ada"))
    write, failures = replica._rows.write, 7

    async def fail(*arguments: Any) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise DatabaseConflictError
        await write(*arguments)

    monkeypatch.setattr(replica._rows, "write", fail)
    with pytest.raises(DatabaseUnavailableError):
        await replica.step()
    await replica.step()
    assert await bench.agrees(replica)
    assert len(await bench.groups()) == 1


async def two_alike(bench: Bench) -> Grouper:
    """Have two groups about which a person is asked: images 1 and 2, and 3 and 4."""
    for nth in (1, 1, 2, 2):
        await bench.world.picture(encoding("Ada", HALF, nth))
    replica = bench.replica()
    await replica.step()
    assert sorted(map(len, (await bench.groups()).values())) == [2, 2]
    return replica


async def test_two_groups_are_one_when_a_person_says_so(bench: Bench) -> None:
    replica = await two_alike(bench)
    (question,) = await bench.questions()
    assert question.person_id is None
    assert question.group_id < question.other_group_id
    await bench.questions(answer="yes")
    await replica.step()
    assert await bench.parts() == {frozenset((one, 0) for one in range(1, 5))}
    assert await bench.agrees(replica)
    assert await bench.questions() == []


async def test_a_yes_about_a_group_that_is_gone_is_forgotten(bench: Bench) -> None:
    replica = await two_alike(bench)
    await bench.delete(1)
    await bench.delete(2)
    await bench.questions(answer="yes")
    await replica.step()
    assert await bench.questions() == []
    assert await bench.agrees(replica)


async def test_no_is_never_asked_again_and_keeps_groups_apart(bench: Bench) -> None:
    replica = await two_alike(bench)
    groups = await bench.groups()
    await bench.no(*groups)
    for turn in range(2):
        # As alike to both of them, and before anybody has looked for answers.
        await bench.world.picture(*[encoding("Ada", 0.0, 9)] * 2)
        await replica.step()
        await replica.step()
        bench.later(31_000)
        await replica.step()
        assert len(await bench.groups()) == 2, turn
        assert groups.keys() == (await bench.groups()).keys()
        assert await bench.agrees(replica)
        assert [row.answer for row in await bench.questions()] == ["no"]
        bench.later()
        replica = bench.replica()
        await replica.step()


@pytest.mark.parametrize("answer", ["yes", "later"])
async def test_no_that_is_taken_back_keeps_nobody_apart(bench: Bench, answer: str) -> None:
    replica = await two_alike(bench)
    await bench.no(*await bench.groups())
    bench.later(31_000)
    await replica.step()
    await bench.take_back(answer)
    if answer == "later":
        bench.later(31_000)
    await replica.step()
    await replica.step()
    assert (len(await bench.groups()) == 1) == (answer == "yes")
    await bench.world.picture(*[encoding("Ada", 0.0, 9)] * 2)
    await replica.step()
    assert len(await bench.groups()) == 1
    assert await bench.agrees(replica)


async def test_no_about_two_groups_outlives_a_change_of_engine(bench: Bench) -> None:
    """Of which all faces are alike to the new one, in whatever order they get its encodings."""
    replica = await two_alike(bench)
    old = await bench.groups()
    one, other = old.values()
    await bench.no(*old)
    await bench.settle(replica, "test-2")
    for image in (3, 1, 2, 4):
        await bench.encode(image, "test-2", encoding("Ada", SURE, image))
        await replica.step()
        await replica.close()
        replica = bench.replica()
        await replica.step()
    await bench.world.picture(encoding("Ada", SURE, 9), engine="test-2")
    await replica.step()
    parts = await bench.parts()
    assert len(parts) == 2
    assert all(len(part & one) * len(part & other) == 0 for part in parts)
    assert await bench.agrees(replica)
    for address, its in old.items():
        assert (await bench.groups())[await bench.current(address)] >= its
    bench.later(31_000)
    await replica.step()
    assert [row.answer for row in await bench.questions()] == ["no"]


async def test_who_is_struck_out_stays_out_after_a_change_of_engine(bench: Bench) -> None:
    for nth in range(4):
        await bench.world.picture(encoding("Ada", SURE, nth))
    replica = bench.replica()
    await replica.step()
    await bench.deny((2, 0))
    await replica.step()
    await bench.settle(replica, "test-2")
    for image in (2, 1, 4, 3):
        await bench.encode(image, "test-2", encoding("Ada", SURE, image))
        await replica.step()
    assert await bench.parts() == {frozenset({(2, 0)}), frozenset({(1, 0), (3, 0), (4, 0)})}
    assert await bench.agrees(replica)


async def test_what_is_where_a_person_has_said_it_is_not_is_put_elsewhere(bench: Bench) -> None:
    for nth in range(3):
        await bench.world.picture(encoding("Ada", SURE, nth))
    replica = bench.replica()
    await replica.step()
    (its,) = await bench.groups()
    denial = {"image_id": 2, "face_index": 0, "group_id": its, "created_at": 0}
    await bench.world.run(sa.insert(group_denials).values(denial))
    await replica.close()
    replica = bench.replica()
    await replica.step()
    assert (await bench.groups())[its] == {(1, 0), (3, 0)}
    assert await bench.agrees(replica)


async def test_all_is_loaded_anew_only_when_memory_may_be_other_than_the_rows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = bench.replica()
    await bench.world.picture(encoding("Ada"))
    await replica.step()

    async def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    for owner, method, failing, kept, told in (
        (replica._rows, "unknown", fail, True, "groups stay in memory"),
        (replica._rows, "questions", fail, True, "groups stay in memory"),
        (replica._rows, "write", fail, False, "failed: writing"),
        (grouping, "regroup", fails, False, "failed: putting"),
    ):
        memory = replica._groups
        await bench.world.picture(encoding("Ada", SURE, 1))
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr(owner, method, failing)
            with pytest.raises(RuntimeError):
                await replica.step()
        await replica.step()
        assert (replica._groups is memory) == kept
        assert any(told in f"{line['event']} {line.get('why')}" for line in logs)
        assert await bench.agrees(replica)


async def test_later_is_asked_again_a_day_after(bench: Bench) -> None:
    replica = await two_alike(bench)
    await bench.questions(answer="later")
    for wait, answer in ((31_000, "later"), (LATER_MS, None)):
        bench.later(wait)
        await replica.step()
        assert [row.answer for row in await bench.questions()] == [answer]


async def test_people_are_asked_about_but_not_those_who_are_hidden_or_denied(bench: Bench) -> None:
    world = bench.world
    ada, bob, eve = [await world.person(name) for name in ("Ada", "Bob", "Eve")]
    for name, person_id in (("Ada", ada), ("Bob", bob), ("Eve", eve)):
        said = {"person": name, "person_id": person_id, "decided_by": "hand"}
        await world.picture(encoding(name, HALF, 1), faces_are=[said])
        await world.picture(encoding(name, HALF, 2))
    await world.run(sa.update(persons).where(persons.c.id == bob).values(hidden=True))
    replica = bench.replica()
    await replica.step()
    assert {row.person_id for row in await bench.questions()} == {ada, eve}
    await world.deny(6, 0, "Eve")
    bench.later(31_000)
    await replica.step()
    assert [row.person_id for row in await bench.questions()] == [ada]
    await bench.name((2, 0), "Ada")
    bench.later(31_000)
    await replica.step()
    assert await bench.questions() == []


async def test_no_more_is_asked_than_a_person_reads(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "_OPEN", 3)
    for name in "abcdef":
        await bench.world.picture(encoding(name, HALF, 1), encoding(name, HALF, 2))
    await bench.replica().step()
    found = await bench.questions()
    assert len(found) == 3
    assert all(row.likeness > 0.9 for row in found)


@asynccontextmanager
async def stored(folder: Path) -> AsyncIterator[Bench]:
    settings = DatabaseSettings(database_url=f"sqlite+aiosqlite:///{folder / 'facestack.db'}")
    database = Database(settings)
    yield Bench(database)
    await database.close()


async def prepare(bench: Bench) -> None:
    """Groups that are made, one that changes, and a question that is answered."""
    world = bench.world
    for nth in range(3):
        await world.picture(encoding("Ada", SURE, nth), encoding("Bob", SURE, nth))
    for nth in (1, 1, 2, 2):
        await world.picture(encoding("Eve", HALF, nth))
    replica = bench.replica()
    await replica.step()
    await bench.questions(answer="yes")
    await world.picture(encoding("Ada", SURE, 7), encoding("Zoe", SURE, 7))
    await bench.deny((1, 1))
    await bench.name((2, 0), "Ada")
    await bench.delete(3)
    await replica.close()


_AFTER: Final = {
    frozenset({(1, 0), (8, 0)}),
    frozenset({(2, 1)}),
    frozenset({(1, 1)}),
    frozenset({(8, 1)}),
    frozenset({(4, 0), (5, 0), (6, 0), (7, 0)}),
}


async def test_killed_at_any_statement_another_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "LOADED", 3)
    start = tmp_path / "start"
    start.mkdir()
    migrate(DatabaseSettings(database_url=f"sqlite+aiosqlite:///{start / 'facestack.db'}"))
    async with stored(start) as bench:
        await prepare(bench)
        before = await bench.groups()
    for statement in range(1, 1000):
        folder = tmp_path / str(statement)
        shutil.copytree(start, folder)
        async with stored(folder) as bench:
            killed = await killed_at(bench, folder, statement)
            bench.later()
            other = bench.replica()
            await other.step()
            assert await bench.parts() == _AFTER
            assert await bench.agrees(other)
            assert (1, 0) in before[next(iter(before))]
            assert (1, 0) in (await bench.groups())[next(iter(before))]
            assert await bench.questions() == []
        shutil.rmtree(folder)
        if not killed:
            assert statement > 50
            return


async def killed_at(bench: Bench, folder: Path, statement: int) -> bool:
    """Let a replica work until its nth statement; return whether it came so far."""
    one = Database(DatabaseSettings(database_url=f"sqlite+aiosqlite:///{folder / 'facestack.db'}"))
    kill_at(one, statement)
    try:
        await bench.replica(one).step()
    except KilledError:
        return True
    finally:
        await one.close()
    return False


_PEOPLE: Final = "Ada", "Bob", "Eve"
_DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("picture"), st.lists(st.sampled_from(_PEOPLE), max_size=3)),
        st.tuples(
            st.sampled_from(["name", "unname", "strike", "delete"]),
            st.tuples(st.integers(1, 6), st.integers(0, 2)),
        ),
        st.tuples(st.sampled_from(["step", "other", "restart", "compare"]), st.none()),
    ),
    max_size=25,
)


@given(_DEEDS)
@hypothesis.settings(max_examples=25, deadline=None)
def test_the_tables_say_what_the_faces_make(deeds: list[tuple[str, Any]]) -> None:
    asyncio.run(_do(deeds))


async def _do(deeds: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        migrate(DatabaseSettings(database_url=f"sqlite+aiosqlite:///{folder / 'facestack.db'}"))
        async with stored(folder) as bench:
            replicas = [bench.replica(), bench.replica()]
            who: dict[Key, str] = {}
            for deed, what in deeds:
                await _one(bench, replicas, who, deed, what)
            bench.later()
            await replicas[0].step()
            if replicas[0]._claim is None:
                await replicas[1].step()
                replicas.reverse()
            unknown = await bench.world.all(
                sa.select(faces).where(faces.c.person.is_(None), ~faces.c.struck_out)
            )
            expected = defaultdict[str, set[Key]](set)
            for row in unknown:
                expected[who[row.image_id, row.face_index]].add((row.image_id, row.face_index))
            assert await bench.parts() == {frozenset(its) for its in expected.values()}
            assert await bench.agrees(replicas[0])


async def _one(
    bench: Bench, replicas: list[Grouper], who: dict[Key, str], deed: str, what: Any
) -> None:
    match deed:
        case "picture":
            encodings = [encoding(name, SURE, len(who) + nth) for nth, name in enumerate(what)]
            image = await bench.world.picture(*encodings)
            who |= {(image, nth): name for nth, name in enumerate(what)}
        case "name":
            await bench.name(what, "somebody")
        case "unname":
            await bench.name(what, None)
        case "strike":
            await bench.strike(what)
        case "delete":
            await bench.delete(what[0])
        case "step":
            await replicas[0].step()
        case "other":
            bench.later()
            await replicas[1].step()
        case "restart":
            await replicas[0].close()
            replicas[0] = bench.replica()
        case _:
            bench.world.now += 1801


class Apart:
    """Faces that hands have said are not in one group, whatever becomes of the groups."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.chance = random.Random(seed)
        self.replica = bench.replica()
        self.pairs: set[frozenset[Key]] = set()
        self.images = 0

    async def turn(self) -> None:
        deeds = [self.picture, self.picture, self.no, self.strike, self.encode, self.encode]
        await self.chance.choice([*deeds, self.change_engine, self.restart, self.kill])()
        if self.chance.random() < 0.7:
            await self.replica.step()

    def encoding(self) -> bytes:
        """Of few people, who are alike to some engines."""
        return encoding(self.chance.choice("aab"), self.chance.choice([SURE, HALF]), self.images)

    async def picture(self) -> None:
        self.images += 1
        await self.bench.world.picture(self.encoding(), engine=self.bench.engine)

    async def encode(self) -> None:
        """Have a picture of before encoded by the engine of now."""
        query = sa.select(face_encodings.c.image_id).where(
            face_encodings.c.engine == self.bench.engine
        )
        done = {row.image_id for row in await self.bench.world.all(query)}
        left = [image for image in range(1, self.images + 1) if image not in done]
        for image in left[:3]:
            await self.bench.encode(image, self.bench.engine, self.encoding())

    async def shown(self) -> dict[int, set[Key]]:
        sizes = sa.select(face_groups.c.id).where(face_groups.c.size > 0)
        there = {row.id for row in await self.bench.world.all(sizes)}
        return {one: its for one, its in (await self.bench.groups()).items() if one in there}

    async def no(self) -> None:
        groups = await self.shown()
        if len(groups) > 1:
            one, other = self.chance.sample(sorted(groups), 2)
            await self.bench.no(one, other)
            self.pairs |= {frozenset({a, b}) for a in groups[one] for b in groups[other]}

    async def strike(self) -> None:
        groups = [its for its in (await self.shown()).values() if len(its) > 1]
        if groups:
            its = self.chance.choice(groups)
            key = self.chance.choice(sorted(its))
            await self.bench.deny(key)
            # Another who was struck out of the same group may be the same person.
            self.pairs = {pair for pair in self.pairs if key not in pair}
            self.pairs |= {frozenset({key, other}) for other in its - {key}}

    async def change_engine(self) -> None:
        await self.bench.settle(self.replica, f"test-{self.chance.randrange(3)}")

    async def restart(self) -> None:
        await self.replica.close()
        self.replica = self.bench.replica()

    async def kill(self) -> None:
        """Go on with another, whose predecessor has not written what it found."""
        await self.picture()

        async def killed(*_: Any) -> None:
            raise KilledError

        with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
            patch.setattr(self.replica._rows, "write", killed)
            await self.replica.step()
        self.bench.later()
        self.replica = self.bench.replica()

    async def check(self) -> None:
        for group, its in (await self.shown()).items():
            together = {frozenset(pair) for pair in itertools.combinations(sorted(its), 2)}
            assert not together & self.pairs, group


@pytest.mark.parametrize("seed", range(6))
async def test_what_hands_have_said_is_apart_is_never_put_together(bench: Bench, seed: int) -> None:
    apart = Apart(bench, seed)
    for _ in range(40):
        await apart.turn()
        await apart.check()
    await apart.restart()
    await apart.replica.step()
    await apart.check()
    assert apart.pairs


async def test_who_is_not_given_an_id_twice(bench: Bench) -> None:
    replica = bench.replica()
    await bench.world.picture(encoding("Ada"))
    await replica.step()
    (first,) = await bench.groups()
    await bench.delete(1)
    await replica.step()
    bench.later()
    replica = bench.replica()
    await bench.world.picture(encoding("Bob"))
    await replica.step()
    (second,) = await bench.groups()
    assert second > first
    assert [row.engine for row in await bench.world.all(sa.select(group_work))] == [ENGINE.name]
