"""Who did what: all that was done is in the audit with it, and what was refused is counted."""

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette

from services.common.errors import DatabaseConflictError, DatabaseUnavailableError
from services.common.facerecog import face_pb2
from services.common.tables import audit, images, metadata, webhook_deliveries
from services.receiver.adapters.rows import audit as audit_rows
from services.receiver.adapters.rows import images as image_rows
from services.receiver.adapters.rows.audit import DatabaseAudit, add_records
from services.receiver.domain.access import ADMINISTRATOR_KEY
from services.receiver.domain.acts import Act, SubjectKind
from services.receiver.service.auditing import Auditing
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import (
    FakeRecogniser,
    Running,
    Start,
    StoredFacesServer,
    draw,
    encode,
)
from services.receiver.tests.test_receiver_drawing import MISSED, seed
from services.receiver.tests.test_receiver_groups import Groups
from services.receiver.tests.test_receiver_regions import packet
from services.receiver.tests.test_receiver_said_by_hand import BOX, id_of, run

KEY = "the administrator's"
BROWSER = "192.0.2.7"
FRONTEND = {"Authorization": "Bearer the key of the frontend", "Facestack-Address": BROWSER}
ENCODING = np.ones(128, np.float32).tobytes()
ADA, BOB = (
    encode(draw((colour, BOX), size=(size, 60))) for colour, size in (("red", 200), ("green", 201))
)


class Row(NamedTuple):
    """A row of the audit, but for its id and time."""

    kind: str
    who: str
    address: str
    action: str
    subject_kind: str | None
    subject_id: str | None
    status: int | None
    times: int


def done(action: str, kind: str | None = None, subject_id: object = None, times: int = 1) -> Row:
    subject = None if subject_id is None else str(subject_id)
    return Row("key", "administrator key", "127.0.0.1", action, kind, subject, None, times)


class Audited:
    """A receiver that asks for a key, a client that has it, and the audit."""

    def __init__(self, settings: ReceiverSettings, running: Running) -> None:
        self.settings = settings
        self.receiver = running.receiver
        self.client = running.client
        self.client.headers["Authorization"] = f"Bearer {KEY}"
        self.done: set[str] = set()

    async def rows(self, *, forget: bool = True) -> list[Row]:
        """Return what the audit says, and forget it."""
        await self.receiver.auditing.write()
        columns = [audit.c[name] for name in Row._fields]
        found = await run(self.settings, sa.select(*columns).order_by(audit.c.id))
        if forget:
            await run(self.settings, sa.delete(audit))
        return [Row(*row) for row in found]

    async def does(
        self, action: str, subject: tuple[str, object] | None, method: str, path: str, **more: Any
    ) -> httpx.Response:
        """Do something, of which the audit is to have exactly one row."""
        await self.rows()
        answer = await self.client.request(method, path, **more)
        assert answer.is_success, (action, answer.text)
        assert await self.rows() == [done(action, *(subject or ()))], action
        self.done.add(action)
        return answer


Begin = Callable[..., Audited]


@pytest.fixture
def begin(start: Start, plain_settings: ReceiverSettings, tmp_path: Path) -> Begin:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "frontend-key").write_text("the key of the frontend")

    def one(settings: ReceiverSettings = plain_settings, **more: Any) -> Audited:
        more = {
            "access": "keys",
            "administrator_key_file": tmp_path / "key",
            "frontend_key_file": tmp_path / "frontend-key",
            **more,
        }
        settings = settings.model_copy(update=more)
        return Audited(settings, start(settings))

    return one


@pytest.fixture
async def people(plain_settings: ReceiverSettings) -> AsyncIterator[StoredFacesServer]:
    server = StoredFacesServer(plain_settings)
    await server.start()
    yield server
    await server.stop()


