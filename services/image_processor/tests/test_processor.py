import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from services.common import tables
from services.common.database import Database
from services.common.objects import ObjectStore
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.image_processor.tests.conftest import Images, Processors
from services.image_processor.tests.fakes import FakeRecogniser
from services.migrations.__main__ import migrate
from services.testing.recogniser import PictureContent
from services.testing.servers import MariaDb
from services.testing.waiting import eventually


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (PictureContent.TWO_FACES, ("processed", 1, None)),
        (PictureContent.NO_FACE, ("processed", 1, None)),
        (PictureContent.UNREADABLE, ("rejected", 1, "it is no picture")),
        (b"", ("rejected", 1, "the picture is empty")),
        (PictureContent.FATAL, ("failed", 1, "the worker died")),
        (PictureContent.UNANSWERED, ("pending", 1, "no answer")),
        (FakeRecogniser.CRASH, ("pending", 1, "connection reset")),
        (PictureContent.FOR_A_BUSY_ONE, ("pending", 0, None)),
    ],
)
async def test_how_an_image_ends(
    images: Images, processors: Processors, content: bytes, end: tuple[str, int, str | None]
) -> None:
    [image_id] = await images.submit(content)
    processors.queue.put(image_id)
    processors.start()
    await eventually(lambda: processors.queue.finished or processors.queue.requeued)
    row = await images.row(image_id)
    assert (row.status, row.attempt, row.error) == end
    assert row.claim_token is None
    assert processors.queue.requeued == ([image_id] if row.status == "pending" else [])
    if row.status == "pending":
        assert row.due_at == images.clock() + 10_000
    if row.status == "processed":
        assert row.processed_at == images.clock()
    assert processors.recogniser.image_ids == ([image_id] if content else [])


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a//b", "http://host/a.jpg"])
async def test_a_path_is_checked_where_it_is_read(
    images: Images, processors: Processors, path: str
) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    images.pictures.objects[f"pictures/{path}"] = PictureContent.TWO_FACES
    await images.update(image_id, path=path)
    processors.queue.put(image_id)
    processors.start()
    await images.reach("rejected")
    assert "path" in (await images.row(image_id)).error


async def test_a_picture_that_is_not_there_or_too_large_is_rejected(
    images: Images, processors: Processors, folder_store_settings: ObjectStoreSettings
) -> None:
    missing, large = await images.submit(PictureContent.TWO_FACES, PictureContent.TWO_FACES)
    store = ObjectStore(folder_store_settings)
    await store.put("pictures/p1", bytes(MAX_PICTURE_BYTES + 1))
    processors.queue.put(missing, large)
    processors.start(pictures=store)
    await images.reach("rejected", "rejected")
    assert (await images.row(missing)).error == "there is no picture p0"
    assert f"the limit is {MAX_PICTURE_BYTES}" in (await images.row(large)).error


async def test_a_key_that_the_store_refuses_is_rejected_at_once(
    images: Images, processors: Processors
) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    images.pictures.refused = set(images.pictures.objects)
    processors.queue.put(image_id)
    processors.start()
    await images.reach("rejected")
    row = await images.row(image_id)
    assert (row.attempt, row.error.endswith("your key is too long")) == (1, True)


async def test_attempts_end_in_dead_with_the_last_error(
    images: Images, processors: Processors
) -> None:
    [image_id] = await images.submit(PictureContent.FATAL)
    processors.start()
    for attempt in range(1, 6):
        processors.queue.put(image_id)
        await eventually(lambda: len(processors.queue.finished) == attempt)  # noqa: B023
        row = await images.row(image_id)
        assert (row.attempt, row.status) == (attempt, "failed" if attempt < 5 else "dead")
        images.clock.advance(20)
    assert (row.due_at, row.error) == (None, "the worker died")
    processors.queue.put(image_id)
    await eventually(lambda: len(processors.queue.finished) == 6)
    assert await images.row(image_id) == row, "a ring for a dead image changes nothing"


