"""Keys of programs, and how much each may do."""

import asyncio
import re
import sqlite3
import sys
from collections.abc import Collection, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from starlette.types import Scope

from services.common.errors import DatabaseUnavailableError
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.common.tables import api_keys
from services.receiver import app
from services.receiver.adapters.http import events
from services.receiver.adapters.rows.api_keys import DatabaseApiKeys
from services.receiver.domain.keys import ValidKey, new_secret_key, read_secret_key
from services.receiver.service import rates
from services.receiver.service.rates import Rate
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Configure, Running, Start

ADMINISTRATOR = {"Authorization": "Bearer a key that lies in a file"}


@pytest.fixture
def closed_settings(
    configure: Configure,
    sqlite_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    tmp_path: Path,
) -> ReceiverSettings:
    file = tmp_path / "administrator-key"
    file.write_text("a key that lies in a file")
    return configure(
        sqlite_settings, folder_store_settings, access="keys", administrator_key_file=file
    )


def shown(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def make(client: httpx.AsyncClient, *scopes: str, **more: object) -> dict[str, Any]:
    """Have the administrator make a key."""
    wanted = {"name": "a camera", "scopes": scopes, **more}
    answer = await client.post("/keys", json=wanted, headers=ADMINISTRATOR)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def change(running: Running, key_id: str, **values: object) -> None:
    async with running.receiver._database.transaction() as connection:
        await connection.execute(
            sa.update(api_keys).where(api_keys.c.id == key_id).values(**values)
        )


async def test_a_key_opens_what_its_scopes_say_until_it_is_revoked(
    start: Start, closed_settings: ReceiverSettings
) -> None:
    running, replica = start(closed_settings), start(closed_settings)
    client = running.client
    made = await make(client, "read", "submit")
    assert re.fullmatch("fsk_[a-z2-7]{12}_[A-Za-z0-9_-]{43}", made["key"])
    assert made["key"].split("_")[1] == made["id"]
    key = shown(made["key"])
    for one in (client, replica.client):
        assert (await one.get("/images", headers=key)).status_code == 200
        assert (await one.get("/keys", headers=key)).status_code == 403
    await running.receiver._access.close()  # what it notes is noted
    await replica.receiver._access.close()
    (listed,) = (await client.get("/keys", headers=ADMINISTRATOR)).json()["keys"]
    assert listed.pop("last_used_at")
    assert listed == {
        "id": made["id"],
        "name": "a camera",
        "scopes": ["read", "submit"],
        "created_at": made["created_at"],
        "created_by": "administrator key",
        "expires_at": None,
        "revoked_at": None,
    }
    revoked = await replica.client.delete(f"/keys/{made['id']}", headers=ADMINISTRATOR)
    assert revoked.status_code == 204
    for one in (client, replica.client):
        assert (await one.get("/images", headers=key)).status_code == 401
    again = await client.delete(f"/keys/{made['id']}", headers=ADMINISTRATOR)
    assert again.status_code == 404


async def test_the_database_has_nothing_that_opens(
    start: Start, closed_settings: ReceiverSettings
) -> None:
    running = start(closed_settings)
    made = await make(running.client, "read")
    async with running.receiver._database.reading() as connection:
        (row,) = (await connection.execute(sa.select(api_keys))).all()
    assert not any(made["key"].split("_", 2)[2] in str(value) for value in row)
    stolen = shown(f"fsk_{row.id}_{row.tag[:43]}")
    assert (await running.client.get("/images", headers=stolen)).status_code == 401


async def test_whatever_is_wrong_with_a_key_the_answer_is_the_same(
    start: Start, closed_settings: ReceiverSettings
) -> None:
    running = start(closed_settings)
    client = running.client
    right = (await make(client, "read"))["key"]
    expired = await make(client, "read", name="b", expires_at="2099-01-01T00:00:00+02:00")
    await change(running, expired["id"], expires_at=1)
    revoked = await make(client, "read", name="c")
    await client.delete(f"/keys/{revoked['id']}", headers=ADMINISTRATOR)
    other = new_secret_key().text
    _, key_id, secret = right.split("_", 2)
    last = "A" if secret[-1] != "A" else "E"
    wrong: list[Any] = [
        {},
        shown(expired["key"]),
        shown(revoked["key"]),
        shown(other),
        shown(f"fsk_{key_id}_{other.split('_', 2)[2]}"),
        shown(f"fsk_{key_id}_{secret[:-1]}{last}"),
        # The same bytes, written in another way.
        shown(right[:-1] + chr(ord(right[-1]) + 1)),
        shown(right + "="),
        shown(right + "\0"),
        shown(right.upper()),
        shown(f"fsk_{key_id}_"),
        shown(key_id),
        shown(right * 100),
        shown(f"{right} {right}"),
        {"Authorization": f"Basic {right}"},
        {"Authorization": right},
        {"Authorization": "Bearer"},
        {"X-Api-Key": right},
        {"Cookie": f"key={right}"},
        [("Authorization", f"Bearer {right}")] * 2,
        [("Authorization", f"Bearer {right}"), ("Authorization", "Bearer wrong")],
    ]
    answers = [await client.get("/images", headers=one) for one in wrong]
    answers.append(await client.get("/images", params={"key": right, "access_token": right}))
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {"Bearer"}
    assert len({answer.content for answer in answers}) == 1
    assert (await client.get("/images", headers=shown(right))).status_code == 200


async def test_a_key_is_rotated_without_a_moment_in_which_none_is_valid(
    start: Start, closed_settings: ReceiverSettings
) -> None:
    running = start(closed_settings)
    client = running.client
    first = await make(client, "read", expires_at="2099-01-01T00:00:00Z")
    both = await asyncio.gather(
        *(client.post(f"/keys/{first['id']}/rotate", headers=ADMINISTRATOR) for _ in range(3))
    )
    assert sorted(answer.status_code for answer in both) == [201, 409, 409]
    second = next(answer.json() for answer in both if answer.status_code == 201)
    assert (second["name"], second["scopes"]) == (first["name"], first["scopes"])
    assert second["expires_at"] > first["expires_at"]
    for made in (first, second):
        assert (await client.get("/images", headers=shown(made["key"]))).status_code == 200
    another = {"name": "a camera", "scopes": ["read"]}
    assert (await client.post("/keys", json=another, headers=ADMINISTRATOR)).status_code == 409
    await client.delete(f"/keys/{first['id']}", headers=ADMINISTRATOR)
    assert (await client.get("/images", headers=shown(second["key"]))).status_code == 200
    gone = await client.post(f"/keys/{first['id']}/rotate", headers=ADMINISTRATOR)
    assert gone.status_code == 404


def test_the_command_makes_lists_rotates_and_revokes_keys(
    sqlite_settings: DatabaseSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_settings.database_url)

    def keys(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["receiver", "keys", *arguments])
        app.main()
        return capsys.readouterr().out

    made = keys("create", "a camera", "--scope", "submit", "--scope=read", "--expires=90d")
    first = read_secret_key(made.strip())
    assert first
    rotated = read_secret_key(keys("rotate", first.id).strip())
    assert rotated
    keys("revoke", first.id)
    listed = keys("list").splitlines()
    assert [line.split()[0] for line in listed] == [rotated.id, first.id]
    assert ["a camera  read submit  created" in line for line in listed] == [True, True]
    assert [", revoked 20" in line for line in listed] == [False, True]
    assert ", expires 20" in listed[0]
    assert first.text not in str(listed)
    with sqlite3.connect(sa.make_url(sqlite_settings.database_url).database or "") as database:
        acts = database.execute(
            "SELECT kind, who, action, subject_id, status FROM audit"
        ).fetchall()
    command = ("command", "command line")
    assert acts == [
        (*command, action, first.id, None) for action in ("make_key", "rotate_key", "revoke_key")
    ]
    with pytest.raises(SystemExit, match=f"receiver: there is no valid key {first.id}"):
        keys("rotate", first.id)
    with pytest.raises(SystemExit):
        keys("create", "b", "--scope=read", "--expires=90")
    assert "write days such as 90d" in capsys.readouterr().err
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(SystemExit, match="receiver: database is not available: "):
        keys("list")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "\u200b"},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"expires_at": "2001-01-01T00:00:00Z"},
        {"expires_at": "2099-01-01T00:00:00"},
        {"expires_at": "2099-13-01T00:00:00Z"},
        {"expires_at": 4102444800},
        {"expires_at": "4102444800"},
    ],
)
async def test_no_key_is_made_that_is_not_meant(
    start: Start, closed_settings: ReceiverSettings, wrong: dict[str, object]
) -> None:
    client = start(closed_settings).client
    wanted = {"name": "a camera", "scopes": ["read"], **wrong}
    answer = await client.post("/keys", json=wanted, headers=ADMINISTRATOR)
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert fault["pointer"].startswith(f"/{next(iter(wrong))}")


