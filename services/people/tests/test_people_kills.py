"""Whoever is killed, at any statement, is followed by another; hands are never contradicted."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from services.common.claims import LEASE_MS
from services.common.database import Database
from services.common.settings import DatabaseSettings
from services.common.tables import face_denials, faces, persons
from services.migrations.__main__ import migrate
from services.people.service import deciding
from services.people.tests.world import SURE, UNSURE, World, encoding, new_world


class KilledError(Exception):
    """In place of SIGKILL: what was committed stays, the rest was never done."""


def kill_at(database: Database, statement: int) -> None:
    """Let the nth statement from now on, and all after it, fail."""
    seen = 0

    def count(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen >= statement:
            raise KilledError

    sa.event.listen(database._engine.sync_engine, "before_cursor_execute", count)


@asynccontextmanager
async def fresh(folder: Path) -> AsyncIterator[World]:
    """Several batches of pictures in which Ada is to be named, and one to be taken back."""
    settings = DatabaseSettings(database_url=f"sqlite+aiosqlite:///{folder / 'facestack.db'}")
    database = Database(settings)
    async with new_world(database, folder / "store") as world:
        yield world
    await database.close()


async def prepare(world: World) -> None:
    await world.enrol("Bob")
    for nth in range(4):
        await world.picture(encoding("Ada", SURE, nth), encoding("Bob", SURE, nth))
    await world.picture(encoding("Ada", UNSURE))
    await world.picture(
        encoding("Ada"), faces_are=[{"person": "Eve", "distance": None, "decided_by": "hand"}]
    )
    while await world.worker().step():
        pass
    await world.remove("Bob")
    await world.enrol("Ada")  # in one pass: a second one would make up for what the first missed


async def finish(world: World) -> dict[tuple[int, int], SimpleNamespace]:
    """Let somebody else do what is left, and return what came of it."""
    for _ in range(4):
        world.offset += LEASE_MS + 1
        while await world.worker().step():
            pass
    assert not await world.left()
    return await world.faces()


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "BATCH", 2)


@pytest.mark.usefixtures("small_batches")
async def test_killed_at_any_statement_another_goes_on(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    migrate(DatabaseSettings(database_url=f"sqlite+aiosqlite:///{start / 'facestack.db'}"))
    async with fresh(start) as world:
        await prepare(world)
    undisturbed: Any = None
    for statement in range(0, 1000, 3):
        folder = tmp_path / str(statement)
        shutil.copytree(start, folder)
        async with fresh(folder) as world:
            ended = statement > 0 and await killed_at(world, folder, statement)
            result = await finish(world)
        shutil.rmtree(folder)
        undisturbed = undisturbed or result
        assert result == undisturbed
        names = [face.person for face in result.values()]
        assert (names.count("Ada"), names.count("Eve")) == (4, 1)
        if statement and not ended:
            assert statement > 40
            return


async def killed_at(world: World, folder: Path, statement: int) -> bool:
    """Let a worker work until its nth statement; return whether it came so far."""
    one = Database(DatabaseSettings(database_url=f"sqlite+aiosqlite:///{folder / 'facestack.db'}"))
    kill_at(one, statement)
    killed = world.worker(world.rows(one))
    try:
        while await killed.step():
            pass
    except KilledError:
        return True
    finally:
        await one.close()
    return False


_HANDS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(0, 1),
        st.sampled_from(["Ada", "Bob", "nobody", "not Ada", "not Bob"]),
        st.integers(0, 40),
    ),
    max_size=6,
)


@given(_HANDS)
@hypothesis.settings(max_examples=12)
def test_whatever_hands_say_meanwhile_is_what_is_said(hands: Any) -> None:
    asyncio.run(_hands(hands))


async def _hands(hands: list[tuple[int, int, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        migrate(DatabaseSettings(database_url=f"sqlite+aiosqlite:///{folder / 'facestack.db'}"))
        async with fresh(folder) as world:
            for nth in range(6):
                await world.picture(encoding("Ada", SURE, nth), encoding("Bob", SURE, nth))
            await world.enrol("Ada", passes=2)
            await world.enrol("Bob", passes=2)
            said: dict[tuple[int, int], str] = {}
            rows = world.rows()
            disturb(rows, world, hands, said)
            for _ in range(4):
                while await world.worker(rows).step():
                    pass
                world.offset += LEASE_MS
            result = await world.faces()
    for key, face in result.items():
        word = said.get(key, "")
        if word.startswith("not "):
            assert face.person != word.removeprefix("not ")
        elif word:
            assert face.person == (None if word == "nobody" else word)
            assert face.decided_by == "hand"
        elif (key[0], 1 - key[1]) not in said:
            assert face.person == ("Ada", "Bob")[key[1]]
    for image in range(1, 7):
        one, other = result[image, 0], result[image, 1]
        if one.person and one.person == other.person:
            assert {one.decided_by, other.decided_by} == {"hand"}


def disturb(rows: Any, world: World, hands: Any, said: dict[tuple[int, int], str]) -> None:
    """Let each hand say something before the nth call."""
    calls = 0

    def disturbed(action: Any) -> Any:
        async def call(*arguments: Any) -> Any:
            nonlocal calls
            for image, index, word, at in hands:
                if at == calls:
                    await say(world, image + 1, index, word)
                    said[image + 1, index] = word
            calls += 1
            return await action(*arguments)

        return call

    for one in ("claim", "touched", "pictures", "whose", "write", "end_pass", "rename"):
        setattr(rows, one, disturbed(getattr(rows, one)))


async def say(world: World, image_id: int, index: int, word: str) -> None:
    """Do as the receiver does when a hand says something of a face."""
    its = sa.update(faces).where(faces.c.image_id == image_id, faces.c.face_index == index)
    if word.startswith("not "):
        name = word.removeprefix("not ")
        found = await world.all(
            sa.select(face_denials)
            .join(persons, persons.c.id == face_denials.c.person_id)
            .where(
                persons.c.name == name,
                face_denials.c.image_id == image_id,
                face_denials.c.face_index == index,
            )
        )
        await world.run(
            its.where(faces.c.person == name).values(
                person=None, person_id=None, distance=None, decided_by="machine"
            )
        )
        if not found:
            await world.deny(image_id, index, name)
        return
    named = {"decided_by": "hand", "distance": None, "ambiguous": False}
    if word == "nobody":
        await world.run(its.values(person=None, person_id=None, **named))
        return
    person_id = await world.person(word)
    await world.run(its.values(person=word, person_id=person_id, **named))
    await world.work(word)
