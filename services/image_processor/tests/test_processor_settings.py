"""What an operator turns reaches the real process, and what cannot be is refused."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from services.common import tables
from services.common.clock import database_now
from services.common.objects import ObjectStore
from services.common.picture_formats import MAX_PICTURE_BYTES
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.image_processor import settings
from services.image_processor.settings import ImageProcessorSettings
from services.image_processor.tests.conftest import Images
from services.testing.clients import pod
from services.testing.processes import running
from services.testing.recogniser import PictureContent, RecogniserServer
from services.testing.servers import Nsqd, Nsqlookupd
from services.testing.waiting import eventually

MIB = 1024**2


def given(**more: Any) -> ImageProcessorSettings:
    return ImageProcessorSettings(
        database_url="sqlite+aiosqlite:///nowhere",
        object_store_url="file:///nowhere",
        face_recog_target="nowhere",
        **more,
    )


def test_a_ring_times_out_between_a_renewal_and_the_end_of_the_lease() -> None:
    for lease in (30, 90, 600):
        settings = given(lease_seconds=lease)
        assert settings.renew_seconds < settings.message_timeout_seconds < lease
        assert settings.rules.lease_ms == 1000 * lease


def test_pictures_in_flight_take_no_more_memory_than_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory, _ = pod("image-processor")
    monkeypatch.setattr(settings, "memory_limit", lambda: memory)
    assert given().concurrency == 4
    monkeypatch.setattr(settings, "memory_limit", lambda: 512 * MIB)
    with pytest.raises(ValidationError, match=r"CONCURRENCY 4, .* 2030 MiB .* are 512: lower"):
        given()


@pytest.fixture
def environment(
    database_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    recogniser_server: RecogniserServer,
) -> dict[str, str]:
    return {
        "DATABASE_URL": database_settings.database_url,
        "OBJECT_STORE_URL": folder_store_settings.object_store_url,
        "FACE_RECOG_TARGET": recogniser_server.target,
    }


@pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)
async def test_what_is_set_decides_when_an_image_is_dead_and_how_long_a_claim_lasts(
    images: Images,
    environment: dict[str, str],
    folder_store_settings: ObjectStoreSettings,
    recogniser_server: RecogniserServer,
) -> None:
    store = ObjectStore(folder_store_settings)
    await store.put("pictures/p0", PictureContent.FATAL)
    await store.put("pictures/p1", PictureContent.UNFINISHED)
    environment |= {"MAX_ATTEMPTS": "1", "LEASE_SECONDS": "500"}
    async with running("services.image_processor", **environment) as process:
        bad, slow = await images.submit(PictureContent.FATAL, PictureContent.UNFINISHED)
        await images.reach("dead", "processing")
        assert (await images.row(bad)).attempt == 1
        async with images.database.reading() as connection:
            left = sa.select(tables.images.c.due_at - database_now()).where(
                tables.images.c.id == slow
            )
            assert 400_000 < (await connection.scalar(left) or 0) <= 500_000
        recogniser_server.release.set()
        process.terminate()
        assert (await process.ended())[0] == 0


@pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)
async def test_pictures_in_flight_take_no_more_memory_than_is_counted_on(
    images: Images, environment: dict[str, str], folder_store_settings: ObjectStoreSettings
) -> None:
    store = ObjectStore(folder_store_settings)
    for number in range(8):
        await store.put(f"pictures/p{number}", bytes([number]) * MAX_PICTURE_BYTES)
    async with running("services.image_processor", **environment) as process:
        await images.submit(*[b"large"] * 8)
        await images.reach(*["processed"] * 8, seconds=60)
        status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak
    most = settings.PROCESS_BYTES + given().concurrency * settings.PICTURE_BYTES
    assert int(peak[1]) * 1024 <= most


@pytest.mark.parametrize("database_settings", ["sqlite"], indirect=True)
async def test_it_listens_to_the_topic_and_channel_that_are_set(
    environment: dict[str, str], nsqd: Nsqd, nsqlookupd: Nsqlookupd
) -> None:
    environment |= {
        "NSQLOOKUPD_URLS": f'["{nsqlookupd.http_url}"]',
        "NSQ_TOPIC": "photos",
        "NSQ_CHANNEL": "faces",
    }
    address = f"{nsqd.http_url}/stats?format=json&topic=photos"
    async with running("services.image_processor", **environment), httpx.AsyncClient() as client:

        async def listens() -> bool:
            topics = (await client.get(address)).json()["topics"] or ()
            channels = [channel for topic in topics for channel in topic["channels"]]
            return [channel["channel_name"] for channel in channels] == ["faces"]

        await eventually(listens)
