import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import sqlalchemy.dialects.mysql
import structlog

from services.common.changes import changed_person
from services.common.clock import database_now
from services.common.database import Database
from services.common.doorbell import PolledRows
from services.common.errors import (
    DatabaseUnavailableError,
    DoorbellUnavailableError,
    ObjectStoreUnavailableError,
)
from services.common.images import Rules
from services.common.nsqd import NsqDoorbell
from services.common.settings import DatabaseSettings
from services.common.tables import events, images, longest_wait
from services.redeemer.adapters import DatabaseRows
from services.redeemer.collecting import Collector, Removal
from services.redeemer.domain import BATCH, EVENTS_BATCH
from services.redeemer.metrics import IMAGES, OLDEST_PENDING, QUEUE_DEPTH
from services.redeemer.service import Redeemer
from services.testing.fixtures import new_mariadb_settings
from services.testing.processes import Service, running
from services.testing.servers import MariaDb, Nsqd, free_port
from services.testing.waiting import eventually

NOW = 1_000_000
ENOUGH_RINGS = 1000


class Bell:
    """A doorbell in memory. ``full``: nothing is taken, although it answers."""

    polled = False

    def __init__(self) -> None:
        self.up = True
        self.full = False
        self.waiting = 0
        self.rung: list[int] = []

    async def ring(self, image_ids: Sequence[int]) -> None:
        await asyncio.sleep(0)
        if not self.up or self.full:
            raise DoorbellUnavailableError("no answer")
        self.rung += image_ids
        self.waiting += len(image_ids)

    def heard(self, count: int) -> list[int]:
        """Take the oldest rings, as processors do; these are all that wait."""
        taken = self.rung[len(self.rung) - self.waiting :][:count]
        self.waiting -= len(taken)
        return taken

    async def depth(self) -> int:
        if not self.up:
            raise DoorbellUnavailableError("no answer")
        return self.waiting

    async def close(self) -> None:
        pass


class Bench:
    def __init__(
        self, database: Database, *, rules: Rules | None = None, ring_again_ms: int = 10_000
    ) -> None:
        self.database = database
        self.rules = rules or Rules()
        self.ring_again_ms = ring_again_ms
        self.bell = Bell()
        self.now = NOW
        self.redeemer = self.replica(database)

    def replica(self, database: Database, doorbell: Any = None) -> Redeemer:
        rows = DatabaseRows(
            database,
            lambda: sa.literal(self.now, sa.BigInteger()),
            rules=self.rules,
            ring_again_ms=self.ring_again_ms,
        )
        return Redeemer(rows=rows, doorbell=doorbell or self.bell, enough_rings=ENOUGH_RINGS)

    async def add(self, count: int = 1, **values: Any) -> None:
        row = {
            "status": "pending",
            "attempt": 0,
            "due_at": None,
            "created_at": NOW,
            "updated_at": NOW,
            "claim_token": None,
            **values,
        }
        async with self.database.transaction() as connection:
            start = await connection.scalar(sa.select(sa.func.count()).select_from(images)) or 0
            await connection.execute(
                sa.insert(images),
                [
                    {**row, "path": f"{number}", "name": f"{number}", "id": number}
                    for number in range(start + 1, start + count + 1)
                ],
            )

    async def rows(self) -> Sequence[Any]:
        async with self.database.reading() as connection:
            return (await connection.execute(sa.select(images).order_by(images.c.id))).all()

    async def row(self) -> Any:
        [row] = await self.rows()
        return row


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)


async def test_a_failed_image_that_is_due_is_rung(bench: Bench) -> None:
    await bench.add(status="failed", attempt=2, due_at=NOW + 100, error="broken")
    await bench.redeemer.sweep()
    assert (await bench.row()).status == "failed"
    bench.now += 100
    await bench.redeemer.sweep()
    row = await bench.row()
    assert (row.status, row.attempt, row.due_at) == ("pending", 2, bench.now + 10_000)
    assert row.updated_at == bench.now
    assert bench.bell.rung == [1]


