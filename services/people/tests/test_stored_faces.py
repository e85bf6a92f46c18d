"""What is in memory is what is in the database, whenever its changes are seen."""

from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from services.common.clock import database_now
from services.common.database import Database
from services.common.tables import events, face_encodings, images
from services.people.adapters.index import ExactIndex
from services.people.adapters.rows import DatabaseRows
from services.people.service import NotLoadedError, StoredFaces
from services.people.tests.conftest import ENGINE, World, encoding


def held(index: ExactIndex) -> list[tuple[int, tuple[float, ...]]]:
    """Return what is in an index: what is near to anything, from one side or the other."""
    size = index._size // 4
    if not size:
        return []
    ones = np.zeros(size, np.float32)
    found, contents = index.nearer(ones, -1.0)
    return sorted((int(one), content(it)) for one, it in zip(found, contents, strict=True))


def content(one: bytes) -> tuple[float, ...]:
    numbers = np.frombuffer(one, "<f4")
    return tuple(np.round(numbers / np.linalg.norm(numbers), 2).tolist())


def of(number: int) -> bytes:
    return np.random.default_rng(number).normal(size=4).astype("<f4").tobytes()


_BATCHES = st.lists(
    st.tuples(
        st.sets(st.integers(1, 12), max_size=5),
        st.lists(st.tuples(st.integers(1, 12), st.integers(0, 99)), max_size=9),
    ),
    max_size=12,
)


@given(_BATCHES)
@hypothesis.example([({1}, [(1, n) for n in range(9)]), ({1}, [(1, 5)]), (set(), [(2, 3)])])
def test_an_index_holds_what_was_put_in_last(
    batches: list[tuple[set[int], list[tuple[int, int]]]],
) -> None:
    index = ExactIndex()
    model: dict[int, list[bytes]] = {}
    for gone, rows in batches:
        index.replace(sorted(gone), [(image, of(number)) for image, number in rows])
        for image in gone:
            model.pop(image, None)
        for image, number in rows:
            model.setdefault(image, []).append(of(number))
        expected = sorted((image, content(it)) for image, its in model.items() for it in its)
        assert held(index) == expected
        assert len(index) == len(expected)
        assert index.images_between(3, 8).tolist() == sorted(
            image for image in model if 3 < image <= 8
        )


def test_what_cannot_be_compared_is_left_out() -> None:
    index = ExactIndex()
    broken = [b"", b"12", bytes(16), np.full(4, np.nan, "<f4").tobytes(), b"12345678"]
    index.replace([], [(1, of(1)), *((2, one) for one in broken), (3, of(3))])
    assert [image for image, _ in held(index)] == [1, 3]


def test_the_nearest_are_found_among_many() -> None:
    drawing = np.random.default_rng(1)
    vectors = drawing.normal(size=(20_000, 8)).astype("<f4")
    index = ExactIndex()
    for start in range(0, 20_000, 3_000):
        rows = [
            (number, vectors[number].tobytes())
            for number in range(start, min(start + 3_000, 20_000))
        ]
        index.replace([], rows)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found, _ = index.nearer(units[7], 0.9)
    assert found.tolist() == np.flatnonzero(units @ units[7] >= 0.9).tolist()
    assert len(found) > 10
    assert index.nearer(np.ones(4, np.float32), 0.0)[0].tolist() == []  # of another engine


class Bench:
    """Stored faces of a world, as one process has them."""

    def __init__(self, world: World, rows: DatabaseRows | None = None) -> None:
        self.index = ExactIndex()
        self.faces = StoredFaces(rows or world.rows(), self.index, clock=lambda: world.now)
        self._world = world

    async def agrees(self, engine: str = ENGINE.name) -> bool:
        rows = await self._world.all(
            sa.select(face_encodings).where(face_encodings.c.engine == engine)
        )
        return held(self.index) == sorted((row.image_id, content(row.encoding)) for row in rows)