async def audited_operations(one: Audited) -> dict[str, tuple[str, str]]:
    """Return all but those that only read, with method and address."""
    private = httpx.ASGITransport(Starlette(routes=one.receiver.docs))
    async with httpx.AsyncClient(transport=private, base_url="http://localhost") as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    return {
        operation["operationId"]: (method.upper(), re.sub(r"{\w+}", "1", path))
        for path, methods in paths.items()
        for method, operation in methods.items()
        if method != "get" or operation["operationId"] in {"export", "get_regions", "get_sidecar"}
    }


async def test_whatever_is_done_leaves_one_row_that_says_to_what(  # noqa: PLR0915, one by one
    begin: Begin, recogniser: FakeRecogniser, people: StoredFacesServer
) -> None:
    recogniser.face = face_pb2.Face(encoding=ENCODING)
    one = begin(people_target=people.target)
    does, client = one.does, one.client

    await does("submit_one", ("image", 1), "POST", "/image/post", json={"path": "a.jpg"})
    await does("submit_many", ("image", 2), "POST", "/images/post", json={"paths": [{"path": "b"}]})
    await run(one.settings, sa.update(images).values(status="rejected"))
    await does("submit_one", ("image", 1), "POST", "/image/post", json={"path": "a.jpg"})
    await does("submit_one", ("image", 1), "POST", "/image/post", json={"path": "a.jpg"})
    await does("retry", ("image", 2), "POST", "/images/2/retry")
    image = await seed(client, one.settings)
    upload = encode(draw(size=(20, 20)))
    await does("upload", ("image", image + 1), "POST", "/images", files={"files": ("a", upload)})
    await does("upload", ("image", image + 1), "POST", "/images", files={"files": ("a", upload)})

    its, at = ("image", image), f"/images/{image}"
    xmp = {"file": ("a.xmp", packet(("Ada", BOX)))}
    await does("read_sidecar", its, "POST", f"{at}/regions", files=xmp)
    await does("get_regions", its, "GET", f"{at}/regions")
    await does("get_sidecar", its, "GET", f"{at}/sidecar")
    box = dict(zip(("left", "top", "right", "bottom"), MISSED, strict=True))
    await does("draw_face", its, "POST", f"{at}/faces", json={"box": box})
    await does("strike_out", its, "DELETE", f"{at}/faces/1")
    await does("restore_face", its, "POST", f"{at}/faces/1/restore")
    await does("name_face", its, "PUT", f"{at}/faces/0/person", json={"name": "Ada"})
    ada = "person", await id_of(client, "Ada")
    face = {"image_id": image, "face_index": 0}
    await does("choose_face", ada, "PUT", "/people/Ada/face", json=face)
    await does("unchoose_face", ada, "DELETE", "/people/Ada/face")
    await does("unname_face", its, "DELETE", f"{at}/faces/0/person")
    await does("unname_face", its, "DELETE", f"{at}/faces/0/person")  # it has none any more
    await does("deny", its, "PUT", f"{at}/faces/0/denials/Ada")
    await does("allow", its, "DELETE", f"{at}/faces/0/denials/Ada")

    await people.follow()
    await does("find_faces", None, "POST", "/search", files={"file": ("a", ADA)})
    await does("find_faces", its, "POST", "/search", json={**face, "face_index": 1})

    bob = "person", ada[1] + 1
    known = await does("enrol", bob, "POST", "/people/Bob/pictures", files={"file": ("b", BOB)})
    await does("enrol", ada, "POST", "/people/Ada/pictures", files={"file": ("a", ADA)})
    await does("change_person", ada, "PATCH", "/people/Ada", json={"name": "Ada L"})
    await does("change_person", ada, "PATCH", "/people/Ada%20L", json={"name": "Ada L"})
    merged = await does("merge", ada, "POST", "/people/Ada%20L/merge", json={"name": "Bob"})
    merge = merged.json()["merges"][0]["id"]
    await does("undo_merge", ada, "DELETE", f"/people/~{ada[1]}/merges/{merge}")
    await does("export", bob, "GET", "/people/Bob/export")
    await does("delete_known", bob, "DELETE", f"/people/Bob/pictures/{known.json()['id']}")
    await does("delete_person", bob, "DELETE", "/people/Bob")
    await does("erase", ada, "POST", "/people/Ada%20L/erase", json={"pictures": False})

    groups = Groups(client, one.settings)
    group, (first, *_) = await groups.of(3)
    strike = f"/groups/{group}/faces/{first}/0"
    await does("strike_from_group", ("group", group), "DELETE", strike)
    named = {"name": "Eve", "another": True}
    await does("name_group", ("group", group), "PUT", f"/groups/{group}/person", json=named)
    question = await groups.ask((await groups.of(1))[0], person_id=await id_of(client, "Eve"))
    answer = {"answer": "yes"}
    address = f"/questions/{question}"
    await does("answer_question", ("question", question), "PUT", address, json=answer)
    await does("recognise", ("image", first), "POST", f"/images/{first}/recognise")
    await does("delete_image", its, "DELETE", at)

    numbers = dict.fromkeys(("subject_id", "attempt", "created_at", "updated_at"), 1)
    delivery = {
        **numbers,
        "message_id": "m",
        "endpoint": "e",
        "type": "person.changed",
        "status": "failed",
    }
    await run(one.settings, sa.insert(webhook_deliveries).values(delivery))
    await does("retry_delivery", ("delivery", 1), "POST", "/webhooks/deliveries/1/retry")
    await does("stop_encoding", None, "POST", "/encoding/stop")
    await does("start_encoding", None, "POST", "/encoding/start")

    made = await client.post("/keys", json={"name": "importer", "scopes": ["submit"]})
    key = made.json()["id"]
    [row] = await one.rows()
    assert row == done("make_key", "key", key)
    one.done.add("make_key")
    shown = {"Authorization": f"Bearer {made.json()['key']}"}
    await client.post("/image/post", json={"path": "../a"}, headers=shown)
    [row] = await one.rows()  # that the key is in use was noted, which is nothing that it did
    assert row == done("submit_one")._replace(who="importer", status=422)
    await does("rotate_key", ("key", key), "POST", f"/keys/{key}/rotate")
    await does("revoke_key", ("key", key), "DELETE", f"/keys/{key}")

    user = {"name": "Eve", "role": "editor", "password": "correct horse battery"}
    its = "user", 1
    await does("add_user", its, "POST", "/users", json=user)
    del user["role"]
    log_in = functools.partial(client.post, "/sessions", headers=FRONTEND)
    assert (await log_in(json={**user, "password": "wrong"})).status_code == 401
    frontend = done("begin_session")._replace(kind="frontend", who="frontend", address=BROWSER)
    assert await one.rows() == [frontend._replace(status=401)]
    session = {"Facestack-Session": (await log_in(json=user)).json()["token"]}
    assert await one.rows() == [frontend._replace(subject_kind="user", subject_id="1")]
    assert (await client.delete("/session", headers={**FRONTEND, **session})).status_code == 204
    eve = done("end_session")._replace(kind="user", who="Eve", address=BROWSER)
    assert await one.rows() == [eve]
    one.done |= {"begin_session", "end_session"}
    await does("change_user", its, "PATCH", "/users/1", json={"role": "viewer"})
    await does("delete_user", its, "DELETE", "/users/1")
    assert one.done == (await audited_operations(one)).keys()


