"""What is in memory is what is in the database, whenever its changes are seen."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

import hypothesis
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from services.common.clock import database_now
from services.common.database import Database
from services.common.errors import DatabaseUnavailableError, OtherEngineError, StoredFacesAwayError
from services.common.tables import events, face_encodings, images
from services.people.adapters.rows import DatabaseStoredFaces
from services.people.domain import index as index_module
from services.people.domain.index import ExactIndex, Found
from services.people.service import stored_faces
from services.people.service.stored_faces import StoredFaces
from services.people.tests.world import ENGINE, World, encoding
from services.testing.waiting import eventually


def held(index: ExactIndex) -> list[tuple[int, tuple[float, ...]]]:
    """Return what is in an index: what is near to anything, from one side or the other."""
    return sorted(
        (int(one), content(it))
        for size in index._by_size
        for one, it in zip(*index.nearer(np.zeros(size // 4, np.float32), -1.0), strict=True)
    )


def content(one: bytes) -> tuple[float, ...]:
    numbers = np.frombuffer(one, "<f4")
    return tuple(np.round(numbers / np.linalg.norm(numbers), 2).tolist())


def of(number: int) -> bytes:
    """Return one of 16 bytes, or of 8 when damaged: every fifth."""
    numbers = 4 if number % 5 else 2
    return np.random.default_rng(number).normal(size=numbers).astype("<f4").tobytes()


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
        index.replace(sorted(gone), [(image, 0, of(number)) for image, number in rows])
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
    broken = [b"", b"12", bytes(16), np.full(4, np.nan, "<f4").tobytes(), b"1234" * 4097]
    index.replace([], [(1, 0, of(1)), *((2, 0, one) for one in broken), (3, 0, of(3))])
    assert [image for image, _ in held(index)] == [1, 3]


@pytest.mark.parametrize("first", [[], [of(0)], [of(0), of(5), of(1)]])
def test_the_first_ones_do_not_say_what_size_the_others_have(first: list[bytes]) -> None:
    index = ExactIndex()
    index.replace([], [(number, 0, one) for number, one in enumerate(first, 1)])
    for number in (11, 12, 13):
        index.replace([], [(number, 0, of(number))])
    assert index.size == 16
    wanted = np.frombuffer(of(12), "<f4")
    assert index.nearest(wanted, 1)[0][:2] == (12, 0)
    assert {11, 12, 13} <= set(index.nearer(wanted, -100.0)[0].tolist())
    assert len(index) == len(first) + 3
    index.replace(range(1, 14), [])
    assert (len(index), index.size) == (0, 0)


_FILL: Final = """
import numpy as np
from services.people.domain.index import ExactIndex, Found
from services.testing.memory import peak_kib

index = ExactIndex()
numbers = np.random.default_rng(1).normal(size=(1000, 128)).astype("<f4")
batch = [one.tobytes() for one in numbers]
index.replace([], [(0, 0, one) for one in batch])
before = peak_kib()
for image in range(1, 200):
    index.replace([], [(image, 0, one) for one in batch])