async def test_a_lease_that_is_over_is_rung_while_an_attempt_is_left(bench: Bench) -> None:
    await bench.add(status="processing", attempt=4, due_at=NOW, claim_token="gone")
    await bench.add(status="processing", attempt=1, due_at=NOW + 1, claim_token="alive")
    await bench.redeemer.sweep()
    abandoned, alive = await bench.rows()
    assert (abandoned.status, abandoned.attempt) == ("pending", 4)
    assert (abandoned.claim_token, abandoned.due_at) == (None, NOW + 10_000)
    assert (alive.status, alive.claim_token) == ("processing", "alive")
    assert bench.bell.rung == [1]


async def test_a_lease_that_is_over_ends_in_dead_after_the_last_attempt(bench: Bench) -> None:
    await bench.add(status="processing", attempt=5, due_at=NOW, claim_token="gone")
    with structlog.testing.capture_logs() as logs:
        await bench.redeemer.sweep()
    row = await bench.row()
    assert (row.status, row.due_at, row.claim_token) == ("dead", None, None)
    assert row.error == "processing did not finish in time, attempt 5 of 5"
    assert bench.bell.rung == []
    assert logs[0]["image_id"] == 1


async def events_of(bench: Bench) -> list[tuple[int, int]]:
    query = sa.select(events.c.subject_id, events.c.created_at).order_by(events.c.id)
    async with bench.database.reading() as connection:
        return [tuple(row) for row in await connection.execute(query)]


async def test_those_who_follow_along_are_told_what_is_dead(bench: Bench) -> None:
    await bench.add(status="processing", attempt=5, due_at=NOW)
    await bench.add(status="processing", attempt=4, due_at=NOW)
    await bench.redeemer.sweep()
    assert await events_of(bench) == [((await bench.rows())[0].id, NOW)]


@pytest.mark.parametrize("count", [3, 2 * EVENTS_BATCH + 3])
async def test_events_go_after_an_hour(bench: Bench, count: int) -> None:
    hour = 3_600_000
    bench.now = 10 * hour
    times = [*[9 * hour - 1] * count, 9 * hour, 10 * hour]
    # Noted before the clock was set back.
    times.insert(1, 11 * hour + 1)
    rows = [{"kind": "image", "subject_id": 1, "created_at": one} for one in times]
    async with bench.database.transaction() as connection:
        await connection.execute(sa.insert(events), rows)
    await bench.redeemer.sweep()
    assert await events_of(bench) == [(1, 9 * hour), (1, 10 * hour)]


async def test_a_lost_ring_is_repeated_once_an_interval(bench: Bench) -> None:
    await bench.add(due_at=NOW + 10_000)
    seen = []
    for _ in range(16):
        await bench.redeemer.sweep()
        seen.append(len(bench.bell.rung))
        bench.now += 2_000
    assert seen == [0] * 5 + [1] * 5 + [2] * 5 + [3]
    assert (await bench.row()).updated_at == NOW, "a ring changes nothing of the image"


async def test_a_clock_that_was_set_back_holds_up_nothing(bench: Bench) -> None:
    hour = 3_600_000
    await bench.add(status="processing", attempt=1, due_at=NOW + 30_000, claim_token="gone")
    await bench.add(status="processing", attempt=5, due_at=NOW + 30_000, claim_token="gone")
    await bench.add(status="failed", attempt=1, due_at=NOW + 20_000)
    await bench.add(due_at=NOW + 10_000)
    bench.now -= 4_000  # a nudge changes nothing
    await bench.redeemer.sweep()
    assert bench.bell.rung == []
    bench.now -= hour
    await bench.redeemer.sweep()
    assert [row.status for row in await bench.rows()] == ["pending", "dead", "pending", "pending"]
    assert sorted(bench.bell.rung) == [1, 3, 4]
    await bench.redeemer.count()
    assert OLDEST_PENDING._value.get() == 0, "not an hour less than nothing"