async def test_what_is_refused_leaves_one_row_with_its_status(begin: Begin) -> None:
    one = begin()
    operations = await audited_operations(one)
    del one.client.headers["Authorization"]
    for action, (method, path) in operations.items():
        for _ in range(2):
            assert (await one.client.request(method, path)).status_code == 401
        subject = re.match("/(image|group)s/1", path) or re.match("/(question)s/1", path)
        kind = subject and subject[1]
        [row] = await one.rows()
        assert row._replace(subject_kind=kind) == Row(
            "unknown", "", "127.0.0.1", action, kind, row.subject_id, 401, 2
        )
        assert row.subject_id == ("1" if row.subject_kind else None)
    # So is reading by whom nobody knows, and what is nowhere.
    await one.client.get("/images/1", headers={"Authorization": "Bearer guessed"})
    await one.client.get("/nothing/../etc")
    found = await one.rows()
    assert [(row.who, row.action, row.status) for row in found] == [
        ("", "get_image", 401),
        ("", "unmatched", 404),
    ]


async def test_what_is_known_of_a_refusal_is_said(begin: Begin) -> None:
    one = begin()
    cross = {"Sec-Fetch-Site": "cross-site"}
    for action, status, kind, method, path, more in (
        ("delete_image", 404, "image", "DELETE", "/images/7", {}),
        ("change_person", 404, None, "PATCH", "/people/Nobody", {"json": {"hidden": True}}),
        ("delete_person", 404, None, "DELETE", "/people/Nobody", {}),
        ("retry", 404, "image", "POST", "/images/7/retry", {}),
        ("submit_one", 422, None, "POST", "/image/post", {"json": {"path": "../a"}}),
        ("export", 404, None, "GET", "/people/Nobody/export", {}),
        ("upload", 415, None, "POST", "/images", {"json": {}}),
        ("find_faces", 404, "image", "POST", "/search", {"json": {"image_id": 7, "face_index": 0}}),
    ):
        answer = await one.client.request(method, path, **more)
        assert answer.status_code == status, answer.text
        expected = done(action, kind, "7" if kind else None)._replace(status=status)
        assert await one.rows() == [expected]
    assert (await one.client.delete("/images/7", headers=cross)).status_code == 403
    [row] = await one.rows()
    assert (row.kind, row.action, row.status) == ("unknown", "delete_image", 403)