print((peak_kib() - before) * 1024 / (199_000 * 528))
"""


def test_it_grows_without_a_second_copy() -> None:
    done = subprocess.run([sys.executable, "-c", _FILL], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 1.3, "times what the faces themselves take"


def test_the_nearest_are_found_among_many() -> None:
    drawing = np.random.default_rng(1)
    vectors = drawing.normal(size=(20_000, 8)).astype("<f4")
    index = ExactIndex()
    for start in range(0, 20_000, 3_000):
        rows = [
            (number, 0, vectors[number].tobytes())
            for number in range(start, min(start + 3_000, 20_000))
        ]
        index.replace([], rows)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found, _ = index.nearer(units[7], 0.9)
    assert found.tolist() == np.flatnonzero(units @ units[7] >= 0.9).tolist()
    assert len(found) > 10
    assert index.nearer(np.ones(4, np.float32), 0.0)[0].tolist() == []  # of another engine


def test_the_nearest_are_those_that_a_look_at_each_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_BLOCK", 700)
    drawing = np.random.default_rng(1)
    vectors = drawing.normal(size=(3_000, 8)).astype("<f4")
    vectors[9] = 2 * vectors[2_500]  # as near as one of another block
    wanted = 3 * vectors[9]
    index = ExactIndex()
    index.replace(
        [], [(number // 2, number % 2, one.tobytes()) for number, one in enumerate(vectors)]
    )
    left = list(range(3_000))
    for gone in ([], [3, 700, 1_499], list(range(20, 1_400))):
        index.replace(gone, [])
        left = [number for number in left if number // 2 not in gone]
        units = vectors[left] / np.linalg.norm(vectors[left], axis=1, keepdims=True)
        for most in (1, 40, 5_000):
            distances = np.linalg.norm(units - wanted / np.linalg.norm(wanted), axis=1)
            order = np.argsort(distances, kind="stable")[:most]
            found = index.nearest(wanted, most)
            np.testing.assert_allclose([one.distance for one in found], distances[order], atol=1e-6)
            assert len(set(found)) == len(order)
            assert {(left[one] // 2, left[one] % 2) for one in order[:most]} >= {
                (one.image_id, one.face_index)
                for one in found
                if one.distance < distances[order[-1]]
            }
    assert index.nearest(wanted, 1)[0][:2] == (4, 1)
    assert ExactIndex().nearest(wanted, 5) == []


class Bench:
    """Stored faces of a world, as one process has them."""

    def __init__(self, world: World, rows: DatabaseStoredFaces | None = None) -> None:
        self.faces = StoredFaces(rows or world.rows(), clock=lambda: world.now)
        self.index = self.faces._index
        self._world = world

    async def agrees(self, engine: str = ENGINE.name) -> bool:
        rows = await self._world.all(
            sa.select(face_encodings).where(face_encodings.c.engine == engine)
        )
        return held(self.index) == sorted((row.image_id, content(row.encoding)) for row in rows)


async def test_all_are_loaded_then_what_changes_is_followed(world: World) -> None:
    first = await world.picture(encoding("Ada"), encoding("Bob"))
    bench = Bench(world)
    with pytest.raises(StoredFacesAwayError):
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


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_damaged_one_that_comes_first_hides_no_others(world: World, at_once: bool) -> None:
    bench = Bench(world)
    await world.picture(encoding("Ada")[:256])
    if not at_once:
        await bench.faces.follow()
    seen = [await world.picture(encoding(one)) for one in ("Bob", "Eve")]
    await bench.faces.follow()
    found, _ = await bench.faces.nearer(np.ones(128, np.float32), -100.0)
    assert found.tolist() == seen
    assert (await bench.faces.nearest(ENGINE.name, encoding("Eve"), 1))[0].image_id == seen[1]
    assert bench.faces.size == 512


async def test_an_engine_of_another_size_takes_the_place(world: World) -> None:
    await world.picture(encoding("Ada"), encoding("Bob"))
    bench = Bench(world)
    await bench.faces.follow()
    await world.picture(encoding("Eve")[:256], engine="small")
    await bench.faces.follow("small")
    assert await bench.agrees("small")
    assert (bench.faces.size, len(bench.index)) == (256, 1)


async def test_faces_are_looked_for_among_those_of_one_engine(world: World) -> None:
    bench = Bench(world)
    with pytest.raises(StoredFacesAwayError):
        await bench.faces.nearest(ENGINE.name, encoding("Ada"), 9)
    await bench.faces.follow()
    assert await bench.faces.nearest(ENGINE.name, encoding("Ada"), 9) == [], "there is none yet"
    await world.picture(encoding("Ada"), encoding("Bob"))
    other = await world.picture(encoding("Ada", nth=1))
    await bench.faces.follow()
    found = await bench.faces.nearest(ENGINE.name, encoding("Ada"), 2)
    assert [one[:2] for one in found] == [(1, 0), (other, 0)]
    assert found[0].distance < 1e-4 < found[1].distance
    with pytest.raises(ValueError, match="64 numbers, where stored ones have 128"):
        await bench.faces.nearest(ENGINE.name, encoding("Ada")[:256], 2)


class NotedLock:
    """A lock that says how often it was asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.asked += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


async def test_a_search_whose_caller_has_gone_is_over_before_what_it_reads_is_moved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.picture(encoding("Ada"))
    faces = StoredFaces(world.rows())
    await faces.follow()
    faces._in_thread = turns = NotedLock()  # type: ignore[assignment]
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []
    replace = faces._index.replace

    def nearest(*_: Any) -> list[Found]:
        begun.set()
        go_on.wait()
        order.append("searched")
        return []

    def replaced(*arguments: Any) -> None:
        order.append("replaced")
        replace(*arguments)

    monkeypatch.setattr(faces._index, "nearest", nearest)
    monkeypatch.setattr(faces._index, "replace", replaced)
    search = asyncio.create_task(faces.nearest(ENGINE.name, encoding("Ada"), 1))
    await asyncio.to_thread(begun.wait)
    search.cancel()
    await asyncio.gather(search, return_exceptions=True)
    await world.picture(encoding("Bob"))
    following = asyncio.create_task(faces.follow())
    await eventually(lambda: order or turns.asked == 2)
    go_on.set()
    await following
    assert order == ["searched", "replaced"]


