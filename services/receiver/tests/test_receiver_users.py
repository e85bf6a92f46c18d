"""Users and their sessions, on two replicas: who may log in, and what they may do then."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import argon2
import httpx
import pytest
import sqlalchemy as sa

from services.common.database import Database
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.common.tables import sessions
from services.receiver.adapters.hashing import Argon2Hasher
from services.receiver.adapters.http.documents import NewSessionDocument
from services.receiver.adapters.rows.sessions import DatabaseSessions
from services.receiver.adapters.rows.users import DatabaseUsers
from services.receiver.domain.access import Role
from services.receiver.domain.users import StoredPassword
from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Configure, Running

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "correct horse battery"
ADMINISTRATOR = {"Authorization": "Bearer the key of the administrator"}
FRONTEND = {"Authorization": "Bearer the key of the frontend"}

Replica = Callable[..., httpx.AsyncClient]


def cheap() -> Argon2Hasher:
    return Argon2Hasher(CHEAP)


@pytest.fixture
def closed(
    configure: Configure,
    database_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    tmp_path: Path,
) -> ReceiverSettings:
    """Settings of a receiver to which nobody may speak without a key, on either database."""
    files = {}
    for name in ("administrator", "frontend"):
        files[f"{name}_key_file"] = tmp_path / f"{name}-key"
        files[f"{name}_key_file"].write_text(f"the key of the {name}")
    return configure(
        database_settings,
        folder_store_settings,
        access="keys",
        oidc_roles="staff=viewer,/it=ou=editor, chiefs = administrator",
        **files,
    )


@pytest.fixture
async def replica(closed: ReceiverSettings) -> AsyncIterator[Replica]:
    """Start another receiver of the same installation."""
    async with AsyncExitStack() as stack:

        def begin(settings: ReceiverSettings = closed, hasher: Any = None) -> httpx.AsyncClient:
            running = Running(settings, hasher or cheap())
            stack.push_async_callback(running.close)
            return running.client

        yield begin


async def add(client: httpx.AsyncClient, name: str, role: str) -> int:
    body = {"name": name, "role": role, "password": PASSWORD}
    answer = await client.post("/users", json=body, headers=ADMINISTRATOR)
    assert answer.status_code == 201, answer.text
    assert PASSWORD not in answer.text
    return int(answer.json()["id"])


async def log_in(client: httpx.AsyncClient, name: str, password: str = PASSWORD) -> httpx.Response:
    return await client.post(
        "/sessions", json={"name": name, "password": password}, headers=FRONTEND
    )


async def vouch(client: httpx.AsyncClient, subject: str, *groups: str, name: str) -> httpx.Response:
    body = {"issuer": "https://id.example", "subject": subject, "name": name, "groups": groups}
    return await client.post("/sessions", json=body, headers=FRONTEND)


def on_session(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 201, answer.text
    return {**FRONTEND, "Facestack-Session": answer.json()["token"]}


async def test_a_user_logs_in_does_what_the_role_allows_and_logs_out(replica: Replica) -> None:
    one, other = replica(), replica()
    number = await add(one, "Ada", "viewer")
    answer = await log_in(one, " Ada ")
    assert answer.headers["cache-control"] == "no-store"
    assert NewSessionDocument.model_validate(answer.json()).role == "viewer"
    session = on_session(answer)
    who = (await other.get("/session", headers=session)).json()
    assert who == {"name": "Ada", "role": "viewer", "scopes": ["read"]}
    assert (await other.get("/images", headers=session)).status_code == 200
    for method, path in (("POST", "/image/post"), ("GET", "/users"), ("DELETE", "/people/Eve")):
        refused = await other.request(method, path, headers=session)
        assert refused.status_code == 403, (method, path)
    second = on_session(await log_in(other, "Ada"))
    # What a session may do is what its user may do now, whatever was so when it began.
    assert (await other.delete("/session", headers=session)).status_code == 204
    for client in (one, other):
        assert (await client.get("/session", headers=session)).status_code == 401
        assert (await client.get("/session", headers=second)).status_code == 200
    gone = await one.delete(f"/users/{number}", headers=ADMINISTRATOR)
    assert gone.status_code == 204
    assert (await other.get("/session", headers=second)).status_code == 401
    assert (await log_in(other, "Ada")).status_code == 401
    assert (await one.get("/users", headers=ADMINISTRATOR)).json()["users"] == []


async def test_a_change_of_what_a_user_may_do_ends_the_sessions(replica: Replica) -> None:
    one, other = replica(), replica()
    number = await add(one, "Ada", "editor")
    address, new = f"/users/{number}", "another long password"
    for change, password in (
        ({"role": "viewer"}, PASSWORD),
        ({"password": new}, PASSWORD),
        ({"disabled": True}, new),
    ):
        session = on_session(await log_in(other, "Ada", password))
        assert (await other.patch(address, json={}, headers=ADMINISTRATOR)).status_code == 200
        assert (await other.get("/session", headers=session)).status_code == 200
        changed = await one.patch(address, json=change, headers=ADMINISTRATOR)
        assert changed.status_code == 200
        assert (await other.get("/session", headers=session)).status_code == 401, change
    assert changed.json() == {
        "id": number,
        "name": "Ada",
        "role": "viewer",
        "issuer": None,
        "disabled": True,
        "created_at": changed.json()["created_at"],
    }
    assert (await log_in(other, "Ada", new)).status_code == 401
    assert (await log_in(other, "Ada")).status_code == 401
    await one.patch(address, json={"disabled": False}, headers=ADMINISTRATOR)
    assert (await log_in(other, "Ada", new)).status_code == 201


async def test_one_administrator_is_left_where_no_key_could_make_another(
    replica: Replica, closed: ReceiverSettings
) -> None:
    keyless = closed.model_copy(update={"administrator_key_file": None})
    database = Database(closed)
    users = DatabaseUsers(database)
    hashed = CHEAP.hash(PASSWORD)
    first = await users.add("first", Role.ADMINISTRATOR, hashed)
    await users.add("viewer", Role.VIEWER, hashed)
    one, other = replica(keyless), replica(keyless)
    session = on_session(await log_in(one, "first"))
    for change in ({"role": "editor"}, {"disabled": True}, None):
        refused = await (
            one.patch(f"/users/{first.id}", json=change, headers=session)
            if change
            else one.delete(f"/users/{first.id}", headers=session)
        )
        assert refused.status_code == 409
        assert "last administrator" in refused.json()["detail"]
    assert (await one.get("/session", headers=session)).status_code == 200
    # Two who take each other's place away at the same moment: one of them stays.
    second = await users.add("second", Role.ADMINISTRATOR, hashed)
    also = on_session(await log_in(other, "second"))
    answers = await asyncio.gather(
        one.patch(f"/users/{second.id}", json={"role": "viewer"}, headers=session),
        other.patch(f"/users/{first.id}", json={"disabled": True}, headers=also),
    )
    assert sorted(answer.status_code for answer in answers) in ([200, 401], [200, 409])
    roles = (await users.page(after=None, limit=9)).items
    assert sum(user.role == "administrator" and not user.disabled_at for user in roles) == 1
    # Whoever has the key can make another.
    keyed = replica()
    for user in roles:
        gone = await keyed.delete(f"/users/{user.id}", headers=ADMINISTRATOR)
        assert gone.status_code == 204
    await database.close()


async def test_whom_a_provider_vouches_for_has_the_role_of_their_groups(replica: Replica) -> None:
    one, other = replica(), replica()
    await add(one, "Ada", "administrator")
    roles = {}
    for groups, status in (
        (("staff", "unknown"), "viewer"),
        (("staff", "/it=ou"), "editor"),
        (("chiefs", "staff"), "administrator"),
        (("staff",), "viewer"),
    ):
        answer = await vouch(one, "7", *groups, name="Ada")
        assert answer.json()["role"] == status
        roles[status] = on_session(answer)
    # The same person, who does not pass for the one of that name.
    own, provided = (await one.get("/users", headers=ADMINISTRATOR)).json()["users"]
    assert (own["name"], own["role"], own["issuer"]) == ("Ada", "administrator", None)
    assert provided["name"].startswith("Ada (")
    assert provided["issuer"] == "https://id.example"
    assert (await other.get("/session", headers=roles["administrator"])).status_code == 401
    assert (await other.get("/session", headers=roles["viewer"])).json()["role"] == "viewer"
    for others in ([], ["chief"], ["Staff"]):
        refused = await vouch(one, "7", *others, name="Ada")
        assert refused.status_code == 403
        assert "in none of the groups" in refused.json()["detail"]
    for name in ("a/b", "\u200b", "x" * 900):
        assert (await vouch(one, name[:9], "staff", name=name)).status_code == 201
    address = f"/users/{provided['id']}"
    for change in ({"role": "editor"}, {"password": PASSWORD}):
        kept = await one.patch(address, json=change, headers=ADMINISTRATOR)
        assert kept.status_code == 409
        assert "https://id.example" in kept.json()["detail"]
    await one.patch(address, json={"disabled": True}, headers=ADMINISTRATOR)
    assert (await vouch(other, "7", "chiefs", name="Ada")).status_code == 401
    # At the same moment, somebody new is one all the same.
    many = await asyncio.gather(
        *(vouch(client, "8", "staff", name="Bob") for client in (one, other) for _ in range(3))
    )
    assert {answer.status_code for answer in many} == {201}
    users = (await one.get("/users", headers=ADMINISTRATOR)).json()["users"]
    assert [user["name"] for user in users].count("Bob") == 1


async def test_only_the_frontend_says_on_whose_session_it_acts(replica: Replica) -> None:
    client = replica()
    await add(client, "Ada", "viewer")
    session = on_session(await log_in(client, "Ada"))
    token = {"Facestack-Session": session["Facestack-Session"]}
    for headers, status in (
        ({**FRONTEND, "Facestack-Session": "x" * 43}, 401),
        ({**FRONTEND, "Facestack-Session": ""}, 401),
        ({**FRONTEND, "Facestack-Session": "\xe9" * 5000}, 401),
        ({**FRONTEND, "Cookie": f"session={token['Facestack-Session']}"}, 403),
        (token, 401),
        ({**token, "Authorization": f"Bearer {token['Facestack-Session']}"}, 401),
        ({**token, "Authorization": "Bearer nobody's"}, 401),
        (FRONTEND, 403),
        (session, 200),
    ):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        answer = await client.get("/images", headers=raw)
        assert answer.status_code == status, headers
    twice = [*session.items(), *token.items()]
    assert (await client.get("/images", headers=twice)).status_code == 401
    # Of somebody else's key the header says nothing.
    as_administrator = {**ADMINISTRATOR, **token}
    who = (await client.get("/session", headers=as_administrator)).json()
    assert (who["name"], who["role"]) == ("administrator key", None)
    assert (await client.delete("/session", headers=as_administrator)).status_code == 409
    # And nobody else logs anybody in, not even who is logged in.
    for headers, status in ((ADMINISTRATOR, 403), (session, 403), (token, 401)):
        body = {"name": "Ada", "password": PASSWORD}
        answer = await client.post("/sessions", json=body, headers=headers)
        assert answer.status_code == status


async def test_the_audit_says_who_logged_in_and_of_a_wrong_password_that_nobody_did(
    closed: ReceiverSettings,
) -> None:
    running = Running(closed, cheap())
    client = running.client

    async def acts() -> set[tuple[object, ...]]:
        """Return who did what to whom, or was refused."""
        await running.receiver.auditing.write()
        page = (await client.get("/audit", headers=ADMINISTRATOR)).json()
        columns = ("who", "address", "action", "subject_id", "status")
        return {tuple(act[name] for name in columns) for act in page["acts"]}

    number = str(await add(client, "Ada", "viewer"))
    told = {**FRONTEND, "Facestack-Address": "192.0.2.7"}
    for password in ("wrong", PASSWORD):
        body = {"name": "Ada", "password": password}
        answer = await client.post("/sessions", json=body, headers=told)
    session = on_session(answer)
    # That a session is in use is written down, but is nothing that anybody did.
    database = Database(closed)
    async with database.transaction() as connection:
        await connection.execute(sa.update(sessions).values(used_at=sessions.c.used_at - 60_000))
    await database.close()
    assert (await client.delete("/people/Eve", headers=session)).status_code == 403
    assert await acts() == {
        ("administrator key", "127.0.0.1", "add_user", number, None),
        ("frontend", "192.0.2.7", "begin_session", None, 401),
        ("frontend", "192.0.2.7", "begin_session", number, None),
        ("Ada", "127.0.0.1", "delete_person", None, 403),
    }
    await running.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "Eve", "role": "viewer", "password": "x" * 11}, 422),
        ({"name": "Eve", "role": "viewer", "password": "x" * 201}, 422),
        ({"name": "Eve", "role": "owner", "password": PASSWORD}, 422),
        ({"name": "\u200b", "role": "viewer", "password": PASSWORD}, 422),
        ({"name": "Ada", "role": "viewer", "password": PASSWORD}, 409),
        ({"name": "Eve", "role": "viewer"}, 422),
    ],
)
async def test_a_wrong_user(
    plain_replica: httpx.AsyncClient, body: dict[str, str], status: int
) -> None:
    await add(plain_replica, "Ada", "viewer")
    answer = await plain_replica.post("/users", json=body, headers=ADMINISTRATOR)
    assert answer.status_code == status
    assert "xxx" not in answer.text


async def test_pages_of_users(plain_replica: httpx.AsyncClient) -> None:
    names = ["Ada", "Bob", "Cyd"]
    for name in names:
        await add(plain_replica, name, "viewer")
    cursor, found = "", []
    for _ in names:
        address = f"/users?limit=1{cursor}"
        page = (await plain_replica.get(address, headers=ADMINISTRATOR)).json()
        found += [user["name"] for user in page["users"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert found == names
    assert page["next_cursor"] is None


@pytest.fixture
async def plain_replica(
    configure: Configure,
    sqlite_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    tmp_path: Path,
) -> AsyncIterator[httpx.AsyncClient]:
    file = tmp_path / "administrator-key"
    file.write_text("the key of the administrator")
    settings = configure(
        sqlite_settings, folder_store_settings, access="keys", administrator_key_file=file
    )
    running = Running(settings, cheap())
    yield running.client
    await running.close()


async def test_a_session_ends_when_it_is_not_used_and_in_any_case(database: Database) -> None:
    user = await DatabaseUsers(database).add("Ada", Role.VIEWER, "hash")

    def at(milliseconds: int) -> DatabaseSessions:
        """Return the sessions as they are at that time."""
        return DatabaseSessions(
            database, idle_ms=300_000, longest_ms=1_000_000, now=lambda: sa.literal(milliseconds)
        )

    for name in ("used", "left"):
        session = await at(0).begin(name, StoredPassword(user.id, "hash"), None)
        assert session
        assert session.ends_at == 1_000_000
    for time, stale in ((59_999, False), (60_000, True), (299_999, True)):
        found = await at(time).valid(["used", "another"])
        assert [(one.id, one.is_stale) for one in found.values()] == [("used", stale)]
    await at(299_999).touch("used")
    assert set(await at(300_000).valid(["used", "left"])) == {"used"}
    for time in (550_000, 800_000, 999_999):
        assert await at(time).valid(["used"])
        await at(time).touch("used")
    assert await at(999_999).forget_ended() == 0
    assert not await at(1_000_000).valid(["used"])
    assert [await at(1_000_000).forget_ended() for _ in range(2)] == [2, 0]