@pytest.mark.parametrize("content", [PictureContent.UNANSWERED, FakeRecogniser.CRASH])
async def test_a_picture_that_a_working_recogniser_never_answers_ends_in_dead(
    images: Images, processors: Processors, content: bytes
) -> None:
    [image_id] = await images.submit(content)
    processors.start()
    for attempt in range(1, 6):
        processors.queue.put(image_id)

        async def attempted() -> bool:
            row = await images.row(image_id)
            return bool(row.attempt == attempt and row.claim_token is None)  # noqa: B023

        await eventually(attempted)
        images.clock.advance(20)
    assert (await images.row(image_id)).status == "dead"
    assert len(processors.recogniser.image_ids) == 5


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_recogniser_that_hangs_uses_up_no_attempt(
    images: Images, processors: Processors, concurrency: int
) -> None:
    processors.recogniser.hung = True
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    processors.start(concurrency=concurrency)
    for tries in range(1, 6):
        processors.queue.put(image_id)
        await eventually(lambda: len(processors.recogniser.image_ids) == tries)  # noqa: B023
    await eventually(lambda: processors.queue.paused)
    await images.reach("pending")
    assert (await images.row(image_id)).attempt == 0
    processors.recogniser.hung = False
    await processors.time.advance(15)
    await images.reach("processed")
    assert (await images.row(image_id)).attempt == 1


@pytest.mark.parametrize("status", ["rejected", "dead"])
async def test_a_person_sends_it_back_and_it_is_processed(
    images: Images, processors: Processors, status: str
) -> None:
    [image_id] = await images.submit(
        PictureContent.UNREADABLE if status == "rejected" else PictureContent.FATAL
    )
    await images.update(image_id, attempt=4)
    processors.queue.put(image_id)
    processors.start()
    await images.reach(status)
    images.pictures.objects["pictures/p0"] = PictureContent.TWO_FACES
    await images.update(
        image_id, status="pending", attempt=0, error=None, due_at=images.clock() + 10_000
    )
    processors.queue.put(image_id)
    await images.reach("processed")
    row = await images.row(image_id)
    assert (row.attempt, row.error, row.due_at) == (1, None, None)
    assert len(await images.faces(image_id)) == 2


async def test_rings_for_the_same_image_make_one_attempt(
    images: Images, processors: Processors
) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    for _ in range(20):
        processors.queue.put(image_id)
    processors.start()
    processors.start()
    await eventually(lambda: len(processors.queue.finished) == 20)
    assert processors.recogniser.image_ids == [image_id]
    assert (await images.row(image_id)).attempt == 1


async def test_a_lost_claim_is_superseded_by_its_new_owner(
    images: Images, processors: Processors
) -> None:
    [image_id] = await images.submit(PictureContent.UNFINISHED)
    processors.queue.put(image_id)
    processors.start()
    await eventually(lambda: processors.recogniser.working)
    images.clock.advance(31)
    other = await images.claim(image_id)
    processors.recogniser.release.set()
    await eventually(lambda: processors.queue.finished)
    row = await images.row(image_id)
    assert (row.status, row.claim_token) == ("processing", other.token)
    assert await images.faces(image_id) == []


async def test_deletion_in_mid_work_leaves_nothing_behind(
    images: Images, processors: Processors, database: Database
) -> None:
    [image_id] = await images.submit(PictureContent.UNFINISHED)
    processors.queue.put(image_id)
    processors.start()
    await eventually(lambda: processors.recogniser.working)
    async with database.transaction() as connection:
        await connection.execute(sa.delete(tables.images).where(tables.images.c.id == image_id))
    processors.recogniser.release.set()
    await eventually(lambda: processors.queue.finished)
    assert await images.row(image_id) is None
    assert await images.faces(image_id) == []


async def test_the_lease_is_renewed_and_the_ring_touched_while_it_works(
    images: Images, processors: Processors
) -> None:
    [image_id] = await images.submit(PictureContent.UNFINISHED)
    processors.queue.put(image_id)
    processors.start(renew_seconds=0.05)
    await eventually(lambda: processors.recogniser.working)
    for _ in range(3):
        images.clock.advance(25)

        async def renewed() -> bool:
            return bool((await images.row(image_id)).due_at == images.clock() + 30_000)

        await eventually(renewed)
    assert image_id in processors.queue.touched
    processors.recogniser.release.set()
    await images.reach("processed")


