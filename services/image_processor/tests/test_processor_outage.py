"""A real recogniser that stops and comes back, a real NSQ, and the real process."""

from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from services.common import tables
from services.common.availability import AvailabilityLog
from services.common.facerecog.client import RecogniserClient
from services.common.nsqd import NsqDoorbell
from services.common.objects import ObjectStore
from services.common.settings import CHANNEL, TOPIC, DatabaseSettings, ObjectStoreSettings
from services.image_processor.adapters.nsq_queue import NsqQueue
from services.image_processor.adapters.row_poller import RowPoller
from services.image_processor.tests.conftest import Images, Processors
from services.local.processes import free_port
from services.testing.processes import running
from services.testing.recogniser import PictureContent, RecogniserServer
from services.testing.servers import Nsqd, Nsqlookupd
from services.testing.waiting import eventually


async def _back(images: Images, processors: Processors, count: int) -> None:
    """Let cool-downs pass until the breaker has closed and everything is processed."""

    async def processed() -> bool:
        await processors.time.advance(15)
        return bool(await images.statuses() == ["processed"] * count)

    await eventually(processed)


async def test_with_nsq_an_outage_pauses_the_reader_and_fails_no_image(
    *,
    images: Images,
    processors: Processors,
    recogniser_server: RecogniserServer,
    recogniser_client: RecogniserClient,
    nsqd: Nsqd,
    nsqlookupd: Nsqlookupd,
) -> None:
    queue = NsqQueue([nsqlookupd.http_url], max_in_flight=4)
    doorbell = NsqDoorbell(nsqd.http_url)
    ids = await images.submit(*[PictureContent.UNFINISHED] * 2, *[PictureContent.TWO_FACES] * 8)
    await doorbell.ring(ids[:2])
    processors.start(queue, client=recogniser_client)
    await eventually(lambda: len(recogniser_server.image_ids) == 2)
    await recogniser_server.stop()  # with two pictures in flight
    await doorbell.ring(ids[2:])
    await eventually(lambda: 2 in processors.breaker_states)

    async def paused() -> bool:
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"{nsqd.http_url}/stats?format=json&topic={TOPIC}")
        [channel] = answer.json()["topics"][0]["channels"]
        assert channel["channel_name"] == CHANNEL
        assert [reader["ready_count"] for reader in channel["clients"]] == [0]
        assert channel["in_flight_count"] == 0
        return True

    await eventually(paused)
    rows = [await images.row(image_id) for image_id in ids]
    assert {(row.status, row.attempt) for row in rows} == {("pending", 0)}
    recogniser_server.release.set()
    await recogniser_server.start()
    await _back(images, processors, 10)
    assert {(await images.row(image_id)).attempt for image_id in ids} == {1}
    await processors.stop()
    await queue.close()
    await doorbell.close()


async def test_with_polled_rows_an_outage_stops_the_polling_and_fails_no_image(
    images: Images,
    processors: Processors,
    recogniser_server: RecogniserServer,
    recogniser_client: RecogniserClient,
) -> None:
    polls = 0

    async def pending(limit: int) -> list[int]:
        nonlocal polls
        polls += 1
        return list(await images.rows.pending(limit))

    queue = RowPoller(pending, poll_seconds=0.01, database=AvailabilityLog("database"))
    await recogniser_server.stop()
    await images.submit(*[PictureContent.TWO_FACES] * 10)
    processors.start(queue, client=recogniser_client)
    await eventually(lambda: 2 in processors.breaker_states)
    await images.reach(*["pending"] * 10)
    before = polls
    await processors.time.advance(300)
    assert polls - before <= 1, "at most the one that was on its way"
    await recogniser_server.start()
    await _back(images, processors, 10)
    async with images.database.reading() as connection:
        assert set(await connection.scalars(sa.select(tables.images.c.attempt))) == {1}


async def test_polling_goes_on_when_the_rows_are_there_at_last(
    images: Images, processors: Processors
) -> None:
    async with images.database.transaction() as connection:
        await connection.execute(sa.text("ALTER TABLE images RENAME TO not_yet"))
    away = AvailabilityLog("database")
    queue = RowPoller(images.rows.pending, poll_seconds=0.01, database=away)
    processors.start(queue)
    await eventually(lambda: away.away)
    async with images.database.transaction() as connection:
        await connection.execute(sa.text("ALTER TABLE not_yet RENAME TO images"))
    await images.submit(PictureContent.TWO_FACES)
    await _back(images, processors, 1)


async def test_two_processors_share_polled_rows(images: Images, processors: Processors) -> None:
    ids = await images.submit(*[PictureContent.TWO_FACES] * 40)
    for _ in range(2):
        processors.start(
            RowPoller(images.rows.pending, poll_seconds=0.01, database=AvailabilityLog("database"))
        )
    await images.reach(*["processed"] * 40)
    assert sorted(processors.recogniser.image_ids) == ids


@pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)
@pytest.mark.parametrize("queue", ["rows", "nsq"])
async def test_the_process_works_and_drains(
    request: pytest.FixtureRequest,
    *,
    queue: str,
    images: Images,
    database_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    recogniser_server: RecogniserServer,
) -> None:
    if queue == "nsq":
        lookupd, nsqd = map(request.getfixturevalue, ("nsqlookupd", "nsqd"))
    store = ObjectStore(folder_store_settings)
    contents = [
        PictureContent.TWO_FACES,
        PictureContent.NO_FACE,
        PictureContent.UNREADABLE,
        PictureContent.UNFINISHED,
    ]
    ids = await images.submit(*contents)
    more = {}
    if queue == "nsq":
        more["NSQLOOKUPD_URLS"] = f'["{lookupd.http_url}"]'
        doorbell = NsqDoorbell(nsqd.http_url)
        await doorbell.ring(ids)
        await doorbell.close()
    for number, content in enumerate(contents):
        await store.put(f"pictures/p{number}", content)
    async with running(
        "services.image_processor",
        DATABASE_URL=database_settings.database_url,
        OBJECT_STORE_URL=folder_store_settings.object_store_url,
        FACE_RECOG_TARGET=recogniser_server.target,
        **more,
    ) as process:
        await images.reach("processed", "processed", "rejected", "processing")
        assert (await process.get("/readyz")).is_success
        page = (await process.get("/metrics")).text
        process.terminate()
        recogniser_server.release.set()
        status, output = await process.ended()
    assert status == 0
    assert await images.statuses() == ["processed", "processed", "rejected", "processed"]
    for line in (
        'facestack_attempts_total{outcome="processed"} 2.0',
        'facestack_attempts_total{outcome="dead"} 0.0',
        "facestack_breaker_state 0.0",
        "facestack_images_in_flight 1.0",
        'facestack_requests_total{operation="process"} 3.0',
    ):
        assert line in page
    assert '"image_id": 4' in output
    assert "Traceback" not in output


async def test_the_process_on_nsq_outlives_the_absence_of_everything(tmp_path: Path) -> None:
    async with running(
        "services.image_processor",
        DATABASE_URL=f"mysql+asyncmy://root@127.0.0.1:{free_port()}/none",
        OBJECT_STORE_URL=f"file://{tmp_path}/store",
        FACE_RECOG_TARGET=f"127.0.0.1:{free_port()}",
        NSQLOOKUPD_URLS=f'["http://127.0.0.1:{free_port()}"]',
    ) as process:
        answer = await process.get("/readyz")
        assert answer.status_code == 503
        assert list(answer.json()["problems"]) == ["database"]
        process.terminate()
        status, output = await process.ended()
    assert status == 0
    assert output.count("nsqlookupd at") == 1
    assert "Traceback" not in output
