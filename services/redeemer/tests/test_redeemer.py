import asyncio
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
import sqlalchemy.dialects.mysql
import structlog

from services.common import tables
from services.common.clock import database_now
from services.common.database import Database
from services.common.doorbell import PolledRows
from services.common.due_rows import longest_wait
from services.common.settings import DatabaseSettings
from services.common.tables import events
from services.redeemer.adapters.repairs import DatabaseRepairs
from services.redeemer.domain import BATCH, EVENTS_BATCH
from services.redeemer.metrics import IMAGES, OLDEST_PENDING, QUEUE_DEPTH
from services.redeemer.service.repairing import Redeemer
from services.redeemer.tests.conftest import ENOUGH_RINGS, NOW, Images, MemoryDoorbell, replica


async def test_a_failed_image_that_is_due_is_notified_of(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer
) -> None:
    await images.add(status="failed", attempt=2, due_at=NOW + 100, error="broken")
    await redeemer.sweep()
    assert (await images.row()).status == "failed"
    images.now += 100
    await redeemer.sweep()
    row = await images.row()
    assert (row.status, row.attempt, row.due_at) == ("pending", 2, images.now + 10_000)
    assert row.updated_at == images.now
    assert doorbell.rings == [1]


async def test_a_lease_that_is_over_is_notified_of_while_an_attempt_is_left(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer
) -> None:
    await images.add(status="processing", attempt=4, due_at=NOW, claim_token="gone")
    await images.add(status="processing", attempt=1, due_at=NOW + 1, claim_token="alive")
    await redeemer.sweep()
    abandoned, alive = await images.rows()
    assert (abandoned.status, abandoned.attempt) == ("pending", 4)
    assert (abandoned.claim_token, abandoned.due_at) == (None, NOW + 10_000)
    assert (alive.status, alive.claim_token) == ("processing", "alive")
    assert doorbell.rings == [1]


async def test_a_lease_that_is_over_ends_in_dead_after_the_last_attempt(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer
) -> None:
    await images.add(status="processing", attempt=5, due_at=NOW, claim_token="gone")
    with structlog.testing.capture_logs() as logs:
        await redeemer.sweep()
    row = await images.row()
    assert (row.status, row.due_at, row.claim_token) == ("dead", None, None)
    assert row.error == "processing did not finish in time, attempt 5 of 5"
    assert doorbell.rings == []
    assert logs[0]["image_id"] == 1


async def events_of(images: Images) -> list[tuple[int, int]]:
    query = sa.select(events.c.subject_id, events.c.created_at).order_by(events.c.id)
    async with images.database.reading() as connection:
        return [tuple(row) for row in await connection.execute(query)]


async def test_those_who_follow_along_are_told_what_is_dead(
    images: Images, redeemer: Redeemer
) -> None:
    await images.add(status="processing", attempt=5, due_at=NOW)
    await images.add(status="processing", attempt=4, due_at=NOW)
    await redeemer.sweep()
    assert await events_of(images) == [((await images.rows())[0].id, NOW)]


@pytest.mark.parametrize("count", [3, 2 * EVENTS_BATCH + 3])
async def test_events_go_after_an_hour(images: Images, redeemer: Redeemer, count: int) -> None:
    hour = 3_600_000
    images.now = 10 * hour
    times = [*[9 * hour - 1] * count, 9 * hour, 10 * hour]
    # Noted before the clock was set back.
    times.insert(1, 11 * hour + 1)
    rows = [{"kind": "image", "subject_id": 1, "created_at": at} for at in times]
    async with images.database.transaction() as connection:
        await connection.execute(sa.insert(events), rows)
    await redeemer.sweep()
    assert await events_of(images) == [(1, 9 * hour), (1, 10 * hour)]


async def test_a_lost_ring_is_repeated_once_an_interval(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer
) -> None:
    await images.add(due_at=NOW + 10_000)
    seen = []
    for _ in range(16):
        await redeemer.sweep()
        seen.append(len(doorbell.rings))
        images.now += 2_000
    assert seen == [0] * 5 + [1] * 5 + [2] * 5 + [3]
    assert (await images.row()).updated_at == NOW, "a ring changes nothing of the image"


