"""Deleting, storing again and submitting again, one after the other and at once."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from services.common.changes import CHANGES
from services.common.database import Database
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.common.tables import faces, garbage, images
from services.receiver.adapters.rows.images import DatabaseImages
from services.receiver.domain.submissions import Accepted, Upload
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import (
    Configure,
    FakeRecogniser,
    Launch,
    collect,
    draw,
    encode,
)

RED = encode(draw(("red", (10, 10, 50, 50)), size=(60, 60)))
GREEN = encode(draw(("green", (10, 10, 50, 50)), size=(60, 60)))

GRACE_MS = 121_000


def folder(settings: ReceiverSettings) -> Path:
    return Path(settings.object_store_url.removeprefix("file://"))


def stored(settings: ReceiverSettings) -> list[str]:
    """Return the keys of all objects but the markers, which face_recog removes."""
    root = folder(settings)
    keys = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return sorted(key for key in keys if not key.startswith(CHANGES))


def put_by_hand(settings: ReceiverSettings, path: str, content: bytes) -> None:
    file = folder(settings) / "pictures" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


async def change(settings: ReceiverSettings, **values: Any) -> None:
    database = Database(settings)
    async with database.transaction() as connection:
        await connection.execute(sa.update(images).values(values))
    await database.close()


async def submit(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.post("/image/post", json={"path": path})).json()
    return answer


async def upload(client: httpx.AsyncClient, content: bytes) -> dict[str, Any]:
    answer = await client.post("/images", files={"files": ("a.jpg", content)})
    assert answer.status_code == 202, answer.text
    (accepted,) = answer.json()["images"]
    return dict(accepted)


async def looked_at(client: httpx.AsyncClient, settings: ReceiverSettings) -> dict[str, Any]:
    """Return a path that is processed, with a face, as an image_processor leaves it."""
    put_by_hand(settings, "front.png", RED)
    accepted = await submit(client, "front.png")
    tag = await ObjectStore(settings).tag("pictures/front.png")
    database = Database(settings)
    face = {"left": 10, "top": 10, "right": 50, "bottom": 50, "detection_score": 1.0}
    async with database.transaction() as connection:
        await connection.execute(sa.update(images).values(status="processed", object_tag=tag))
        await connection.execute(
            sa.insert(faces).values(
                **face, image_id=accepted["id"], face_index=0, ambiguous=False, candidates=[]
            )
        )
    await database.close()
    return accepted


async def test_a_path_whose_picture_was_replaced_is_looked_at_again_when_it_is_submitted(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    first = await looked_at(client, settings)
    assert (await submit(client, "front.png"))["status"] == "processed"
    assert (await client.post(f"{first['location']}/retry")).status_code == 409
    put_by_hand(settings, "front.png", GREEN)
    many = await client.post("/images/post", json={"paths": [{"path": "front.png"}]})
    (again,) = many.json()["images"]
    assert again == {**first, "duplicate": True}
    image = (await client.get(first["location"])).json()
    assert (image["status"], image["attempt"], image["faces"]) == ("pending", 0, [])


async def test_a_replaced_picture_can_be_tried_again(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    first = await looked_at(client, settings)
    put_by_hand(settings, "front.png", GREEN)
    answer = await client.post(f"{first['location']}/retry")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")


async def test_the_result_outlives_its_picture(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    first = await looked_at(client, settings)
    before = (await client.get(first["location"])).json()
    (folder(settings) / "pictures" / "front.png").unlink()
    assert (await submit(client, "front.png"))["status"] == "processed"
    assert (await client.post(f"{first['location']}/retry")).status_code == 409
    assert (await client.get(first["location"])).json() == before


async def test_no_face_of_a_replaced_picture_is_named(
    client: httpx.AsyncClient, settings: ReceiverSettings, recogniser: FakeRecogniser
) -> None:
    first = await looked_at(client, settings)
    put_by_hand(settings, "front.png", GREEN)
    face = {"image_id": first["id"], "face_index": 0}
    refused = await client.post("/people/Ada/pictures", json=face)
    assert refused.status_code == 409
    assert "has changed" in refused.json()["detail"]
    assert (await client.get("/people")).json() == {"people": [], "next_cursor": None}
    assert recogniser.asked == 0
    put_by_hand(settings, "front.png", RED)  # another file all the same, and nobody compares pixels
    assert (await client.post("/people/Ada/pictures", json=face)).status_code == 409


async def test_a_file_that_came_after_the_result_stays(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    first = await looked_at(client, settings)
    put_by_hand(settings, "front.png", GREEN)
    assert (await client.delete(first["location"])).status_code == 204
    await collect(settings)
    again = await submit(client, "front.png")
    assert not again["duplicate"]
    assert (await client.get(again["location"] + "/picture")).content == GREEN


async def test_a_file_that_is_put_again_after_the_deletion_stays(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    put_by_hand(settings, "front.png", RED)
    first = await submit(client, "front.png")
    assert (await client.delete(first["location"])).status_code == 204
    put_by_hand(settings, "front.png", RED)
    await collect(settings)
    assert stored(settings) == ["pictures/front.png"]


@pytest.mark.parametrize("status", ["rejected", "dead"])
async def test_what_ended_badly_is_looked_at_again_when_it_is_submitted_again(
    client: httpx.AsyncClient, settings: ReceiverSettings, status: str
) -> None:
    path, content = await submit(client, "a.jpg"), await upload(client, b"content")
    await change(settings, status=status, error="broken", attempt=5)
    for first, again in (
        (path, await submit(client, "a.jpg")),
        (content, await upload(client, b"content")),
    ):
        assert again == {**first, "duplicate": True}
        image = (await client.get(first["location"])).json()
        assert (image["status"], image["attempt"], image["error"]) == ("pending", 0, None)


async def test_a_lost_object_is_stored_again_by_the_next_upload(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    first = await upload(client, b"content")
    await change(settings, status="rejected", error="there is no picture")
    (folder(settings) / "pictures" / first["path"]).unlink()
    again = await upload(client, b"content")
    assert (again["id"], again["duplicate"]) == (first["id"], True)
    assert (await client.get(first["location"])).json()["status"] == "pending"
    await collect(settings, later_ms=GRACE_MS)
    assert (await client.get(first["location"] + "/picture")).content == b"content"
    assert stored(settings) == [f"pictures/{again['path']}"]


async def test_a_deletion_takes_the_object_that_replaced_a_lost_one_with_it(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await upload(client, b"content")
    (folder(settings) / "pictures" / first["path"]).unlink()
    delete = DatabaseImages.delete

    async def overtaken(self: DatabaseImages, *arguments: Any) -> bool:
        monkeypatch.undo()
        assert (await upload(client, b"content"))["id"] == first["id"]
        return await delete(self, *arguments)

    monkeypatch.setattr(DatabaseImages, "delete", overtaken)
    assert (await client.delete(first["location"])).status_code == 204
    assert (await client.get(first["location"])).status_code == 404
    await collect(settings, later_ms=GRACE_MS)
    assert stored(settings) == []


async def test_a_lost_known_picture_is_stored_again_by_the_next_enrolment(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    async def enrol() -> dict[str, Any]:
        answer = await client.post("/people/Ada/pictures", files={"file": ("a.png", RED)})
        return dict(answer.json())

    first = await enrol()
    (folder(settings) / "known_people" / first["image_name"]).unlink()
    again = await enrol()
    assert again["id"] == first["id"]
    await collect(settings, later_ms=GRACE_MS)
    assert stored(settings) == [f"known_people/{again['image_name']}"]


async def test_what_takes_too_long_is_refused_and_leaves_nothing(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_uploads = DatabaseImages.add_uploads

    async def late(self: DatabaseImages, uploads: Sequence[Upload]) -> list[Accepted] | None:
        await collect(plain_settings, later_ms=GRACE_MS)
        return await add_uploads(self, uploads)

    with monkeypatch.context() as patch:
        patch.setattr(DatabaseImages, "add_uploads", late)
        answer = await plain.post("/images", files={"files": ("a.jpg", b"content")})
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert (await plain.get("/images")).json()["images"] == []
    assert stored(plain_settings) == []
    accepted = await upload(plain, b"content")
    assert (await plain.get(accepted["location"] + "/picture")).content == b"content"


async def test_uploads_beside_deletions_of_the_same_content_end_in_either_order(
    database_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    configure: Configure,
    launch: Launch,
) -> None:
    settings = configure(database_settings, folder_store_settings)
    process = await asyncio.to_thread(launch, settings)
    kept = []
    async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
        for turn in range(30):
            content = os.urandom(20_000)
            first = await upload(client, content)

            async def later(seconds: float, content: bytes = content) -> dict[str, Any]:
                await asyncio.sleep(seconds)
                return await upload(client, content)

            deleted, second, _ = await asyncio.gather(
                client.delete(first["location"]),
                later(turn % 4 * 0.001),
                collect(settings),
            )
            assert deleted.status_code == 204
            if second["id"] != first["id"]:
                kept.append((second, content))
        await collect(settings, later_ms=GRACE_MS)
        assert kept
        for one, content in kept:
            assert (await client.get(one["location"] + "/picture")).content == content
    assert stored(settings) == sorted(f"pictures/{one['path']}" for one, _ in kept)
    await collect(settings, later_ms=2 * 3_600_000)
    database = Database(settings)
    async with database.reading() as connection:
        assert (await connection.execute(sa.select(garbage))).all() == []
    await database.close()
