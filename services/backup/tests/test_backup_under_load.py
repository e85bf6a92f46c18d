"""Backups of what a real receiver and a real redeemer work on meanwhile."""

import asyncio
import io
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from PIL import Image

from services.backup.tests.conftest import Place, Site, objects, rows
from services.common.tables import images
from services.local.processes import free_port
from services.testing.processes import running
from services.testing.waiting import eventually

_numbers = itertools.count(1)


def picture() -> bytes:
    """Return a picture that nobody has seen."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), tuple(next(_numbers).to_bytes(3))).save(file, "PNG")
    return file.getvalue()


class Load:
    """Clients that upload, and delete half of what they have uploaded."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)
        self.uploaded = 0
        self.deleted = 0

    async def run(self) -> None:
        while True:
            files = [("files", (f"{n}.png", picture(), "image/png")) for n in range(4)]
            answer = (await self.client.post("/images", files=files)).raise_for_status()
            ids = [one["id"] for one in answer.json()["images"]]
            self.uploaded += len(ids)
            for image_id in ids[::2]:
                (await self.client.delete(f"/images/{image_id}")).raise_for_status()
                self.deleted += 1


@asynccontextmanager
async def under_load(place: Place) -> AsyncIterator[Load]:
    environment = {**place.settings, "FACE_RECOG_TARGET": f"127.0.0.1:{free_port()}"}
    async with (
        running("services.receiver", **environment) as receiver,
        running("services.redeemer", SWEEP_SECONDS="0.05", **place.settings),
    ):
        load = Load(receiver.url)
        async with load.client:
            clients = [asyncio.ensure_future(load.run()) for _ in range(2)]
            await eventually(lambda: load.deleted >= 10)
            yield load
            for client in clients:
                client.cancel()
            await asyncio.wait(clients)


async def test_what_is_restored_is_what_was_there(site: Site) -> None:
    first, second = site.empty
    async with under_load(site.live) as load:
        before = load.deleted
        await site.run(site.live, "take")
        assert load.deleted > before, "nothing was deleted while it was taken"

    # Of what was taken under load, every row has its object.
    await site.run(first, "restore")
    restored = await objects(first)
    columns = [column.name for column in images.columns]
    digests = {}
    for row in (await rows(first))["images"]:
        image = dict(zip(columns, row, strict=True))
        digests[f"pictures/{image['path']}"] = image["content_digest"]
    assert len(digests) >= 10
    assert {key: restored.get(key) for key in digests} == digests

    # What is taken when all is quiet is the same to the last row and object.
    await site.run(site.live, "take")
    await site.run(site.live, "verify")
    await site.run(second, "restore")
    assert await rows(second) == await rows(site.live)
    assert await objects(second) == await objects(site.live)