@pytest.mark.parametrize("status", ["processed", "rejected", "dead"])
async def test_what_is_final_is_left_alone(bench: Bench, status: str) -> None:
    await bench.add(status=status, attempt=5)
    bench.now += 10**9
    before = await bench.row()
    await bench.redeemer.sweep()
    assert await bench.row() == before
    assert bench.bell.rung == []


async def test_replicas_ring_nothing_twice_per_interval(
    bench: Bench, database_settings: DatabaseSettings
) -> None:
    await bench.add(250, status="failed", attempt=1, due_at=NOW)
    await bench.add(250, status="processing", attempt=1, due_at=NOW, claim_token="gone")
    await bench.add(90, due_at=NOW)
    pools = [Database(database_settings) for _ in range(3)]
    replicas = [bench.replica(pool) for pool in pools]
    for _ in range(5):  # five sweeps of each fall into one interval
        await asyncio.gather(*(replica.sweep() for replica in replicas))
        bench.bell.heard(590)  # or a full queue would keep what waits from being rung for
        bench.now += 1_900
    assert Counter(bench.bell.rung) == Counter(range(1, 591))
    bench.bell.rung.clear()
    bench.now = NOW + 10_000
    for _ in range(5):
        await asyncio.gather(*(replica.sweep() for replica in replicas))
        bench.bell.heard(590)
    assert Counter(bench.bell.rung) == Counter(range(1, 591))
    for pool in pools:
        await pool.close()


async def test_a_sweep_takes_all_that_failed_and_fills_the_queue_with_what_waits(
    bench: Bench,
) -> None:
    await bench.add(2 * BATCH + 1, status="failed", attempt=1, due_at=NOW)
    await bench.add(2 * ENOUGH_RINGS, due_at=NOW)
    await bench.redeemer.sweep()
    assert bench.bell.waiting == ENOUGH_RINGS + 1, "batches are whole"
    assert set(range(1, 2 * BATCH + 2)) < set(bench.bell.rung)
    await bench.redeemer.sweep()
    assert bench.bell.waiting == ENOUGH_RINGS + 1
    bench.bell.heard(150)
    await bench.redeemer.sweep()
    assert len(bench.bell.rung) == ENOUGH_RINGS + 201


@pytest.mark.parametrize("speed", [20, 700])
async def test_a_backlog_without_rings_drains_as_fast_as_it_is_processed(
    bench: Bench, speed: int
) -> None:
    count, sweep_seconds = 3000, 2
    await bench.add(count, due_at=NOW)
    left, spent = set(range(1, count + 1)), 0
    sweeps = 0
    while left:
        await bench.redeemer.sweep()
        sweeps += 1
        heard = bench.bell.heard(speed * sweep_seconds)
        spent += len(heard)
        async with bench.database.transaction() as connection:
            await connection.execute(
                sa.update(images)
                .where(images.c.id.in_(heard))
                .values(status="processed", due_at=None)
            )
        left -= set(heard)
        assert bench.bell.waiting <= ENOUGH_RINGS + BATCH, "the queue is not flooded"
        bench.now += sweep_seconds * 1000
    fastest = min(speed * sweep_seconds, ENOUGH_RINGS)
    assert sweeps <= count / fastest * 1.05 + 1
    # While rings wait longer than their interval some are rung for again, but none before all
    # were once.
    assert len(set(bench.bell.rung[:count])) == count
    assert spent <= 1.4 * count


async def test_a_queue_that_takes_nothing_is_offered_one_batch(bench: Bench) -> None:
    await bench.add(3 * BATCH, due_at=NOW)
    bench.bell.full = True
    await bench.redeemer.sweep()
    assert [row.due_at for row in await bench.rows()].count(NOW) == 2 * BATCH