async def test_a_clock_that_was_set_back_holds_up_nothing(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer
) -> None:
    hour = 3_600_000
    await images.add(status="processing", attempt=1, due_at=NOW + 30_000, claim_token="gone")
    await images.add(status="processing", attempt=5, due_at=NOW + 30_000, claim_token="gone")
    await images.add(status="failed", attempt=1, due_at=NOW + 20_000)
    await images.add(due_at=NOW + 10_000)
    images.now -= 4_000  # a nudge changes nothing
    await redeemer.sweep()
    assert doorbell.rings == []
    images.now -= hour
    await redeemer.sweep()
    assert [row.status for row in await images.rows()] == ["pending", "dead", "pending", "pending"]
    assert sorted(doorbell.rings) == [1, 3, 4]
    await redeemer.count()
    assert OLDEST_PENDING._value.get() == 0, "not an hour less than nothing"


@pytest.mark.parametrize("status", ["processed", "rejected", "dead"])
async def test_what_is_final_is_left_alone(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer, status: str
) -> None:
    await images.add(status=status, attempt=5)
    images.now += 10**9
    before = await images.row()
    await redeemer.sweep()
    assert await images.row() == before
    assert doorbell.rings == []


async def test_replicas_ring_nothing_twice_per_interval(
    images: Images, doorbell: MemoryDoorbell, database_settings: DatabaseSettings
) -> None:
    await images.add(250, status="failed", attempt=1, due_at=NOW)
    await images.add(250, status="processing", attempt=1, due_at=NOW, claim_token="gone")
    await images.add(90, due_at=NOW)
    pools = [Database(database_settings) for _ in range(3)]
    replicas = [replica(images, doorbell, pool) for pool in pools]
    for _ in range(5):  # five sweeps of each fall into one interval
        await asyncio.gather(*(replica.sweep() for replica in replicas))
        doorbell.heard(590)  # or a full queue would keep what waits from being notified of
        images.now += 1_900
    assert Counter(doorbell.rings) == Counter(range(1, 591))
    doorbell.rings.clear()
    images.now = NOW + 10_000
    for _ in range(5):
        await asyncio.gather(*(replica.sweep() for replica in replicas))
        doorbell.heard(590)
    assert Counter(doorbell.rings) == Counter(range(1, 591))
    for pool in pools:
        await pool.close()


async def test_a_sweep_takes_all_that_failed_and_fills_the_queue_with_what_waits(
    images: Images,
    doorbell: MemoryDoorbell,
    redeemer: Redeemer,
) -> None:
    await images.add(2 * BATCH + 1, status="failed", attempt=1, due_at=NOW)
    await images.add(2 * ENOUGH_RINGS, due_at=NOW)
    await redeemer.sweep()
    assert doorbell.waiting == ENOUGH_RINGS + 1, "batches are whole"
    assert set(range(1, 2 * BATCH + 2)) < set(doorbell.rings)
    await redeemer.sweep()
    assert doorbell.waiting == ENOUGH_RINGS + 1
    doorbell.heard(150)
    await redeemer.sweep()
    assert len(doorbell.rings) == ENOUGH_RINGS + 201


@pytest.mark.parametrize("speed", [20, 700])
async def test_a_backlog_without_rings_drains_as_fast_as_it_is_processed(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer, speed: int
) -> None:
    count, sweep_seconds = 3000, 2
    await images.add(count, due_at=NOW)
    left, spent = set(range(1, count + 1)), 0
    sweeps = 0
    while left:
        await redeemer.sweep()
        sweeps += 1
        heard = doorbell.heard(speed * sweep_seconds)
        spent += len(heard)
        async with images.database.transaction() as connection:
            await connection.execute(
                sa.update(tables.images)
                .where(tables.images.c.id.in_(heard))
                .values(status="processed", due_at=None)
            )
        left -= set(heard)
        assert doorbell.waiting <= ENOUGH_RINGS + BATCH, "the queue is not flooded"
        images.now += sweep_seconds * 1000
    fastest = min(speed * sweep_seconds, ENOUGH_RINGS)
    assert sweeps <= count / fastest * 1.05 + 1
    # While rings wait longer than their interval some are notified of again, but none before all
    # were once.
    assert len(set(doorbell.rings[:count])) == count
    assert spent <= 1.4 * count


async def test_a_queue_that_takes_nothing_is_offered_one_batch(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer
) -> None:
    await images.add(3 * BATCH, due_at=NOW)
    doorbell.full = True
    await redeemer.sweep()
    assert [row.due_at for row in await images.rows()].count(NOW) == 2 * BATCH


async def test_polled_rows_are_left_alone(images: Images) -> None:
    await images.add(due_at=NOW)
    await replica(images, PolledRows()).sweep()
    assert (await images.row()).due_at == NOW


