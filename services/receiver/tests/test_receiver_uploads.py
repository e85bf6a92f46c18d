import asyncio
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import httpx

from services.common.database import Database
from services.common.doorbell import PolledRows
from services.common.object_keys import PICTURES
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.receiver.adapters.rows.garbage import DatabaseGarbage
from services.receiver.adapters.rows.images import DatabaseImages
from services.receiver.domain.submissions import Accepted, Upload
from services.receiver.ports import ImageRows
from services.receiver.service.images import Images
from services.receiver.service.ringing import Ringer
from services.receiver.service.submitting import Submissions
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import collect


def stored(settings: ReceiverSettings) -> list[Path]:
    folder = Path(settings.object_store_url.removeprefix("file://"))
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_files_are_stored_by_content_and_given_back(client: httpx.AsyncClient) -> None:
    contents = [b"\x89PNG\r\n\x1a\n1", b"no picture", b"RIFF\0\0\0\0WEBP"]
    kinds = ["image/png", "application/octet-stream", "image/webp"]
    answer = await client.post(
        "/images", files=[("files", (f"{n}.x", content)) for n, content in enumerate(contents)]
    )
    assert answer.status_code == 202
    for content, kind, one in zip(contents, kinds, answer.json()["images"], strict=True):
        digest = hashlib.sha256(content).hexdigest()
        assert re.fullmatch(rf"uploads/{digest}\.[0-9a-f]{{16}}", one["path"])
        assert one["duplicate"] is False
        picture = await client.get(one["location"] + "/picture")
        assert picture.content == content
        assert picture.headers["content-type"] == kind
        assert picture.headers["x-content-type-options"] == "nosniff"


async def test_twenty_clients_with_one_content_make_one_row(
    client: httpx.AsyncClient, settings: ReceiverSettings
) -> None:
    answers = await asyncio.gather(
        *(client.post("/images", files={"files": (f"{n}.jpg", b"same")}) for n in range(20))
    )
    accepted = [answer.json()["images"][0] for answer in answers]
    assert len({one["id"] for one in accepted}) == 1
    assert sorted(one["duplicate"] for one in accepted) == [False] + [True] * 19
    await collect(settings)
    assert len(stored(settings)) == 1
    picture = await client.get(accepted[0]["location"] + "/picture")
    assert picture.content == b"same"


async def test_of_equal_files_in_one_request_the_first_gives_the_name(
    client: httpx.AsyncClient,
) -> None:
    files = [("files", (name, b"same")) for name in ("first.jpg", "second.jpg")]
    first, second = (await client.post("/images", files=files)).json()["images"]
    assert (first["id"], first["duplicate"]) == (second["id"], False)
    assert second["duplicate"] is True
    assert (await client.get(first["location"])).json()["name"] == "first.jpg"


async def test_a_name_is_kept_as_given_without_control_characters(
    client: httpx.AsyncClient,
) -> None:
    names = {
        "<img src=x onerror=1>.jpg": "<img src=x onerror=1>.jpg",
        "日本 ü.png": "日本 ü.png",
        "../../etc/passwd": "../../etc/passwd",
        "x" * 300 + ".jpeg": "x" * 250 + ".jpeg",
        "a\x07b\x9f.png": "ab.png",
        "\x07": "picture",
    }
    for given, kept in names.items():
        # Written by hand: a client library would escape what is tested here.
        body = (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="'
            + given.encode()
            + f'"\r\n\r\ncontent of {given}\r\n--b--\r\n'.encode()
        )
        answer = await client.post(
            "/images", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
        )
        assert answer.status_code == 202, answer.text
        image = (await client.get(answer.json()["images"][0]["location"])).json()
        assert image["name"] == kept


async def test_one_bad_file_refuses_the_upload_and_stores_nothing(
    plain: httpx.AsyncClient, plain_settings: ReceiverSettings
) -> None:
    answer = await plain.post(
        "/images", files=[("files", ("good.jpg", b"x")), ("files", ("empty.jpg", b""))]
    )
    assert answer.status_code == 422
    assert "empty.jpg" in answer.json()["detail"]
    assert stored(plain_settings) == []
    assert (await plain.get("/images")).json()["images"] == []


def make_images(rows: ImageRows, database: Database, store: ObjectStore) -> Images:
    ringer = Ringer(PolledRows())
    submissions = Submissions(rows, store, ringer, parallel=1)
    return Images(rows, DatabaseGarbage(database), store, submissions, ringer)


async def _read() -> bytes:
    return b"content"


class WatchedRows(DatabaseImages):
    """Notes whether the pictures were in the store when their rows were written."""

    def __init__(self, database: Database, store: ObjectStore) -> None:
        super().__init__(database)
        self._store = store
        self.seen: list[bool] = []

    async def add_uploads(self, uploads: Sequence[Upload]) -> list[Accepted] | None:
        self.seen += [await self._store.exists(PICTURES + one.path) for one in uploads]
        return await super().add_uploads(uploads)


async def test_the_picture_is_there_before_the_row(
    sqlite_settings: DatabaseSettings, folder_store_settings: ObjectStoreSettings
) -> None:
    database, store = Database(sqlite_settings), ObjectStore(folder_store_settings)
    rows = WatchedRows(database, store)
    await make_images(rows, database, store).upload([("a.jpg", _read)])
    assert rows.seen == [True]
    await database.close()
