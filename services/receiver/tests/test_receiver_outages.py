from pathlib import Path

import httpx

from services.common.doorbell import NsqDoorbell
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.receiver.metrics import RINGS
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Configure, FakeRecogniser, Start
from services.testing.fixtures import new_mariadb_settings, s3_settings
from services.testing.servers import MariaDb, Nsqd, VersityGw


def assert_away(answer: httpx.Response, what: str) -> None:
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"
    assert what in answer.json()["detail"]


async def test_a_database_that_goes_and_comes_back(
    tmp_path: Path,
    folder_store_settings: ObjectStoreSettings,
    configure: Configure,
    start: Start,
) -> None:
    server = MariaDb(tmp_path).start()
    try:
        settings = new_mariadb_settings(server)
        client = start(configure(settings, folder_store_settings, 1)).client
        before = (await client.post("/image/post", json={"path": "before"})).json()
        assert (await client.get("/readyz")).status_code == 200
        server.kill()
        assert_away(await client.post("/image/post", json={"path": "lost"}), "database")
        assert_away(await client.get("/images"), "database")
        assert_away(await client.get(before["location"]), "database")
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert "database" in ready.json()["problems"]
        report = await client.get("/status")
        assert report.status_code == 200
        assert report.json()["images"] is None
        assert "database" in report.json()["problems"]
        assert (await client.get("/livez")).status_code == 200
        server.start()
        assert (await client.post("/image/post", json={"path": "after"})).status_code == 202
        paths = [image["path"] for image in (await client.get("/images")).json()["images"]]
        assert paths == ["after", "before"]
        assert (await client.get("/readyz")).status_code == 200
    finally:
        server.stop()


async def test_an_object_store_that_goes_and_comes_back(
    tmp_path: Path, sqlite_settings: DatabaseSettings, configure: Configure, start: Start
) -> None:
    server = VersityGw(tmp_path).start()
    try:
        client = start(configure(sqlite_settings, s3_settings(server, tmp_path), 1)).client
        files = {"files": ("a.jpg", b"content")}
        before = (await client.post("/images", files=files)).json()["images"][0]
        server.kill()
        assert_away(
            await client.post("/images", files={"files": ("b.jpg", b"new")}), "object store"
        )
        assert_away(await client.get(before["location"] + "/picture"), "object store")
        assert_away(await client.delete(before["location"]), "object store")
        # What needs no picture goes on, and the page can say what does not.
        assert (await client.get("/readyz")).status_code == 200
        assert "object store" in (await client.get("/status")).json()["problems"]
        assert (await client.post("/image/post", json={"path": "path"})).status_code == 202
        images = (await client.get("/images")).json()["images"]
        assert [image["path"] for image in images] == ["path", before["path"]]
        server.start()
        picture = await client.get(before["location"] + "/picture")
        assert picture.content == b"content"
        again = await client.post("/images", files={"files": ("b.jpg", b"new")})
        assert again.status_code == 202
    finally:
        server.stop()


async def test_a_recogniser_that_is_away_is_reported(
    plain: httpx.AsyncClient, recogniser: FakeRecogniser
) -> None:
    await recogniser.stop()
    report = (await plain.get("/status")).json()
    assert set(report["problems"]) == {"face_recog"}
    assert report["images"]["pending"] == 0
    assert (await plain.get("/readyz")).status_code == 200


async def test_a_queue_that_is_away_fails_no_request(
    nsqd: Nsqd, plain_settings: ReceiverSettings, start: Start
) -> None:
    running = start(plain_settings.model_copy(update={"nsqd_url": nsqd.http_url}))
    client, ringer = running.client, running.receiver._ringer
    doorbell = NsqDoorbell(nsqd.http_url)
    paths = {"paths": [{"path": f"{n}"} for n in range(5)]}
    assert (await client.post("/images/post", json=paths)).status_code == 202
    assert (await client.post("/images/post", json=paths)).status_code == 202
    await ringer.flush()
    assert await doorbell.depth() == 5  # a duplicate is not rung
    nsqd.kill()
    failed = RINGS.labels("failed")._value.get()
    assert (await client.post("/image/post", json={"path": "quiet"})).status_code == 202
    await ringer.flush()
    assert RINGS.labels("failed")._value.get() - failed == 1
    assert (await client.get("/readyz")).status_code == 200
    assert set((await client.get("/status")).json()["problems"]) == {"queue"}
    nsqd.start()
    before = await doorbell.depth()  # what nsqd had in memory is gone
    assert (await client.post("/image/post", json={"path": "loud"})).status_code == 202
    await ringer.flush()
    assert await doorbell.depth() == before + 1
    await doorbell.close()