async def test_a_lost_lease_ends_the_work(images: Images, processors: Processors) -> None:
    [image_id] = await images.submit(PictureContent.UNFINISHED)
    processors.queue.put(image_id)
    processors.start(renew_seconds=0.05)
    await eventually(lambda: processors.recogniser.working)
    await images.update(image_id, status="pending", claim_token=None)
    await eventually(lambda: not processors.recogniser.working and processors.queue.finished)
    assert (await images.row(image_id)).status == "pending"


async def test_several_pictures_are_in_flight(images: Images, processors: Processors) -> None:
    processors.queue.put(*await images.submit(*[PictureContent.UNFINISHED] * 6))
    processors.start()
    await eventually(lambda: processors.recogniser.working == 4)
    assert sorted(await images.statuses()) == ["pending"] * 2 + ["processing"] * 4
    processors.recogniser.release.set()
    await images.reach(*["processed"] * 6)


async def test_pictures_that_need_long_stop_no_others(
    images: Images, processors: Processors
) -> None:
    long = await images.submit(*[FakeRecogniser.LONG] * 8)
    others = await images.submit(*[PictureContent.TWO_FACES] * 20)
    processors.queue.put(*long, *others)
    processors.start()
    await images.reach(*["processing"] * 8, *["processed"] * 20)
    assert processors.queue.in_flight == 4 + 8
    processors.recogniser.release.set()
    await images.reach(*["processed"] * 28)
    await eventually(lambda: processors.queue.in_flight == 4)
    processors.recogniser.release.clear()
    processors.queue.put(*await images.submit(*[PictureContent.UNFINISHED] * 6))
    await eventually(lambda: processors.recogniser.working == 4)
    await images.reach(*["processed"] * 28, *["processing"] * 4, *["pending"] * 2)
    processors.recogniser.release.set()


async def test_a_second_ring_for_a_picture_that_needs_long_takes_nobodys_place(
    images: Images, processors: Processors
) -> None:
    [image_id] = await images.submit(FakeRecogniser.LONG)
    processors.queue.put(image_id)
    processors.start(concurrency=1)
    await eventually(lambda: processors.queue.in_flight == 2)
    processors.queue.put(image_id)
    await eventually(lambda: processors.queue.finished == [image_id])
    processors.queue.put(*await images.submit(PictureContent.TWO_FACES))
    await images.reach("processing", "processed")
    processors.recogniser.release.set()


async def test_draining_finishes_what_is_in_flight_and_takes_nothing_more(
    images: Images, processors: Processors
) -> None:
    ids = await images.submit(*[PictureContent.UNFINISHED] * 5)
    processors.queue.put(*ids)
    processors.start()
    await eventually(lambda: processors.recogniser.working == 4)
    stopping = asyncio.create_task(processors.stop())
    await eventually(processors.stopping.is_set)
    processors.recogniser.release.set()
    await stopping
    assert await images.statuses() == ["processed"] * 4 + ["pending"]
    assert sorted(processors.queue.finished) == ids[:4]
    assert not processors.queue.taken


async def test_what_outlasts_the_grace_is_given_back_with_its_attempt(
    images: Images, processors: Processors
) -> None:
    [image_id] = await images.submit(PictureContent.UNFINISHED)
    processors.queue.put(image_id)
    processors.start(grace_seconds=0.05)
    await eventually(lambda: processors.recogniser.working)
    await processors.stop()
    row = await images.row(image_id)
    assert (row.status, row.attempt, row.claim_token) == ("pending", 0, None)
    assert processors.queue.requeued == [image_id]
    assert not processors.queue.taken


async def test_an_outage_of_the_recogniser_fails_no_image_and_uses_up_no_attempt(
    images: Images, processors: Processors
) -> None:
    ids = await images.submit(*[PictureContent.TWO_FACES] * 12)
    processors.queue.put(*ids)
    processors.recogniser.up = False
    processors.start()
    await eventually(lambda: processors.queue.paused)
    await eventually(lambda: not processors.queue.taken)
    tried = len(processors.recogniser.image_ids)
    await processors.time.advance(300)  # pings go on, and nobody is asked for a picture
    assert len(processors.recogniser.image_ids) == tried
    rows = [await images.row(image_id) for image_id in ids]
    assert {(row.status, row.attempt) for row in rows} == {("pending", 0)}
    processors.recogniser.up = True
    await processors.time.advance(15)
    await images.reach(*["processed"] * 12)
    assert {(await images.row(image_id)).attempt for image_id in ids} == {1}
    assert (processors.breaker_states[0], processors.breaker_states[-1]) == (2, 0)