async def test_what_is_due_longest_is_first(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer
) -> None:
    await images.add(BATCH, due_at=NOW)
    await images.add(BATCH, due_at=NOW - 1)
    doorbell.waiting = ENOUGH_RINGS - 1
    await redeemer.sweep()
    assert sorted(doorbell.rings) == list(range(BATCH + 1, 2 * BATCH + 1))


async def test_busy_processors_are_not_notified_of_what_waits(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer
) -> None:
    await images.add(due_at=NOW)
    await images.add(status="failed", attempt=1, due_at=NOW)
    doorbell.waiting = ENOUGH_RINGS
    await redeemer.sweep()
    assert doorbell.rings == [2]
    doorbell.waiting = ENOUGH_RINGS - 1
    await redeemer.sweep()
    assert doorbell.rings == [2, 1]


async def test_without_the_queue_rows_move_on_and_are_notified_of_later(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer
) -> None:
    await images.add(status="failed", attempt=1, due_at=NOW)
    await images.add(status="processing", attempt=1, due_at=NOW, claim_token="gone")
    await images.add(status="processing", attempt=5, due_at=NOW, claim_token="gone")
    await images.add(due_at=NOW)
    doorbell.up = False
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await redeemer.sweep()
        assert [row.status for row in await images.rows()] == [
            "pending",
            "pending",
            "dead",
            "pending",
        ]
        doorbell.up = True
        await redeemer.sweep()
        assert doorbell.rings == [4], "its ring was not spent while the queue was away"
        images.now += 10_000
        await redeemer.sweep()
    assert sorted(doorbell.rings) == [1, 2, 4, 4]
    events = [entry["event"] for entry in logs]
    assert events.count("queue is away") == 1
    assert events.count("queue is back") == 1


async def test_the_gauges_show_rows_age_and_depth(
    images: Images, doorbell: MemoryDoorbell, redeemer: Redeemer
) -> None:
    await redeemer.count()
    assert {label: _images(label) for label in ("pending", "dead")} == {"pending": 0, "dead": 0}
    assert OLDEST_PENDING._value.get() == 0
    await images.add(3, due_at=NOW, created_at=NOW - 5_000, updated_at=NOW - 5_000)
    await images.add(2, status="dead")
    doorbell.waiting = 7
    await redeemer.count()
    assert {label: _images(label) for label in ("pending", "dead", "failed")} == {
        "pending": 3,
        "dead": 2,
        "failed": 0,
    }
    assert OLDEST_PENDING._value.get() == 5
    assert QUEUE_DEPTH._value.get() == 7


async def test_the_age_of_what_waits_begins_when_it_went_back_to_pending(
    images: Images, redeemer: Redeemer
) -> None:
    week = 7 * 24 * 3600 * 1000
    await images.add(due_at=NOW, created_at=NOW - week, updated_at=NOW - 2_000)  # just retried
    await images.add(due_at=NOW, created_at=NOW - 4_000, updated_at=NOW - 4_000)
    await redeemer.count()
    assert OLDEST_PENDING._value.get() == 4
    await redeemer.sweep()  # rings, which makes nothing younger
    await redeemer.count()
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
        await DatabaseRepairs(database, database_now).take_waiting()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    choosing, parameters = statements[0]
    async with database.reading() as connection:
        [row] = (await connection.exec_driver_sql(f"EXPLAIN {choosing}", parameters)).mappings()
    assert (row["type"], row["key"]) == ("range", "ix_images_status_due_at")
    assert "filesort" not in (row["Extra"] or "")


async def test_rings_are_logged_with_their_images(images: Images, redeemer: Redeemer) -> None:
    await images.add(status="failed", attempt=1, due_at=NOW)
    await images.add(status="processing", attempt=1, due_at=NOW, claim_token="gone")
    await images.add(2, due_at=NOW)
    with structlog.testing.capture_logs() as logs:
        await redeemer.sweep()
        await redeemer.sweep()
    assert logs == [
        {"event": "notified", "image_ids": ids, "reason": reason, "log_level": "info"}
        for reason, ids in (("failed", [1]), ("lease", [2]), ("pending", [3, 4]))
    ]


def _images(status: str) -> float:
    return float(IMAGES.labels(status)._value.get())


async def test_a_lease_that_is_longer_than_by_default_is_left_to_its_owner(
    database: Database,
) -> None:
    images = Images(database)
    redeemer = replica(images, MemoryDoorbell(), lease_ms=400_000)
    await images.add(status="processing", attempt=1, due_at=NOW + 400_000)
    await redeemer.sweep()
    assert (await images.row()).status == "processing"
    images.now += 400_001
    await redeemer.sweep()
    assert (await images.row()).status == "pending"
