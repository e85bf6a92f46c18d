import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import database_now
from services.common.database import Database
from services.common.objects import ObjectStore
from services.common.quality import Quality
from services.common.settings import DatabaseSettings
from services.common.tables import backups, encoding_work, face_encodings, faces, images, persons
from services.receiver.adapters.rows.images import page_query
from services.receiver.domain.people import Somebody
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import collect, draw, encode
from services.testing.fixtures import new_mariadb_settings
from services.testing.recogniser import ENCODING
from services.testing.servers import MariaDb


def image_row(number: int, status: str = "processed", **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "path": f"seeded/{number}",
        "name": f"{number}",
        "status": status,
        "attempt": 1,
        "created_at": 1_714_564_800_000 + number,
        "updated_at": 1_714_564_800_000,
        **more,
    }


def face_row(image_id: int, index: int = 0, person: str | None = None) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "face_index": index,
        "left": 1,
        "top": 2,
        "right": 3,
        "bottom": 4,
        "detection_score": 1.5,
        "ambiguous": False,
        "person": person,
        "distance": 0.25 if person else None,
        "candidates": (
            [{"person": person, "image_name": f"{person}/x.jpg", "distance": 0.25}]
            if person
            else []
        ),
        "quality": Quality(0.25, "blurred", 1.0, 0.25, 0.75, 0.5) if person else None,
    }


async def seed(
    settings: DatabaseSettings,
    image_rows: list[dict[str, Any]],
    face_rows: list[dict[str, Any]] | None = None,
) -> None:
    database = Database(settings)
    async with database.transaction() as connection:
        await connection.execute(sa.insert(images), image_rows)
        if face_rows:
            await connection.execute(sa.insert(faces), face_rows)
    await database.close()