async def test_another_engine_s_are_loaded_when_they_alone_are_looked_for(world: World) -> None:
    await world.picture(encoding("Ada"))
    bench = Bench(world)
    await bench.faces.follow()
    await world.picture(encoding("Eve"), engine="other")

    async def look(engine: str) -> None:
        await bench.faces.nearest(engine, encoding("Eve"), 9)

    with pytest.raises(OtherEngineError):
        await look("other")
    world.now += 8
    await look(ENGINE.name)  # as in a rollout, in which replicas of either answer
    with pytest.raises(OtherEngineError):
        await look("other")
    world.now += 8
    await bench.faces.follow()
    assert await bench.agrees()
    world.now += 8
    await bench.faces.follow()
    assert await bench.agrees("other")
    await look("other")


async def test_nothing_is_missed_in_an_hour_without_a_look(world: World) -> None:
    bench = Bench(world)
    await bench.faces.follow()
    await world.picture(encoding("Ada"))
    await world.run(sa.delete(events))
    world.now += 3_600
    await bench.faces.follow()
    assert await bench.agrees()
    assert len(bench.index) == 1


class LateRows(DatabaseStoredFaces):
    """Encodings of these images are not to be seen yet."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, database_now)
        self.hidden: dict[int, float] = {}

    async def encodings(self, images: Any, engine: str) -> list[tuple[int, int, bytes]]:
        return [row for row in await super().encodings(images, engine) if row[0] not in self.hidden]


@pytest.mark.parametrize("seed", range(8))
async def test_events_that_are_seen_late_are_not_missed(
    sqlite_settings: Any, tmp_path: Path, seed: int
) -> None:
    """Their transactions end in any order, some are open at the start, some end in nothing."""
    drawing = np.random.default_rng(seed)
    database = Database(sqlite_settings)
    rows = LateRows(database)
    world = World(database, None)  # type: ignore[arg-type]
    bench = Bench(world, rows)
    count = 0

    async def end(one: int) -> None:
        del rows.hidden[one]
        event = {"id": one, "kind": "image", "subject_id": one, "created_at": database_now()}
        await world.run(sa.insert(events).values(event))

    for _ in range(30):
        for _ in range(drawing.integers(0, 4)):
            await world.picture(encoding("Ada", nth=count))
            count += 1
            if drawing.random() < 0.5:
                rows.hidden[count] = world.now
                await world.run(sa.delete(events).where(events.c.id == count))
            elif drawing.random() < 0.1:
                await world.run(sa.delete(images).where(images.c.id == count))
                await world.run(sa.delete(events).where(events.c.id == count))
        await bench.faces.follow()
        world.now += float(drawing.choice([0.5, 20.0]))
        # Nobody's is open for longer than a minute.
        for one, since in list(rows.hidden.items()):
            if drawing.random() > 0.7 or world.now - since >= 40:
                await end(one)
    for one in list(rows.hidden):
        await end(one)
    await bench.faces.follow()
    assert await bench.agrees()
    await database.close()


async def test_events_are_read_again_after_a_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = world.rows()
    bench = Bench(world, rows)
    await world.picture(encoding("Ada"))
    await bench.faces.follow()
    await world.picture(encoding("Bob"))

    async def fail(*_: Any) -> None:
        raise DatabaseUnavailableError

    with monkeypatch.context() as patch:
        patch.setattr(rows, "encodings", fail)
        with pytest.raises(DatabaseUnavailableError):
            await bench.faces.follow()
    await bench.faces.follow()
    assert await bench.agrees()


async def test_naming_does_not_wait_until_all_is_loaded_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_faces, "_LOADED", 1)
    for nth in range(40):
        await world.picture(encoding("Ada", nth=nth))
    bench = Bench(world, rows := world.rows())
    await bench.faces.follow()
    ended: list[str] = []
    begun = asyncio.Event()
    read = rows.encodings

    async def encodings(*which: Any) -> list[tuple[int, int, bytes]]:
        begun.set()
        return await read(*which)

    async def name() -> None:
        await begun.wait()
        await bench.faces.follow(ENGINE.name)
        found, _ = await bench.faces.nearer(np.ones(128, np.float32), -100.0)
        ended.append(f"named among {len(found)}")

    async def load() -> None:
        await bench.faces.follow()
        ended.append("loaded")

    monkeypatch.setattr(rows, "encodings", encodings)
    world.now += 1_801
    await asyncio.gather(name(), load())
    assert ended == ["named among 40", "loaded"]