async def test_what_is_in_flight_when_the_breaker_opens_is_released(
    images: Images, processors: Processors
) -> None:
    [image_id] = await images.submit(PictureContent.UNFINISHED)
    processors.queue.put(image_id)
    processors.start()
    await eventually(lambda: processors.recogniser.working)
    for _ in range(5):
        processors.breakers[0].fault()
    await images.reach("pending")
    assert (await images.row(image_id)).attempt == 0
    assert processors.recogniser.working == 0


async def test_a_store_that_is_away_uses_up_no_attempt_and_is_said_once(
    images: Images, processors: Processors
) -> None:
    images.pictures.up = False
    ids = await images.submit(PictureContent.TWO_FACES, PictureContent.TWO_FACES)
    with structlog.testing.capture_logs() as logs:
        processors.start()
        processors.queue.put(*ids)
        await eventually(lambda: [entry["event"] for entry in logs].count("attempt ended") >= 4)
        images.pictures.up = True
        await images.reach("processed", "processed")
    assert [(await images.row(image_id)).attempt for image_id in ids] == [1, 1]
    events = [entry["event"] for entry in logs]
    assert events.count("object store is away") == 1
    assert events.count("object store is back") == 1


async def test_one_picture_that_cannot_be_read_fails_alone(
    images: Images, processors: Processors
) -> None:
    damaged, other = await images.submit(PictureContent.TWO_FACES, PictureContent.TWO_FACES)
    images.pictures.damaged.add(f"pictures/{(await images.row(damaged)).path}")
    processors.start()
    processors.queue.put(damaged, other)
    await images.reach("failed", "processed")
    assert "input/output error" in (await images.row(damaged)).error


async def test_an_unexpected_error_fails_the_image_and_not_the_processor(
    images: Images, processors: Processors, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = processors.recogniser.identify

    async def identify(picture: bytes, image_id: int, on_long: Any) -> Any:
        if image_id == broken:
            raise ZeroDivisionError("on purpose")
        return await answer(picture, image_id, on_long)

    monkeypatch.setattr(processors.recogniser, "identify", identify)
    broken, other = await images.submit(PictureContent.TWO_FACES, PictureContent.TWO_FACES)
    processors.queue.put(broken, other)
    processors.start()
    await images.reach("failed", "processed")
    assert "ZeroDivisionError" in (await images.row(broken)).error


async def test_the_logs_carry_the_image_id(images: Images, processors: Processors) -> None:
    [image_id] = await images.submit(PictureContent.TWO_FACES)
    processors.queue.put(image_id)
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        processors.start()
        await images.reach("processed")
        await eventually(lambda: logs)
    [entry] = logs
    assert entry["event"] == "attempt ended"
    assert (entry["image_id"], entry["outcome"], entry["attempt"]) == (image_id, "processed", 1)


async def test_a_database_that_goes_away_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    server = MariaDb(tmp_path).start()
    settings = DatabaseSettings(database_url=server.url("mysql"))
    migrate(settings)
    database = Database(settings)
    images = Images(database)
    processors = Processors(images)
    ids = await images.submit(
        PictureContent.UNFINISHED, PictureContent.TWO_FACES, PictureContent.TWO_FACES
    )
    processors.queue.put(ids[0])
    processors.start(concurrency=2)
    await eventually(lambda: processors.recogniser.working)
    with structlog.testing.capture_logs() as logs:
        server.kill()
        processors.recogniser.release.set()
        processors.queue.put(*ids[1:])
        await eventually(lambda: {ids[1], ids[2]} <= set(processors.queue.requeued))
        assert processors.queue.finished == [], "no ring is done with before its commit"
        server.start()
        await images.reach(*["processed"] * 3)
        await processors.stop()
    events = [entry["event"] for entry in logs]
    assert events.count("database is away") == 1
    assert events.count("database is back") == 1
    await database.close()
    server.stop()