async def test_many_requests_share_a_query_that_begins_after_they_came(
    start: Start, closed_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    valid, asked, begun, go_on = DatabaseApiKeys.valid, 0, asyncio.Event(), asyncio.Event()

    async def gated(keys: DatabaseApiKeys, ids: Collection[str]) -> Mapping[str, ValidKey]:
        nonlocal asked
        asked += 1
        found = await valid(keys, ids)
        begun.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(DatabaseApiKeys, "valid", gated)
    running = start(closed_settings)
    made = await make(running.client, "read")
    key = shown(made["key"])
    first = asyncio.create_task(running.client.get("/images", headers=key))
    await begun.wait()
    await running.client.delete(f"/keys/{made['id']}", headers=ADMINISTRATOR)
    others = [asyncio.create_task(running.client.get("/images", headers=key)) for _ in range(50)]
    for _ in range(100):  # turns, until all of them wait
        await asyncio.sleep(0)
    go_on.set()
    assert (await first).status_code == 200, "it came before"
    assert {(await one).status_code for one in others} == {401}
    assert asked == 2


async def test_its_use_is_noted_once_a_minute_and_never_fails_a_request(
    start: Start, closed_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(closed_settings)
    key = shown((await make(running.client, "read"))["key"])
    noted = []

    async def note_use(_: DatabaseApiKeys, key_id: str) -> None:
        noted.append(key_id)
        raise DatabaseUnavailableError("it is full")

    monkeypatch.setattr(DatabaseApiKeys, "note_use", note_use)
    for _ in range(3):
        assert (await running.client.get("/images", headers=key)).status_code == 200
    await running.receiver._access.close()
    assert len(noted) == 1


async def test_a_stream_of_events_ends_with_its_key(
    start: Start, closed_settings: ReceiverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_ADMIT_SECONDS", 0.05)
    running = start(closed_settings)
    made = await make(running.client, "read")
    began = asyncio.Event()

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        if message.get("body"):
            began.set()

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/events",
        "query_string": b"",
        "headers": [(b"host", b"receiver"), (b"authorization", f"Bearer {made['key']}".encode())],
    }
    stream = asyncio.ensure_future(running.receiver.app(scope, receive, send))
    await began.wait()
    assert not stream.done()
    await running.client.delete(f"/keys/{made['id']}", headers=ADMINISTRATOR)
    async with asyncio.timeout(30):
        await stream


async def test_who_hands_in_too_much_is_told_when_to_come_again(
    start: Start, closed_settings: ReceiverSettings
) -> None:
    of_few = {"submissions_per_minute": 3, "searches_per_minute": 1, "trusted_proxies": "127.0.0.1"}
    client = start(closed_settings.model_copy(update=of_few)).client
    key = shown((await make(client, "submit", "read"))["key"])
    other = shown((await make(client, "submit", name="another"))["key"])
    many = {"paths": [{"path": f"{number}.jpg"} for number in range(5)]}

    async def hand_in(key: Mapping[str, str], address: str) -> httpx.Response:
        headers = {**key, "X-Forwarded-For": address}
        return await client.post("/images/post", json=many, headers=headers)

    assert (await hand_in(key, "192.0.2.1")).status_code == 202
    by_key, by_address = await hand_in(key, "192.0.2.2"), await hand_in(other, "192.0.2.1")
    for refused in (by_key, by_address):
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert 40 < int(refused.headers["retry-after"]) <= 60, "5 of 3 a minute are paid, and one"
        assert "more than 3 pictures a minute" in refused.json()["detail"]
    assert (await hand_in(other, "192.0.2.2")).status_code == 202
    assert (await client.get("/images", headers=key)).status_code == 200
    face = {"image_id": 99, "face_index": 0}
    searched = [await client.post("/search", json=face, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in searched] == [503, 429]
    assert (await client.post("/search", json=face, headers=ADMINISTRATOR)).status_code == 429


def test_a_rate_is_a_minute_s_worth_and_forgets_who_was_longest_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rates, "_CALLERS", 2)
    now = 1000.0
    rate = Rate(60, clock=lambda: now)
    for _ in range(60):
        assert rate.wait_seconds("a") == 0
        rate.spend("a")
    assert rate.wait_seconds("a") == 1
    now += 1
    assert rate.wait_seconds("a") == 0
    rate.spend("a", 61)
    assert rate.wait_seconds("a") == 61
    assert rate.wait_seconds("b") == 0
    for caller in "bc":
        rate.spend(caller)
    assert list(rate._paid_until) == ["b", "c"]
