import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from services.common.database import Database
from services.common.images import MAX_PICTURE_BYTES
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.common.tables import images
from services.migrations.__main__ import migrate
from services.testing.servers import MariaDb
from services.testing.waiting import eventually


async def _settled(bench: Any, *wanted: str) -> None:
    async def reached() -> bool:
        statuses = await bench.statuses()
        assert statuses == list(wanted)
        return True

    await eventually(reached)


@pytest.mark.parametrize(
    ("content", "status", "attempt", "error"),
    [
        (b"face", "processed", 1, None),
        (b"empty", "processed", 1, None),
        (b"unreadable", "rejected", 1, "it is no picture"),
        (b"", "rejected", 1, "the picture is empty"),
        (b"poison", "failed", 1, "the worker died"),
        (b"slow", "pending", 1, "no answer"),
        (b"crash", "pending", 1, "connection reset"),
        (b"busy", "pending", 0, None),
    ],
)
async def test_how_an_image_ends(
    bench: Any, content: bytes, status: str, attempt: int, error: str | None
) -> None:
    [image_id] = await bench.submit(content)
    bench.queue.put(image_id)
    bench.start()
    await eventually(lambda: bench.queue.finished or bench.queue.requeued)
    row = await bench.row(image_id)
    assert (row.status, row.attempt, row.error) == (status, attempt, error)
    assert row.claim_token is None
    assert bench.queue.requeued == ([image_id] if status == "pending" else [])
    if status == "pending":
        assert row.due_at == bench.clock() + 10_000
    if status == "processed":
        assert row.processed_at == bench.clock()
    assert bench.recogniser.image_ids == ([image_id] if content else [])


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a//b", "http://host/a.jpg"])
async def test_a_path_is_checked_where_it_is_read(bench: Any, path: str) -> None:
    [image_id] = await bench.submit(b"face")
    bench.pictures.objects[f"pictures/{path}"] = b"face"
    await bench.update(image_id, path=path)
    bench.queue.put(image_id)
    bench.start()
    await _settled(bench, "rejected")
    assert "path" in (await bench.row(image_id)).error


async def test_a_picture_that_is_not_there_or_too_large_is_rejected(
    bench: Any, folder_store_settings: ObjectStoreSettings
) -> None:
    missing, large = await bench.submit(b"face", b"face")
    store = ObjectStore(folder_store_settings)
    await store.put("pictures/p1", bytes(MAX_PICTURE_BYTES + 1))
    bench.pictures = store
    bench.queue.put(missing)
    bench.queue.put(large)
    bench.start()
    await _settled(bench, "rejected", "rejected")
    assert (await bench.row(missing)).error == "there is no picture p0"
    assert f"the limit is {MAX_PICTURE_BYTES}" in (await bench.row(large)).error


async def test_a_key_that_the_store_refuses_is_rejected_at_once(bench: Any) -> None:
    [image_id] = await bench.submit(b"face")
    bench.pictures.refused = set(bench.pictures.objects)
    bench.queue.put(image_id)
    bench.start()
    await _settled(bench, "rejected")
    row = await bench.row(image_id)
    assert (row.attempt, row.error.endswith("your key is too long")) == (1, True)


async def test_attempts_end_in_dead_with_the_last_error(bench: Any) -> None:
    [image_id] = await bench.submit(b"poison")
    bench.start()
    for attempt in range(1, 6):
        bench.queue.put(image_id)
        await eventually(lambda: len(bench.queue.finished) == attempt)  # noqa: B023
        row = await bench.row(image_id)
        assert (row.attempt, row.status) == (attempt, "failed" if attempt < 5 else "dead")
        bench.clock.advance(20)
    assert (row.due_at, row.error) == (None, "the worker died")
    bench.queue.put(image_id)
    await eventually(lambda: len(bench.queue.finished) == 6)
    assert await bench.row(image_id) == row, "a ring for a dead image changes nothing"