async def test_polled_rows_are_left_alone(bench: Bench) -> None:
    await bench.add(due_at=NOW)
    await bench.replica(bench.database, PolledRows()).sweep()
    assert (await bench.row()).due_at == NOW


async def test_what_is_due_longest_is_first(bench: Bench) -> None:
    await bench.add(BATCH, due_at=NOW)
    await bench.add(BATCH, due_at=NOW - 1)
    bench.bell.waiting = ENOUGH_RINGS - 1
    await bench.redeemer.sweep()
    assert sorted(bench.bell.rung) == list(range(BATCH + 1, 2 * BATCH + 1))


async def test_busy_processors_are_not_rung_for_what_waits(bench: Bench) -> None:
    await bench.add(due_at=NOW)
    await bench.add(status="failed", attempt=1, due_at=NOW)
    bench.bell.waiting = ENOUGH_RINGS
    await bench.redeemer.sweep()
    assert bench.bell.rung == [2]
    bench.bell.waiting = ENOUGH_RINGS - 1
    await bench.redeemer.sweep()
    assert bench.bell.rung == [2, 1]


async def test_without_the_queue_rows_move_on_and_are_rung_later(bench: Bench) -> None:
    await bench.add(status="failed", attempt=1, due_at=NOW)
    await bench.add(status="processing", attempt=1, due_at=NOW, claim_token="gone")
    await bench.add(status="processing", attempt=5, due_at=NOW, claim_token="gone")
    await bench.add(due_at=NOW)
    bench.bell.up = False
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await bench.redeemer.sweep()
        assert [row.status for row in await bench.rows()] == [
            "pending",
            "pending",
            "dead",
            "pending",
        ]
        bench.bell.up = True
        await bench.redeemer.sweep()
        assert bench.bell.rung == [4], "its ring was not spent while the queue was away"
        bench.now += 10_000
        await bench.redeemer.sweep()
    assert sorted(bench.bell.rung) == [1, 2, 4, 4]
    events = [entry["event"] for entry in logs]
    assert events.count("queue is away") == 1
    assert events.count("queue is back") == 1


async def test_an_object_that_cannot_be_removed_keeps_no_other_waiting() -> None:
    keys = ("locked", "one", "known_people/Ann/1")
    removals = [Removal(key, None, "token") for key in keys]
    gone: list[Removal] = []

    class Notes:
        async def take(self) -> Sequence[Removal]:
            return removals

        async def removed(self, removals: Sequence[Removal]) -> None:
            gone.extend(removals)

    changes: list[str] = []

    class Store:
        async def tag(self, key: str) -> str | None:
            raise AssertionError(key)

        async def delete(self, key: str) -> None:
            if key == "locked":
                raise ObjectStoreUnavailableError("no permission")
            changes.append(key)

        async def put(self, key: str, content: bytes) -> None:
            assert content == b""
            changes.append(key)

    with structlog.testing.capture_logs() as logs:
        await Collector(garbage=Notes(), objects=Store()).collect()
    assert gone == removals[1:]
    assert changes[:2] == [*keys[1:]]
    assert [changed_person(key) for key in changes[2:]] == ["Ann"], "marked when it is gone"
    assert [entry["event"] for entry in logs] == ["removed", "removed", "object store is away"]


async def test_the_gauges_show_rows_age_and_depth(bench: Bench) -> None:
    await bench.redeemer.count()
    assert {label: _images(label) for label in ("pending", "dead")} == {"pending": 0, "dead": 0}
    assert OLDEST_PENDING._value.get() == 0
    await bench.add(3, due_at=NOW, created_at=NOW - 5_000, updated_at=NOW - 5_000)
    await bench.add(2, status="dead")
    bench.bell.waiting = 7
    await bench.redeemer.count()
    assert {label: _images(label) for label in ("pending", "dead", "failed")} == {
        "pending": 3,
        "dead": 2,
        "failed": 0,
    }
    assert OLDEST_PENDING._value.get() == 5
    assert QUEUE_DEPTH._value.get() == 7