async def test_reading_leaves_nothing(begin: Begin) -> None:
    one = begin()
    for path in ("/images", "/people", "/status", "/groups", "/audit", "/images/9"):
        await one.client.get(path)
    assert await one.rows() == []


async def test_submissions_that_are_committed_together_leave_a_row_each(
    begin: Begin, settings: ReceiverSettings
) -> None:
    one = begin(settings)
    many = {"paths": [{"path": f"many/{number}"} for number in range(1000)]}
    posts = [
        one.client.post("/image/post", json={"path": f"{number % 30}"}) for number in range(40)
    ]
    *answers, batch = await asyncio.gather(*posts, one.client.post("/images/post", json=many))
    assert batch.status_code == 202
    expected = [done("submit_one", "image", answer.json()["id"]) for answer in answers]
    expected.append(done("submit_many", times=1000))
    assert sorted(await one.rows(), key=repr) == sorted(expected, key=repr)


@pytest.mark.parametrize("written", [False, True])
async def test_neither_is_there_without_the_other(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    async def fail(*arguments: Any) -> None:
        if written:
            await add_records(*arguments)
        raise DatabaseUnavailableError("away before the commit")

    one = begin()
    with monkeypatch.context() as patched:
        for module in (image_rows, audit_rows):
            patched.setattr(module, "add_records", fail)
        picture = {"file": ("a", ADA)}
        assert (await one.client.post("/image/post", json={"path": "a"})).status_code == 503
        assert (await one.client.post("/people/Ada/pictures", files=picture)).status_code == 503
    assert (await one.client.get("/images")).json()["images"] == []
    assert (await one.client.get("/people")).json()["people"] == []
    assert [(row.action, row.status) for row in await one.rows()] == [
        ("submit_one", 503),
        ("enrol", 503),
    ]


async def test_a_transaction_that_is_run_again_is_recorded_once(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    conflicts = 3

    async def conflicting(*arguments: Any) -> None:
        nonlocal conflicts
        await add_records(*arguments)
        if conflicts:
            conflicts -= 1
            raise DatabaseConflictError("deadlock")

    one = begin()
    monkeypatch.setattr(image_rows, "add_records", conflicting)
    await one.does("submit_one", ("image", 1), "POST", "/image/post", json={"path": "a"})
    assert not conflicts


async def test_nothing_is_given_away_that_cannot_be_recorded(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = begin()
    await one.client.post("/people/Ada/pictures", files={"file": ("a", ADA)})
    await one.rows()

    async def away(*_: Any) -> None:
        raise DatabaseUnavailableError("away")

    with monkeypatch.context() as patched:
        patched.setattr(DatabaseAudit, "add", away)
        answer = await one.client.get("/people/Ada/export")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "Ada" not in answer.text
        with pytest.raises(DatabaseUnavailableError):
            await one.receiver.auditing.write()
    [row] = await one.rows()  # kept until it can be written
    assert (row.action, row.subject_kind, row.status, row.times) == ("export", "person", 503, 1)


async def test_ten_thousand_attempts_are_a_handful_of_rows(begin: Begin) -> None:
    one = begin()
    guard_is_asked = {
        "type": "http",
        "method": "DELETE",
        "path": "/images/1",
        "raw_path": b"/images/1",
        "query_string": b"",
        "headers": [(b"host", b"receiver"), (b"authorization", b"Bearer guessed")],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 401

    for number in range(10_000):
        client = f"10.0.{number % 200}.1", 1
        await one.receiver.app({**guard_is_asked, "client": client}, receive, send)
    rows = await one.rows()
    assert len(rows) == 11  # ten addresses, and the rest together
    assert sum(row.times for row in rows) == 10_000
    assert {row.address for row in rows} == {"", *(f"10.0.{number}.1" for number in range(10))}


async def test_of_different_subjects_none_is_named(begin: Begin) -> None:
    auditing: Auditing = begin().receiver.auditing
    for number in (1, 1, 2):
        act = Act("delete_image", "::1", audited=True, principal=ADMINISTRATOR_KEY)
        act.about(SubjectKind.IMAGE, number)
        auditing.refused(act, 404)
    [record] = auditing._refused.values()
    assert (record.subject_kind, record.subject_id, record.times) == (None, None, 3)


async def test_pages_and_whom_they_are_about(begin: Begin) -> None:
    one = begin()
    for number in range(5):
        await one.client.post("/image/post", json={"path": f"{number % 4}"})
    await one.client.post("/people/Ada/pictures", files={"file": ("a", ADA)})

    async def page(**params: Any) -> tuple[list[tuple[str, str | None]], str | None]:
        answer = (await one.client.get("/audit", params=params)).json()
        found = [(act["action"], act["subject_id"]) for act in answer["acts"]]
        return found, answer["next_cursor"]

    first, cursor = await page(limit=4)
    second, end = await page(limit=4, cursor=cursor)
    assert [*first, *second] == [
        ("enrol", "1"),
        *(("submit_one", number) for number in ("1", "4", "3", "2", "1")),
    ]
    assert end is None
    assert await page(person=1) == ([("enrol", "1")], None)
    assert await page(image=1) == ([("submit_one", "1")] * 2, None)
    assert await page(image=1, person=1) == ([], None)
    assert len((await page(who="administrator key"))[0]) == 6
    assert await page(who="Administrator Key") == ([], None)
    [act] = (await one.client.get("/audit", params={"limit": 1})).json()["acts"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", act.pop("at"))
    assert act == {
        "id": 6,
        "kind": "key",
        "who": "administrator key",
        "actor_id": None,
        "address": "127.0.0.1",
        "action": "enrol",
        "status": None,
        "times": 1,
        "subject_kind": "person",
        "subject_id": "1",
    }
    assert "Ada" not in repr(await run(one.settings, sa.select(metadata.tables["audit"])))