@pytest.mark.parametrize("content", [b"slow", b"crash"])
async def test_a_picture_that_a_working_recogniser_never_answers_ends_in_dead(
    bench: Any, content: bytes
) -> None:
    [image_id] = await bench.submit(content)
    bench.start()
    for attempt in range(1, 6):
        bench.queue.put(image_id)

        async def attempted() -> bool:
            row = await bench.row(image_id)
            return bool(row.attempt == attempt and row.claim_token is None)  # noqa: B023

        await eventually(attempted)
        bench.clock.advance(20)
    assert (await bench.row(image_id)).status == "dead"
    assert len(bench.recogniser.image_ids) == 5


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_recogniser_that_hangs_uses_up_no_attempt(bench: Any, concurrency: int) -> None:
    bench.concurrency = concurrency
    bench.recogniser.hung = True
    [image_id] = await bench.submit(b"face")
    bench.start()
    for tries in range(1, 6):
        bench.queue.put(image_id)
        await eventually(lambda: len(bench.recogniser.image_ids) == tries)  # noqa: B023
    await eventually(lambda: bench.queue.paused)
    await _settled(bench, "pending")
    assert (await bench.row(image_id)).attempt == 0
    bench.recogniser.hung = False
    await bench.time.advance(15)
    await _settled(bench, "processed")
    assert (await bench.row(image_id)).attempt == 1


@pytest.mark.parametrize("status", ["rejected", "dead"])
async def test_a_person_sends_it_back_and_it_is_processed(bench: Any, status: str) -> None:
    [image_id] = await bench.submit(b"unreadable" if status == "rejected" else b"poison")
    await bench.update(image_id, attempt=4)
    bench.queue.put(image_id)
    bench.start()
    await _settled(bench, status)
    bench.pictures.objects["pictures/p0"] = b"face"
    await bench.update(
        image_id, status="pending", attempt=0, error=None, due_at=bench.clock() + 10_000
    )
    bench.queue.put(image_id)
    await _settled(bench, "processed")
    row = await bench.row(image_id)
    assert (row.attempt, row.error, row.due_at) == (1, None, None)
    assert len(await bench.faces(image_id)) == 2


async def test_rings_for_the_same_image_make_one_attempt(bench: Any) -> None:
    [image_id] = await bench.submit(b"face")
    for _ in range(20):
        bench.queue.put(image_id)
    bench.start()
    bench.start()
    await eventually(lambda: len(bench.queue.finished) == 20)
    assert bench.recogniser.image_ids == [image_id]
    assert (await bench.row(image_id)).attempt == 1


async def test_a_lost_claim_is_superseded_by_its_new_owner(bench: Any) -> None:
    [image_id] = await bench.submit(b"hang")
    bench.queue.put(image_id)
    bench.start()
    await eventually(lambda: bench.recogniser.working)
    bench.clock.advance(31)
    other = await bench.rows.claim(image_id)
    bench.recogniser.release.set()
    await eventually(lambda: bench.queue.finished)
    row = await bench.row(image_id)
    assert (row.status, row.claim_token) == ("processing", other.token)
    assert await bench.faces(image_id) == []


async def test_deletion_in_mid_work_leaves_nothing_behind(bench: Any, database: Database) -> None:
    [image_id] = await bench.submit(b"hang")
    bench.queue.put(image_id)
    bench.start()
    await eventually(lambda: bench.recogniser.working)
    async with database.transaction() as connection:
        await connection.execute(sa.delete(images).where(images.c.id == image_id))
    bench.recogniser.release.set()
    await eventually(lambda: bench.queue.finished)
    assert await bench.row(image_id) is None
    assert await bench.faces(image_id) == []


async def test_the_lease_is_renewed_and_the_ring_touched_while_it_works(bench: Any) -> None:
    bench.renew_seconds = 0.05
    [image_id] = await bench.submit(b"hang")
    bench.queue.put(image_id)
    bench.start()
    await eventually(lambda: bench.recogniser.working)
    for _ in range(3):
        bench.clock.advance(25)

        async def renewed() -> bool:
            return bool((await bench.row(image_id)).due_at == bench.clock() + 30_000)

        await eventually(renewed)
    assert image_id in bench.queue.touched
    bench.recogniser.release.set()
    await _settled(bench, "processed")