async def test_the_age_of_what_waits_begins_when_it_went_back_to_pending(bench: Bench) -> None:
    week = 7 * 24 * 3600 * 1000
    await bench.add(due_at=NOW, created_at=NOW - week, updated_at=NOW - 2_000)  # just retried
    await bench.add(due_at=NOW, created_at=NOW - 4_000, updated_at=NOW - 4_000)
    await bench.redeemer.count()
    assert OLDEST_PENDING._value.get() == 4
    await bench.redeemer.sweep()  # rings, which makes nothing younger
    await bench.redeemer.count()
    assert OLDEST_PENDING._value.get() == 4


async def test_the_oldest_is_found_by_an_index(
    mariadb_database: tuple[Database, str],
) -> None:
    database, _ = mariadb_database
    async with database.transaction() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO images (path, name, status, attempt, created_at, updated_at)"
            " SELECT seq, 'n', IF(seq MOD 50, 'pending', 'processed'), 1, seq, seq"
            " FROM seq_1_to_20000"
        )
        await connection.exec_driver_sql("ANALYZE TABLE images")
    dialect = sa.dialects.mysql.dialect()
    query = longest_wait(sa.literal(NOW, sa.BigInteger()))
    text = query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    async with database.reading() as connection:
        plan = (await connection.exec_driver_sql(f"EXPLAIN {text}")).mappings().all()
        assert await connection.scalar(query) == NOW - 1
    [inner] = [row for row in plan if row["table"] == "images"]
    assert inner["key"] == "ix_images_status_id"
    assert "filesort" not in (inner["Extra"] or "")


async def test_what_is_due_is_found_by_an_index(mariadb_database: tuple[Database, str]) -> None:
    database, _ = mariadb_database
    async with database.transaction() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO images (path, name, status, attempt, due_at, created_at, updated_at)"
            " SELECT seq, 'n', 'pending', 1, seq, seq, seq FROM seq_1_to_20000"
        )
        await connection.exec_driver_sql("ANALYZE TABLE images")
    statements: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        statements.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        await DatabaseRows(database, database_now).take_waiting()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    choosing, parameters = statements[0]
    async with database.reading() as connection:
        [row] = (await connection.exec_driver_sql(f"EXPLAIN {choosing}", parameters)).mappings()
    assert (row["type"], row["key"]) == ("range", "ix_images_status_due_at")
    assert "filesort" not in (row["Extra"] or "")


async def test_rings_are_logged_with_their_images(bench: Bench) -> None:
    await bench.add(status="failed", attempt=1, due_at=NOW)
    await bench.add(status="processing", attempt=1, due_at=NOW, claim_token="gone")
    await bench.add(2, due_at=NOW)
    with structlog.testing.capture_logs() as logs:
        await bench.redeemer.sweep()
        await bench.redeemer.sweep()
    assert logs == [
        {"event": "rung", "image_ids": ids, "reason": reason, "log_level": "info"}
        for reason, ids in (("failed", [1]), ("lease", [2]), ("pending", [3, 4]))
    ]


def _images(status: str) -> float:
    return float(IMAGES.labels(status)._value.get())


async def test_a_database_that_is_away_is_said_so(tmp_path: Path) -> None:
    url = f"mysql+asyncmy://root@127.0.0.1:{free_port()}/none"
    database = Database(DatabaseSettings(database_url=url))
    bench = Bench(database)
    with pytest.raises(DatabaseUnavailableError):
        await bench.redeemer.sweep()
    with pytest.raises(DatabaseUnavailableError):
        await bench.redeemer.count()
    await database.close()


@pytest.fixture
async def mariadb_database(mariadb: MariaDb) -> AsyncIterator[tuple[Database, str]]:
    settings = new_mariadb_settings(mariadb)
    database = Database(settings)
    yield database, settings.database_url
    await database.close()