async def test_an_image_shows_everything_that_is_known(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await seed(
        settings,
        [image_row(7, processed_at=1_714_564_801_234, width=640, height=480, engine="e1")],
        [face_row(7, 1), face_row(7, 0, "Ada")],
    )
    assert (await client.get("/images/7")).json() == {
        "id": 7,
        "path": "seeded/7",
        "name": "7",
        "status": "processed",
        "attempt": 1,
        "error": None,
        "created_at": "2024-05-01T12:00:00.007Z",
        "updated_at": "2024-05-01T12:00:00.000Z",
        "processed_at": "2024-05-01T12:00:01.234Z",
        "next_attempt_at": None,
        "width": 640,
        "height": 480,
        "engine": "e1",
        "faces": [
            {
                "index": 0,
                "box": {"left": 1, "top": 2, "right": 3, "bottom": 4},
                "detection_score": 1.5,
                "ambiguous": False,
                "person": "Ada",
                "person_id": None,
                "distance": 0.25,
                "decided_by": "machine",
                "candidates": [
                    {
                        "person": "Ada",
                        "image_name": "Ada/x.jpg",
                        "distance": 0.25,
                        "person_id": None,
                    }
                ],
                "quality": {
                    "score": 0.25,
                    "flaw": "blurred",
                    "size": 1.0,
                    "sharpness": 0.25,
                    "pose": 0.75,
                    "light": 0.5,
                },
                "denials": [],
                "denial_ids": [],
                "drawn": False,
            },
            {
                "index": 1,
                "box": {"left": 1, "top": 2, "right": 3, "bottom": 4},
                "detection_score": 1.5,
                "ambiguous": False,
                "person": None,
                "person_id": None,
                "distance": None,
                "decided_by": "machine",
                "candidates": [],
                "quality": None,
                "denials": [],
                "denial_ids": [],
                "drawn": False,
            },
        ],
        "struck_out": [],
    }


async def test_a_failed_image_says_when_it_is_tried_next(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await seed(settings, [image_row(1, "failed", due_at=1_714_564_802_000, error="away")])
    image = (await client.get("/images/1")).json()
    assert image["next_attempt_at"] == "2024-05-01T12:00:02.000Z"
    assert image["error"] == "away"


async def pages(client: httpx.AsyncClient, **filters: Any) -> list[list[int]]:
    found, cursor = [], None
    while True:
        parameters = {**filters, **({"cursor": cursor} if cursor else {})}
        page = (await client.get("/images", params=parameters)).raise_for_status().json()
        found.append([image["id"] for image in page["images"]])
        cursor = page["next_cursor"]
        if cursor is None:
            return found
        # Newer images arrive between two pages and must not shift them.
        await client.post("/image/post", json={"path": f"new/{len(found)}/{filters}"})


async def test_paging_gives_each_image_once_while_new_ones_arrive(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    statuses = ["processed", "dead", "rejected", "failed", "processed"]
    await seed(
        settings,
        [image_row(n, statuses[n % 5]) for n in range(1, 231)],
        [
            face_row(n, index, person)
            for n in range(1, 231)
            if statuses[n % 5] == "processed"
            # Ada is on some pictures twice.
            for index, person in enumerate(["Ada", "Ada"] if n % 2 else ["Grace"])
        ],
    )
    every = list(range(230, 0, -1))
    processed = [n for n in every if statuses[n % 5] == "processed"]
    ada = [n for n in processed if n % 2]
    for filters, expected in (
        ({}, every),
        ({"status": "dead"}, [n for n in every if n % 5 == 1]),
        ({"person": "Ada"}, ada),
        ({"person": "Ada", "status": "processed"}, ada),
        ({"person": "Ada", "status": "dead"}, []),
        ({"person": "Nobody"}, []),
    ):
        found = await pages(client, limit=7, **filters)
        assert [n for page in found for n in page if n <= 230] == expected, filters
        assert all(len(page) == 7 for page in found[:-1])
    assert [len(page) for page in await pages(client, limit=200, status="processed")] == [92]


async def test_a_page_that_is_just_full_is_the_last(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await seed(settings, [image_row(n) for n in range(1, 4)])
    page = (await client.get("/images", params={"limit": 3})).json()
    assert [image["id"] for image in page["images"]] == [3, 2, 1]
    assert page["next_cursor"] is None


@pytest.mark.parametrize(
    "cursor", ["", "x", "0", "000000000000002G", "8000000000000000", "0" * 17, "' OR 1=1"]
)
async def test_a_garbage_cursor_is_refused(plain: httpx.AsyncClient, cursor: str) -> None:
    answer = await plain.get("/images", params={"cursor": cursor})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/query/cursor"


async def test_pages_are_read_from_an_index(mariadb: MariaDb) -> None:
    settings = new_mariadb_settings(mariadb)
    database = Database(settings)
    async with database.transaction() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO images (path, name, status, attempt, created_at, updated_at)"
            " SELECT CONCAT('p/', seq), 'n', IF(seq MOD 50, 'processed', 'dead'), 1, seq, seq"
            " FROM seq_1_to_20000"
        )
        await connection.exec_driver_sql(
            "INSERT INTO faces (image_id, face_index, `left`, top, `right`, bottom,"
            " detection_score, ambiguous, person, person_id, distance, candidates)"
            " SELECT id, 0, 1, 1, 2, 2, 1.0, 0, IF(id MOD 2, 'Ada', 'Grace'), NULL, 0.2, '[]'"
            " FROM images WHERE status = 'processed'"
        )
        # Of one of them nearly all faces have an id, of the other none.
        await connection.execute(sa.insert(persons).values(id=7, name="Ada", created_at=1))
        await connection.exec_driver_sql(
            "UPDATE faces SET person_id = 7 WHERE person = 'Ada' AND image_id > 100"
        )
        await connection.exec_driver_sql("ANALYZE TABLE images, faces, persons")
    its = {"ix_faces_person_id_image_id", "ix_faces_person"}
    for status, person, indexes in (
        (None, None, {"PRIMARY"}),
        ("processed", None, {"ix_images_status_id"}),
        ("dead", None, {"ix_images_status_id"}),
        (None, Somebody(7, "Ada", "Ada"), its),
        (None, Somebody(7, "Ada", "Ada~2", has_name_alone=False), its),
        (None, Somebody(None, "Grace", "Grace"), its),
    ):
        for before in (None, 10_000):
            query = page_query(status=status, person=person, before=before, limit=51)
            text = query.compile(
                dialect=sa.dialects.mysql.dialect(), compile_kwargs={"literal_binds": True}
            )
            async with database.reading() as connection:
                plan = (await connection.exec_driver_sql(f"EXPLAIN {text}")).mappings().all()
            # The two parts of a page of a person are put together and sorted, a page at most each.
            reads = [row for row in plan if not (row["table"] or "").startswith("<")]
            assert {row["key"] for row in reads if row["table"]} <= indexes, plan
            assert not {"ALL", "index_merge"} & {row["type"] for row in reads}, plan
            for row in reads:
                assert "filesort" not in (row["Extra"] or ""), plan
                assert "temporary" not in (row["Extra"] or ""), plan
    await database.close()


@pytest.mark.parametrize("status", ["rejected", "dead"])
async def test_what_ended_badly_can_be_tried_again(
    client: httpx.AsyncClient, settings: ReceiverSettings, status: str
) -> None:
    row = image_row(1, status, error="broken", processed_at=5, attempt=5)
    await seed(settings, [row])
    answer = await client.post("/images/1/retry")
    assert answer.status_code == 202
    image = answer.json()
    assert (image["status"], image["attempt"], image["error"]) == ("pending", 0, None)
    database = Database(settings)
    async with database.reading() as connection:
        due, updated = (
            await connection.execute(sa.select(images.c.due_at, images.c.updated_at))
        ).one()
    await database.close()
    assert due - updated == 10_000


@pytest.mark.parametrize("status", ["pending", "processing", "processed", "failed"])
async def test_anything_else_is_not_tried_again(
    client: httpx.AsyncClient, settings: ReceiverSettings, status: str
) -> None:
    await seed(settings, [image_row(1, status, attempt=2)])
    answer = await client.post("/images/1/retry")
    assert answer.status_code == 409
    assert status in answer.json()["detail"]
    image = (await client.get("/images/1")).json()
    assert (image["status"], image["attempt"]) == (status, 2)


async def test_only_one_of_many_retries_wins(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await seed(settings, [image_row(1, "dead")])
    answers = await asyncio.gather(*(client.post("/images/1/retry") for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7


async def stored_image(settings: ReceiverSettings, **row: Any) -> str:
    """Store a picture, and such a row with two faces, of which the first is known."""
    store = settings.object_store_url.removeprefix("file://")
    _write(f"{store}/pictures/seeded/1", b"picture")
    await seed(settings, [image_row(1, **row)], [face_row(1, 0, "Ada"), face_row(1, 1)])
    encoding = {"image_id": 1, "face_index": 0, "engine": "old", "encoding": ENCODING}
    database = Database(settings)
    async with database.transaction() as connection:
        await connection.execute(sa.insert(face_encodings).values(encoding))
    await database.close()
    return "/images/1/recognise"


@pytest.mark.parametrize("status", ["processed", "rejected", "dead"])
async def test_what_is_final_can_be_recognised_again(
    client: httpx.AsyncClient, settings: ReceiverSettings, status: str
) -> None:
    more = {"error": "broken", "processed_at": 5, "attempt": 5, "width": 60, "engine": "old"}
    address = await stored_image(settings, status=status, object_tag='"old"', **more)
    answers = await asyncio.gather(*(client.post(address) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    [answer] = [answer for answer in answers if answer.status_code == 202]
    assert answer.headers["location"] == "/images/1"
    image = answer.json()
    assert image == (await client.get("/images/1")).json()
    assert (image["status"], image["attempt"], image["error"]) == ("pending", 0, None)
    assert (image["faces"], image["processed_at"], image["engine"]) == ([], None, None)
    database = Database(settings)
    async with database.reading() as connection:
        row = (await connection.execute(sa.select(images))).one()
        assert not (await connection.execute(sa.select(face_encodings))).all()
    await database.close()
    # Whoever had it claimed finishes in vain, and the redeemer rings if nobody is heard.
    assert (row.claim_token, row.object_tag, row.due_at - row.updated_at) == (None, None, 10_000)


@pytest.mark.parametrize("status", ["pending", "processing", "failed"])
async def test_what_is_on_its_way_is_not_sent_again(
    client: httpx.AsyncClient, settings: ReceiverSettings, status: str
) -> None:
    address = await stored_image(settings, status=status, attempt=2, claim_token="mine")
    before = (await client.get("/images/1")).json()
    answer = await client.post(address)
    assert answer.status_code == 409
    assert f"image 1 is {status}" in answer.json()["detail"]
    assert (await client.get("/images/1")).json() == before


async def name_by_hand(connection: AsyncConnection, by_hand: dict[str, Any]) -> None:
    """Have said of the second face of each image that it is Zoë."""
    named = {"person": "Zoë"} | by_hand
    await connection.execute(sa.update(faces).where(faces.c.face_index == 1).values(named))


@pytest.mark.parametrize(
    "by_hand",
    [
        {"distance": None, "decided_by": "hand"},
        {"distance": None, "decided_by": "machine"},
        {"distance": None, "decided_by": None},
        {"distance": 0.25, "decided_by": "hand"},
    ],
    ids=["today", "by an older receiver", "before it was kept", "by a later receiver"],
)
async def test_what_a_hand_named_is_kept(
    client: httpx.AsyncClient, settings: ReceiverSettings, by_hand: dict[str, Any]
) -> None:
    address = await stored_image(settings)
    database = Database(settings)
    async with database.transaction() as connection:
        await name_by_hand(connection, by_hand)
    await database.close()
    before = (await client.get("/images/1")).json()
    assert [face["decided_by"] for face in before["faces"]] == ["machine", "hand"]
    answer = await client.post(address)
    assert answer.status_code == 409
    assert "'Zoë' as face 1" in answer.json()["detail"]
    assert "Ada" not in answer.json()["detail"]
    assert (await client.get("/images/1")).json() == before


async def test_who_is_named_in_the_same_moment_is_kept(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    address = await stored_image(settings)
    database = Database(settings)
    async with database.transaction() as connection:
        await name_by_hand(connection, {"distance": None, "decided_by": "hand"})
        asked = asyncio.create_task(client.post(address))
        await asyncio.wait({asked}, timeout=0.5)
    await database.close()
    assert (await asked).status_code == 409
    image = (await client.get("/images/1")).json()
    assert [face["person"] for face in image["faces"]] == ["Ada", "Zoë"]


async def test_a_result_outlives_its_picture(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await seed(settings, [image_row(1)], [face_row(1, 0)])
    before = (await client.get("/images/1")).json()
    answer = await client.post("/images/1/recognise")
    assert answer.status_code == 404
    assert "image 1 has no picture in the store" in answer.json()["detail"]
    assert (await client.get("/images/1")).json() == before


async def test_what_is_deleted_meanwhile_is_not_recognised(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = await stored_image(settings)
    looked_for = ObjectStore.exists

    async def deleted_meanwhile(self: ObjectStore, key: str) -> bool:
        assert (await client.delete("/images/1")).status_code == 204
        return await looked_for(self, key)

    monkeypatch.setattr(ObjectStore, "exists", deleted_meanwhile)
    assert (await client.post(address)).status_code == 404
    assert (await client.get("/images/1")).status_code == 404


async def test_deleting_removes_row_faces_and_picture(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    files = {"files": ("a.png", b"content")}
    accepted = (await client.post("/images", files=files)).json()["images"][0]
    other = (await client.post("/images", files={"files": ("b", b"other")})).json()["images"][0]
    database = Database(settings)
    async with database.transaction() as connection:
        await connection.execute(sa.insert(faces), [face_row(accepted["id"])])
    assert (await client.delete(accepted["location"])).status_code == 204
    async with database.reading() as connection:
        assert await connection.scalar(sa.select(sa.func.count()).select_from(faces)) == 0
    await database.close()
    for method, address in (
        ("GET", ""),
        ("GET", "/picture"),
        ("POST", "/retry"),
        ("POST", "/recognise"),
        ("DELETE", ""),
    ):
        answer = await client.request(method, accepted["location"] + address)
        assert answer.status_code == 404
    await collect(settings)
    store = settings.object_store_url.removeprefix("file://")
    assert not any(accepted["path"].endswith(name) for name in _files(store))
    assert (await client.get(other["location"] + "/picture")).content == b"other"


async def test_an_image_is_not_shown_without_its_faces_when_it_is_deleted_meanwhile(
    client: httpx.AsyncClient, settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seed(settings, [image_row(1)], [face_row(1, 0), face_row(1, 1)])
    database = Database(settings)
    execute = AsyncConnection.execute

    async def deleted_after(connection: AsyncConnection, statement: Any) -> Any:
        result = await execute(connection, statement)
        monkeypatch.undo()
        async with database.transaction() as other:
            await other.execute(sa.delete(images))
        return result

    monkeypatch.setattr(AsyncConnection, "execute", deleted_after)
    assert len((await client.get("/images/1")).json()["faces"]) == 2
    assert (await client.get("/images/1")).status_code == 404
    await database.close()


async def test_deleting_a_submitted_path_removes_its_picture_too(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    store = settings.object_store_url.removeprefix("file://")
    accepted = (await client.post("/image/post", json={"path": "folder/a.jpg"})).json()
    _write(f"{store}/pictures/folder/a.jpg", b"\xff\xd8\xff picture")
    picture = await client.get(accepted["location"] + "/picture")
    assert picture.headers["content-type"] == "image/jpeg"
    assert (await client.delete(accepted["location"])).status_code == 204
    await collect(settings)
    assert _files(store) == []


def _write(file: str, content: bytes) -> None:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _files(folder: str) -> list[str]:
    return [path.name for path in Path(folder).rglob("*") if path.is_file()]


async def test_status_counts_every_status(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    await seed(settings, [image_row(1, "pending"), image_row(2, "dead"), image_row(3, "dead")])
    report = (await client.get("/status")).json()
    assert report["images"] == {
        "pending": 1,
        "processing": 0,
        "processed": 0,
        "failed": 0,
        "rejected": 0,
        "dead": 2,
    }
    assert report["oldest_pending_seconds"] > 0
    assert report["problems"] == {}


async def test_encoding_is_reported_stopped_and_started(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    unknown = {
        "state": "running",
        "engine": None,
        "images_left": None,
        "images_skipped": 0,
        "faces_encoded": 0,
    }
    assert (await client.get("/status")).json()["encoding"] == unknown
    database = Database(settings)
    async with database.transaction() as connection:
        await connection.execute(
            sa.update(encoding_work).values(engine="dlib", images_left=7, faces_encoded=3)
        )
    await database.close()
    known = {**unknown, "engine": "dlib", "images_left": 7, "faces_encoded": 3}
    for address, state in (("stop", "stopped"), ("stop", "stopped"), ("start", "running")):
        answer = await client.post(f"/encoding/{address}")
        assert (answer.status_code, answer.json()) == (200, {**known, "state": state})
        for person in ({}, {"person": "Ada"}):
            report = (await client.get("/status", params=person)).json()
            assert report["encoding"] == answer.json()


async def test_backups_are_reported_once_there_was_one(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    assert (await client.get("/status")).json()["backup"] is None
    database = Database(settings)
    day = 86_400_000
    ended = {"started_at": 0, "finished_at": database_now() - 3 * day}
    for name, values, expected in (
        ("1", {"started_at": 0}, (None, True, None)),
        ("2", ended, (3, True, None)),
        ("3", {"started_at": 1, "finished_at": database_now(), "error": "no"}, (3, True, "no")),
        ("4", {"started_at": 2, "finished_at": database_now()}, (0, False, None)),
    ):
        async with database.transaction() as connection:
            await connection.execute(sa.insert(backups).values(name=name, **values))
        report = (await client.get("/status")).json()["backup"]
        seconds = report["last_good_seconds"]
        days = None if seconds is None else round(seconds / 86_400)
        assert (days, report["is_old"], report["error"]) == expected
    await database.close()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_picture_that_the_client_has_is_not_read_again(
    plain: httpx.AsyncClient,
    plain_settings: ReceiverSettings,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    picture = encode(draw(("red", (10, 10, 50, 50)), size=(60, 60)))
    uploaded = await plain.post("/images", files={"files": ("a.png", picture)})
    enrolled = await plain.post("/people/Ada/pictures", files={"file": ("a.png", picture)})
    store = plain_settings.object_store_url.removeprefix("file://")
    _write(f"{store}/pictures/a.png", picture)
    submitted = await plain.post("/image/post", json={"path": "a.png"})
    addresses = (
        f"/images/{uploaded.json()['images'][0]['id']}/picture",
        f"/images/{submitted.json()['id']}/picture",
        f"/people/Ada/pictures/{enrolled.json()['id']}",
    )
    tags = []
    for address in addresses:
        answer = await plain.request(method, address)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["content-length"] == str(len(picture))
        tags.append(answer.headers["etag"])
        assert re.fullmatch(r'"[^"]+"', tags[-1])
    assert len(set(tags)) == 3

    async def no_reading(*_: Any, **__: Any) -> None:
        raise AssertionError

    for address, tag in zip(addresses, tags, strict=True):
        for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            with monkeypatch.context() as patch:
                patch.setattr(ObjectStore, "get_tagged", no_reading)
                same = await plain.request(method, address, headers={"If-None-Match": known})
            assert (same.status_code, same.content) == (304, b"")
            assert same.headers["etag"] == tag
            assert same.headers["cache-control"] == "private, no-cache"
        for known in ("", '"other"', tag.strip('"'), "\xff"):
            headers = httpx.Headers({"If-None-Match": known}, encoding="latin-1")
            other = await plain.request(method, address, headers=headers)
            assert (other.status_code, other.headers["etag"]) == (200, tag)


async def test_what_changed_or_is_gone_is_told_to_a_client_that_has_it(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    file = plain_settings.object_store_url.removeprefix("file://") + "/pictures/a.png"
    _write(file, b"first")
    address = (await plain.post("/image/post", json={"path": "a.png"})).json()["location"]
    tag = (await plain.get(f"{address}/picture")).headers["etag"]
    _write(file, b"another")
    changed = await plain.get(f"{address}/picture", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.content) == (200, b"another")
    assert changed.headers["etag"] != tag
    await asyncio.to_thread(Path(file).unlink)
    for known in (tag, "*"):
        lost = await plain.get(f"{address}/picture", headers={"If-None-Match": known})
        assert lost.status_code == 404
    _write(file, b"another")
    assert (await plain.delete(address)).status_code == 204
    for known in (tag, "*"):
        deleted = await plain.get(f"{address}/picture", headers={"If-None-Match": known})
        assert deleted.status_code == 404