async def test_all_are_loaded_then_what_changes_is_followed(world: World) -> None:
    first = await world.picture(encoding("Ada"), encoding("Bob"))
    bench = Bench(world)
    with pytest.raises(NotLoadedError):
        await bench.faces.check()
    await bench.faces.follow()
    await bench.faces.check()
    assert await bench.agrees()
    assert len(bench.index) == 2
    await world.picture(encoding("Eve"))
    await bench.faces.follow()
    assert await bench.agrees()
    async with world.database.transaction() as connection:
        await connection.execute(sa.delete(images).where(images.c.id == first))
        await connection.execute(
            sa.insert(events).values(kind="image", subject_id=first, created_at=0)
        )
    await bench.faces.follow()
    assert await bench.agrees()
    assert len(bench.index) == 1


async def test_an_empty_database_is_loaded_at_once_and_learns_its_engine(world: World) -> None:
    bench = Bench(world)
    await bench.faces.follow()
    await bench.faces.check()
    await world.picture(encoding("Ada"))
    await bench.faces.follow()
    assert len(bench.index) == 1


async def test_another_engine_s_are_loaded_when_it_decides(world: World) -> None:
    await world.picture(encoding("Ada"))
    await world.picture(encoding("Bob"), encoding("Eve"), engine="other")
    bench = Bench(world)
    await bench.faces.follow()
    assert await bench.agrees("other"), "the newest result tells"
    await bench.faces.follow(ENGINE.name)
    assert await bench.agrees()
    await world.picture(encoding("Zoe"), engine="other")
    await bench.faces.follow()
    assert await bench.agrees(), "only who decides tells any more"


async def test_nothing_is_missed_in_an_hour_without_a_look(world: World) -> None:
    bench = Bench(world)
    await bench.faces.follow()
    await world.picture(encoding("Ada"))
    await world.run(sa.delete(events))
    world.now += 3_600
    await bench.faces.follow()
    assert await bench.agrees()
    assert len(bench.index) == 1


class LateRows(DatabaseRows):
    """Events of these ids are not to be seen yet, nor what they tell of."""

    def __init__(self, database: Database, hidden: set[int]) -> None:
        super().__init__(database, database_now)
        self.hidden = hidden

    async def newest_event(self) -> int:
        return max((one for one, _ in await self.events(0)), default=0)

    async def events(self, after: int, **limits: Any) -> list[tuple[int, int | None]]:
        return [row for row in await super().events(after, **limits) if row[0] not in self.hidden]

    async def _encodings(self, which: Any, engine: str) -> list[tuple[int, bytes]]:
        hidden = set(
            await self.scalars(sa.select(events.c.subject_id).where(events.c.id.in_(self.hidden)))
        )
        return [row for row in await super()._encodings(which, engine) if row[0] not in hidden]

    async def scalars(self, query: Any) -> list[int]:
        async with self._database.reading() as connection:
            return list(await connection.scalars(query))


@pytest.mark.parametrize("seed", range(8))
async def test_events_that_are_seen_late_are_not_missed(
    sqlite_settings: Any, tmp_path: Path, seed: int
) -> None:
    """Their transactions end in any order, some are open at the start, some end in nothing."""
    drawing = np.random.default_rng(seed)
    database = Database(sqlite_settings)
    rows = LateRows(database, set())
    world = World(database, None)  # type: ignore[arg-type]
    bench = Bench(world, rows)
    count = 0
    since: dict[int, float] = {}
    for _ in range(30):
        for _ in range(drawing.integers(0, 4)):
            await world.picture(encoding("Ada", nth=count))
            count += 1
            if drawing.random() < 0.5:
                rows.hidden.add(count)
                since[count] = world.now
            if drawing.random() < 0.1:
                await world.run(sa.delete(images).where(images.c.id == count))
                await world.run(sa.delete(events).where(events.c.id == count))
        await bench.faces.follow()
        world.now += float(drawing.choice([0.5, 20.0]))
        # Nobody's is open for longer than a minute.
        rows.hidden = {
            one for one in rows.hidden if drawing.random() < 0.7 and world.now - since[one] < 40
        }
    rows.hidden.clear()
    await bench.faces.follow()
    assert await bench.agrees()
    world.now += 100
    await bench.faces.follow()
    assert not bench.faces._seen, "what was seen long ago is not looked for again"
    await database.close()