async def test_two_processes_ring_a_real_nsqd_and_outlive_its_absence(
    mariadb_database: tuple[Database, str], nsqd: Nsqd, tmp_path: Path
) -> None:
    database, url = mariadb_database
    bench = Bench(database)
    await bench.add(40, status="failed", attempt=1, due_at=NOW)
    nsqd.kill()
    settings = {
        "DATABASE_URL": url,
        "OBJECT_STORE_URL": tmp_path.as_uri(),
        "NSQD_URL": nsqd.http_url,
        "SWEEP_SECONDS": "0.1",
    }
    doorbell = NsqDoorbell(nsqd.http_url)

    async def moved() -> bool:
        return {row.status for row in await bench.rows()} == {"pending"}

    async def rung() -> bool:
        return await doorbell.depth() == 40

    async with (
        running("services.redeemer", **settings) as one,
        running("services.redeemer", **settings) as other,
    ):
        for process in (one, other):
            await eventually(lambda: _metric(process, 'requests_total{operation="sweep"}'))  # noqa: B023
        await eventually(moved)
        nsqd.start()
        async with database.transaction() as connection:  # what ten seconds would do
            await connection.execute(sa.update(images).values(due_at=NOW))
        await eventually(rung)
        failed = 0.0
        for process in (one, other):
            failed += await _metric(process, 'redeemed_total{reason="failed"}')
            page = (await process.get("/metrics")).text
            for status in ("pending", "processing", "processed", "failed", "rejected", "dead"):
                assert f'facestack_images{{status="{status}"}}' in page
            process.terminate()
        ends = [await process.ended() for process in (one, other)]
    assert failed == 40
    for code, output in ends:
        assert code == 0
        assert output.count("queue is away") == 1
        assert "Traceback" not in output
    await doorbell.close()


async def test_what_is_set_decides_when_an_image_is_dead_and_where_it_rings(
    mariadb_database: tuple[Database, str], nsqd: Nsqd, tmp_path: Path
) -> None:
    database, url = mariadb_database
    bench = Bench(database)
    await bench.add(status="processing", attempt=2, due_at=NOW)
    await bench.add(status="processing", attempt=1, due_at=NOW)
    settings = {
        "DATABASE_URL": url,
        "OBJECT_STORE_URL": tmp_path.as_uri(),
        "NSQD_URL": nsqd.http_url,
        "NSQ_TOPIC": "photos",
        "MAX_ATTEMPTS": "2",
        "RING_AGAIN_SECONDS": "500",
    }
    doorbell = NsqDoorbell(nsqd.http_url, topic="photos")
    async with running("services.redeemer", **settings):

        async def repaired() -> bool:
            statuses = [row.status for row in await bench.rows()]
            return statuses == ["dead", "pending"] and await doorbell.depth() == 1

        await eventually(repaired)
        dead, pending = await bench.rows()
        assert dead.error == "processing did not finish in time, attempt 2 of 2"
        async with database.reading() as connection:
            left = sa.select(images.c.due_at - database_now()).where(images.c.id == pending.id)
            assert 400_000 < (await connection.scalar(left) or 0) <= 500_000
    await doorbell.close()


async def test_a_lease_that_is_longer_than_by_default_is_left_to_its_owner(
    database: Database,
) -> None:
    bench = Bench(database, rules=Rules(lease_ms=400_000))
    await bench.add(status="processing", attempt=1, due_at=NOW + 400_000)
    await bench.redeemer.sweep()
    assert (await bench.row()).status == "processing"
    bench.now += 400_001
    await bench.redeemer.sweep()
    assert (await bench.row()).status == "pending"


async def _metric(process: Service, name: str) -> float:
    for line in (await process.get("/metrics")).text.splitlines():
        if line.startswith(f"facestack_{name} "):
            return float(line.split()[-1])
    return 0.0