async def test_a_lost_lease_ends_the_work(bench: Any) -> None:
    bench.renew_seconds = 0.05
    [image_id] = await bench.submit(b"hang")
    bench.queue.put(image_id)
    bench.start()
    await eventually(lambda: bench.recogniser.working)
    await bench.update(image_id, status="pending", claim_token=None)
    await eventually(lambda: not bench.recogniser.working and bench.queue.finished)
    assert (await bench.row(image_id)).status == "pending"


async def test_several_pictures_are_in_flight(bench: Any) -> None:
    ids = await bench.submit(*[b"hang"] * 6)
    for image_id in ids:
        bench.queue.put(image_id)
    bench.start()
    await eventually(lambda: bench.recogniser.working == 4)
    assert sorted(await bench.statuses()) == ["pending"] * 2 + ["processing"] * 4
    bench.recogniser.release.set()
    await _settled(bench, *["processed"] * 6)


async def test_pictures_that_need_long_stop_no_others(bench: Any) -> None:
    long = await bench.submit(*[b"long"] * 8)
    others = await bench.submit(*[b"face"] * 20)
    for image_id in long + others:
        bench.queue.put(image_id)
    bench.start()
    await _settled(bench, *["processing"] * 8, *["processed"] * 20)
    assert bench.queue.in_flight == 4 + 8
    bench.recogniser.release.set()
    await _settled(bench, *["processed"] * 28)
    await eventually(lambda: bench.queue.in_flight == 4)
    bench.recogniser.release.clear()
    ids = await bench.submit(*[b"hang"] * 6)
    for image_id in ids:
        bench.queue.put(image_id)
    await eventually(lambda: bench.recogniser.working == 4)
    await _settled(bench, *["processed"] * 28, *["processing"] * 4, *["pending"] * 2)
    bench.recogniser.release.set()


async def test_a_second_ring_for_a_picture_that_needs_long_takes_nobodys_place(bench: Any) -> None:
    bench.concurrency = 1
    [image_id] = await bench.submit(b"long")
    bench.queue.put(image_id)
    bench.start()
    await eventually(lambda: bench.queue.in_flight == 2)
    bench.queue.put(image_id)
    await eventually(lambda: bench.queue.finished == [image_id])
    bench.queue.put(*await bench.submit(b"face"))
    await _settled(bench, "processing", "processed")
    bench.recogniser.release.set()


async def test_draining_finishes_what_is_in_flight_and_takes_nothing_more(bench: Any) -> None:
    ids = await bench.submit(*[b"hang"] * 5)
    for image_id in ids:
        bench.queue.put(image_id)
    bench.start()
    await eventually(lambda: bench.recogniser.working == 4)
    stopping = asyncio.create_task(bench.stop())
    await eventually(bench.stopping.is_set)
    bench.recogniser.release.set()
    await stopping
    assert await bench.statuses() == ["processed"] * 4 + ["pending"]
    assert sorted(bench.queue.finished) == ids[:4]
    assert not bench.queue.taken


async def test_what_outlasts_the_grace_is_given_back_with_its_attempt(bench: Any) -> None:
    bench.grace_seconds = 0.05
    [image_id] = await bench.submit(b"hang")
    bench.queue.put(image_id)
    bench.start()
    await eventually(lambda: bench.recogniser.working)
    await bench.stop()
    row = await bench.row(image_id)
    assert (row.status, row.attempt, row.claim_token) == ("pending", 0, None)
    assert bench.queue.requeued == [image_id]
    assert not bench.queue.taken


async def test_an_outage_of_the_recogniser_fails_no_image_and_uses_up_no_attempt(
    bench: Any,
) -> None:
    ids = await bench.submit(*[b"face"] * 12)
    for image_id in ids:
        bench.queue.put(image_id)
    bench.recogniser.up = False
    bench.start()
    await eventually(lambda: bench.queue.paused)
    await eventually(lambda: not bench.queue.taken)
    tried = len(bench.recogniser.image_ids)
    await bench.time.advance(300)  # pings go on, and nobody is asked for a picture
    assert len(bench.recogniser.image_ids) == tried
    rows = [await bench.row(image_id) for image_id in ids]
    assert {(row.status, row.attempt) for row in rows} == {("pending", 0)}
    bench.recogniser.up = True
    await bench.time.advance(15)
    await _settled(bench, *["processed"] * 12)
    assert {(await bench.row(image_id)).attempt for image_id in ids} == {1}
    assert (bench.states[0], bench.states[-1]) == (2, 0)


