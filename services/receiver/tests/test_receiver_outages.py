import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from services.common.health import HealthChecks
from services.common.nsqd import NsqDoorbell
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.migrations.__main__ import migrate
from services.receiver.metrics import RINGS
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Configure, FakeRecogniser, Launch, Start
from services.testing.disks import fill
from services.testing.fixtures import new_mariadb_settings, s3_settings
from services.testing.servers import MariaDb, Nsqd, VersityGw


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is away said in the first answer; elsewhere that could be a busy machine's."""
    assert HealthChecks.__init__.__kwdefaults__
    monkeypatch.setitem(HealthChecks.__init__.__kwdefaults__, "patience", 0.5)


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
        client = start(configure(settings, folder_store_settings)).client
        before = (await client.post("/image/post", json={"path": "before"})).json()
        assert (await client.get("/readyz")).status_code == 200
        server.kill()
        assert_away(await client.post("/image/post", json={"path": "lost"}), "database")
        assert_away(await client.get("/images"), "database")
        assert_away(await client.get(before["location"]), "database")
        ready = await client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["problems"] == {"database": "the port of probes says why"}
        report = await client.get("/status")
        assert report.status_code == 200
        assert report.json()["images"] is None
        assert report.json()["encoding"] is None
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
        client = start(configure(sqlite_settings, s3_settings(server, tmp_path))).client
        assert (await client.get("/readyz")).status_code == 200
        files = {"files": ("a.jpg", b"content")}
        before = (await client.post("/images", files=files)).json()["images"][0]
        server.kill()
        assert_away(
            await client.post("/images", files={"files": ("b.jpg", b"new")}), "object store"
        )
        assert_away(await client.get(before["location"] + "/picture"), "object store")
        # Whose file that is, only the store knows; an upload's is nobody else's.
        by_path = (await client.post("/image/post", json={"path": "unknown"})).json()
        assert_away(await client.delete(by_path["location"]), "object store")
        # What needs no picture goes on, and the page can say what does not.
        assert (await client.get("/readyz")).status_code == 200
        assert "object store" in (await client.get("/status")).json()["problems"]
        assert (await client.post("/image/post", json={"path": "path"})).status_code == 202
        images = (await client.get("/images")).json()["images"]
        assert [image["path"] for image in images] == ["path", "unknown", before["path"]]
        server.start()
        picture = await client.get(before["location"] + "/picture")
        assert picture.content == b"content"
        again = await client.post("/images", files={"files": ("b.jpg", b"new")})
        assert again.status_code == 202
    finally:
        server.stop()


async def test_a_disk_that_is_full_loses_nothing_and_may_be_cleared(
    small_disk: Path, recogniser: FakeRecogniser, configure: Configure, start: Start
) -> None:
    database = DatabaseSettings(database_url=f"sqlite+aiosqlite:///{small_disk / 'facestack.db'}")
    migrate(database)
    store = ObjectStoreSettings(object_store_url=f"file://{small_disk / 'store'}")
    client = start(configure(database, store, recogniser.target)).client
    fill(small_disk / "ballast")
    accepted = []
    for number in range(1000):
        paths = {"paths": [{"path": f"{number}/{one:0>150}"} for one in range(100)]}
        answer = await client.post("/images/post", json=paths)
        if answer.status_code != 202:
            break
        accepted += answer.json()["images"]
    assert_away(answer, "database")
    # The object is noted before it is stored.
    assert_away(await client.post("/images", files={"files": ("a", bytes(9999))}), "database")
    for one in accepted:
        assert (await client.get(one["location"])).json()["path"] == one["path"]
    (small_disk / "ballast").unlink()
    assert (await client.post("/images/post", json=paths)).status_code == 202
    answer = await client.post("/images", files={"files": ("a", bytes(9999))})
    assert answer.status_code == 202


async def test_an_object_store_whose_disk_is_full(
    small_disk: Path, sqlite_settings: DatabaseSettings, configure: Configure, start: Start
) -> None:
    server = VersityGw(small_disk).start()
    try:
        client = start(configure(sqlite_settings, s3_settings(server, small_disk))).client
        kept = (await client.post("/images", files={"files": ("a", b"kept")})).json()["images"][0]
        fill(small_disk / "ballast")
        files = {"files": ("b", bytes(99_999))}
        assert_away(await client.post("/images", files=files), "object store")
        assert (await client.get(kept["location"] + "/picture")).content == b"kept"
        (small_disk / "ballast").unlink()
        assert (await client.post("/images", files=files)).status_code == 202
        assert [len(one["faces"]) for one in (await client.get("/images")).json()["images"]] == [
            0,
            0,
        ]
    finally:
        server.stop()


async def test_a_wrong_statement_is_a_fault_of_ours_with_a_traceback(
    launch: Launch, plain_settings: ReceiverSettings
) -> None:
    process = launch(plain_settings)
    file = plain_settings.database_url.removeprefix("sqlite+aiosqlite:///")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE images RENAME COLUMN name TO other")
    async with httpx.AsyncClient(base_url=process.url) as client:
        for answer in (
            await client.post("/image/post", json={"path": "a"}),
            await client.get("/images/1"),
        ):
            assert answer.status_code == 500
            assert answer.json()["detail"] == "the receiver failed; its log says why"
    process.stop()  # its log is complete
    log = process.log.read_text()
    assert "Traceback" in log
    assert "no column named name" in log
    assert "no such column" in log
    assert "dependency is away" not in log


async def test_no_request_comes_before_the_object_store_was_reached(
    tmp_path: Path, sqlite_settings: DatabaseSettings, configure: Configure, start: Start
) -> None:
    server = VersityGw(tmp_path)
    client = start(configure(sqlite_settings, s3_settings(server, tmp_path))).client
    ready = await client.get("/readyz")
    assert (ready.status_code, set(ready.json()["problems"])) == (503, {"object store"})
    server.start()
    try:
        assert (await client.get("/readyz")).status_code == 200
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
    assert await doorbell.depth() == 5  # nobody is notified of a duplicate
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
