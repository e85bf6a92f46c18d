"""Thumbnails whose picture somebody deleted who knew nothing of them."""

from dataclasses import asdict, replace
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from services.common.clock import database_now
from services.common.database import Database
from services.common.errors import ObjectStoreUnavailableError
from services.common.faces import Box
from services.common.objects import ObjectStore
from services.common.settings import ObjectStoreSettings
from services.common.tables import faces, images, person_images, persons
from services.common.thumbnail_keys import (
    OF_IMAGES,
    OF_KNOWN,
    FacePlace,
    face_thumbnail_key,
    thumbnail_key,
)
from services.redeemer.adapters.garbage import DatabaseDueGarbage
from services.redeemer.service import collecting as module
from services.redeemer.service.collecting import Collector


@pytest.fixture
async def store(folder_store_settings: ObjectStoreSettings, database: Database) -> ObjectStore:
    """A store beside a database with the images 1 to 3 and the known picture 1.

    Image 2 has a face, and another that was struck out.
    """
    now: dict[str, Any] = {"created_at": 1}
    image = {**now, "status": "processed", "attempt": 1, "updated_at": 1, "name": "a"}
    face = {"image_id": 2, "detection_score": 1.0, "ambiguous": False, "candidates": []}
    box, struck_out = (
        {"image_id": FACE.image_id, **asdict(FACE.box)},
        {"left": 5, "struck_out": True},
    )
    async with database.transaction() as connection:
        await connection.execute(
            sa.insert(images),
            [{**image, "id": number, "path": f"{number}"} for number in (1, 2, 3)],
        )
        await connection.execute(
            sa.insert(faces),
            [
                {**face, **box, "face_index": 0, "struck_out": False},
                {**face, **box, "face_index": 1, **struck_out},
            ],
        )
        await connection.execute(sa.insert(persons).values(id=7, name="Ada", **now))
        await connection.execute(
            sa.insert(person_images).values(id=1, person_id=7, image_name="Ada/1.jpg", **now)
        )
    return ObjectStore(folder_store_settings)


FACE = FacePlace(2, Box(-10, 20, 30, 40))


def collector(database: Database, store: ObjectStore) -> Collector:
    return Collector(garbage=DatabaseDueGarbage(database, database_now), objects=store)


async def keys(store: ObjectStore) -> list[str]:
    return sorted([thumbnail.key async for thumbnail in store.list("thumbnails/")])


async def test_only_those_whose_picture_is_gone_go(
    store: ObjectStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKED_AT_ONCE", 3)
    kept = [
        *(thumbnail_key(OF_IMAGES, number, side) for number in (1, 2, 3) for side in (640, 1600)),
        thumbnail_key(OF_KNOWN, 1, 640),
        face_thumbnail_key(FACE, 256),
        "thumbnails/faces/by hand.jpg",
        "thumbnails/images/by hand.jpg",
    ]
    gone = [
        *(thumbnail_key(OF_IMAGES, number, 640) for number in range(4, 12)),
        thumbnail_key(OF_KNOWN, 2, 640),  # image 2 is another picture
        face_thumbnail_key(FACE._replace(box=replace(FACE.box, left=5)), 256),
        face_thumbnail_key(FACE._replace(box=replace(FACE.box, bottom=41)), 256),
        *(face_thumbnail_key(FACE._replace(image_id=number), 256) for number in (1, 4)),
    ]
    for key in (*kept, *gone, "pictures/uploads/4-640"):
        await store.put(key, b"content")
    await collector(database, store).collect_thumbnails()
    assert await keys(store) == sorted(kept)
    assert await store.exists("pictures/uploads/4-640")


async def test_a_store_that_is_away_is_said(
    store: ObjectStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> Any:
        raise ObjectStoreUnavailableError("no answer")

    monkeypatch.setattr(ObjectStore, "list", away)
    with structlog.testing.capture_logs() as logs:
        await collector(database, store).collect_thumbnails()
    assert [entry["event"] for entry in logs] == ["not all thumbnails were looked at"]