async def test_what_is_in_flight_when_the_breaker_opens_is_released(bench: Any) -> None:
    [image_id] = await bench.submit(b"hang")
    bench.queue.put(image_id)
    bench.start()
    await eventually(lambda: bench.recogniser.working)
    for _ in range(5):
        bench.breakers[0].fault()
    await _settled(bench, "pending")
    assert (await bench.row(image_id)).attempt == 0
    assert bench.recogniser.working == 0


async def test_a_store_that_is_away_uses_up_no_attempt_and_is_said_once(bench: Any) -> None:
    bench.pictures.up = False
    ids = await bench.submit(b"face", b"face")
    with structlog.testing.capture_logs() as logs:
        bench.start()
        for image_id in ids:
            bench.queue.put(image_id)
        await eventually(lambda: [entry["event"] for entry in logs].count("attempt ended") >= 4)
        bench.pictures.up = True
        await _settled(bench, "processed", "processed")
    assert [(await bench.row(image_id)).attempt for image_id in ids] == [1, 1]
    events = [entry["event"] for entry in logs]
    assert events.count("object store is away") == 1
    assert events.count("object store is back") == 1


async def test_one_picture_that_cannot_be_read_fails_alone(bench: Any) -> None:
    damaged, other = await bench.submit(b"face", b"face")
    bench.pictures.damaged.add(f"pictures/{(await bench.row(damaged)).path}")
    bench.start()
    bench.queue.put(damaged)
    bench.queue.put(other)
    await _settled(bench, "failed", "processed")
    assert "input/output error" in (await bench.row(damaged)).error


async def test_an_unexpected_error_fails_the_image_and_not_the_processor(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = bench.recogniser.identify

    async def identify(picture: bytes, image_id: int, on_long: Any) -> Any:
        if image_id == broken:
            raise ZeroDivisionError("on purpose")
        return await answer(picture, image_id, on_long)

    monkeypatch.setattr(bench.recogniser, "identify", identify)
    broken, other = await bench.submit(b"face", b"face")
    bench.queue.put(broken)
    bench.queue.put(other)
    bench.start()
    await _settled(bench, "failed", "processed")
    assert "ZeroDivisionError" in (await bench.row(broken)).error


async def test_the_logs_carry_the_image_id(bench: Any) -> None:
    [image_id] = await bench.submit(b"face")
    bench.queue.put(image_id)
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        bench.start()
        await _settled(bench, "processed")
        await eventually(lambda: logs)
    [entry] = logs
    assert entry["event"] == "attempt ended"
    assert (entry["image_id"], entry["outcome"], entry["attempt"]) == (image_id, "processed", 1)


async def test_a_database_that_goes_away_and_comes_back_loses_nothing(
    tmp_path: Path, bench_of: Any
) -> None:
    server = MariaDb(tmp_path).start()
    settings = DatabaseSettings(database_url=server.url("mysql"))
    migrate(settings)
    database = Database(settings)
    bench = bench_of(database)
    bench.concurrency = 2
    ids = await bench.submit(b"hang", b"face", b"face")
    bench.queue.put(ids[0])
    bench.start()
    await eventually(lambda: bench.recogniser.working)
    with structlog.testing.capture_logs() as logs:
        server.kill()
        bench.recogniser.release.set()
        bench.queue.put(ids[1])
        bench.queue.put(ids[2])
        await eventually(lambda: {ids[1], ids[2]} <= set(bench.queue.requeued))
        assert bench.queue.finished == [], "no ring is done with before its commit"
        server.start()
        await _settled(bench, *["processed"] * 3)
        await bench.stop()
    events = [entry["event"] for entry in logs]
    assert events.count("database is away") == 1
    assert events.count("database is back") == 1
    await database.close()
    server.stop()
