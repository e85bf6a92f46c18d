"""What people get who may not, or less than they want: the table hostile_cases.yaml, row by row.

The receiver and the frontend run in this process with keys and log-in, each a whole application;
the frontend's calls go to that receiver. Requests are made as a server hands them over, so that no
client mends what is wrong with them.
"""

import ast
import asyncio
import hmac
import json
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlencode, urlsplit

import argon2
import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
import yaml
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from starlette.applications import Starlette
from starlette.routing import Route

from services.common.lifecycle import Lifecycle
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.common.tables import api_keys, audit, log_in_failures, metadata, sessions
from services.frontend.adapters.browser import BEFORE_LOG_IN, SESSION, csrf_token
from services.frontend.app import create_app
from services.frontend.settings import FrontendSettings
from services.receiver.adapters.hashing import Argon2Hasher
from services.receiver.adapters.rows.attempts import DatabaseAttempts
from services.receiver.app import Receiver
from services.receiver.domain.access import AccessScope, Caller
from services.receiver.domain.keys import SecretKey, new_secret_key, read_secret_key
from services.receiver.service.sessions import session_id
from services.receiver.settings import ReceiverSettings

ROOT: Final = Path(__file__).parents[3]
TABLE: Final[list[dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("hostile_cases.yaml").read_text()
)
CASES: Final = [case for case in TABLE if "send" in case]
PASSWORD: Final = "correct horse battery"
CHEAP: Final = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HOSTS: Final = {"api": "receiver", "page": "page.example"}
HELPS: Final = (
    "Traceback",
    'File "',
    "site-packages",
    "SELECT ",
    "sqlite",
    "sqlalchemy",
    "argon2",
    "no such user",
    "does not exist",
)
"""What would help whoever attacks."""

NOTED: Final = {"used_at", "last_used_at"}
"""Columns that say when a key or session was of use."""

STORED: Final = {
    table.name: ", ".join(f'"{column.name}"' for column in table.c if column.name not in NOTED)
    for table in metadata.sorted_tables
    if table not in (audit, log_in_failures)
}

in_one_loop = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def text(self) -> str:
        """All of it, a line for each header."""
        lines = (f"{name.decode()}: {value.decode('latin-1')}\n" for name, value in self.headers)
        return "".join(lines) + "\n" + self.body.decode("utf-8", "replace")


@dataclass
class World:
    """Both applications, and the secrets that let somebody in."""

    receiver: Receiver
    apps: dict[str, Any]
    database: Path
    secrets: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)
    """Of the browser of the case that is being tried."""

    async def send(
        self,
        to: str,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        hosts: Sequence[str] | None = None,
        address: str = "198.51.100.1",
    ) -> Answer:
        """Have a request answered, as uvicorn hands one over."""
        parts = urlsplit(target) if target.startswith("http") else None
        path, _, query = (parts.path if parts else target).partition("?")
        all_headers = [("host", host) for host in ([HOSTS[to]] if hosts is None else hosts)]
        all_headers += headers
        if body:
            all_headers.append(("content-length", str(len(body))))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "https" if to == "page" else "http",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": [
                (name.strip().lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in all_headers
            ],
            "client": (address, 1),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }
        answer = Answer(0, [], b"")
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def keep(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], list(message["headers"])
            else:
                answer.body += message.get("body", b"")

        await self.apps[to](scope, receive, keep)
        return answer

    async def ask(self, key: str, method: str, path: str, **body: Any) -> Any:
        """Return what the API answers to whoever has that key."""
        headers = [("Authorization", f"Bearer {self.secrets[key]}")]
        content = json.dumps(body).encode() if body else b""
        sent = [*headers, ("Content-Type", "application/json")] if body else headers
        answer = await self.send("api", method, path, sent, content)
        assert answer.status < 300, answer.text
        return json.loads(answer.body) if answer.body else None

    async def log_in(self, name: str) -> str:
        """Return the token of a new session."""
        body = {"name": name, "password": PASSWORD}
        return str((await self.ask("frontend's key", "POST", "/sessions", **body))["token"])

    def filled(self, text: str) -> str:
        """Return a text with the secrets that it names."""
        return re.sub(r"\$\{([^}]+)\}", lambda found: self._secret(found[1]), text)

    def _secret(self, name: str) -> str:
        if name == "log-in csrf":
            return csrf_token(self.cookies[BEFORE_LOG_IN])
        if name.endswith(" csrf"):
            return csrf_token(self.secrets[f"{name.removesuffix(' csrf')} session"])
        return {"8 kB": "x" * 8192, "300": "x" * 300, "password": PASSWORD}.get(
            name
        ) or self.secrets[name]

    def shown(self, to: str, who: str) -> list[tuple[str, str]]:
        """Return the headers by which somebody says who they are."""
        secret = self.secrets[who]
        if not who.endswith(" session"):
            return [("Authorization", f"Bearer {secret}")]
        if to == "page":
            return [("Cookie", f"{SESSION}={secret}"), ("X-CSRF-Token", csrf_token(secret))]
        key = self.secrets["frontend's key"]
        return [("Authorization", f"Bearer {key}"), ("Facestack-Session", secret)]

    async def acts(self, after: int = 0) -> list[Any]:
        """Return the rows of the audit behind that one."""
        await self.receiver._access.close()  # what is being noted may wrongly be recorded
        await self.receiver.auditing.write()
        query = sa.select(audit).where(audit.c.id > after).order_by(audit.c.id)
        async with self.receiver._database.reading() as connection:
            return list((await connection.execute(query)).all())

    def rows(self) -> dict[str, list[Any]]:
        """Return what is in the database, but what also changes when somebody is refused."""
        with closing(sqlite3.connect(self.database)) as connection:
            return {
                name: connection.execute(f"SELECT {columns} FROM {name}").fetchall()
                for name, columns in STORED.items()
            }


@asynccontextmanager
async def a_world(folder: Path, migrated: Path) -> AsyncIterator[World]:
    """Both applications on a database of their own."""
    database = folder / "facestack.db"
    shutil.copy(migrated, database)
    files = {name: folder / f"{name}-key" for name in ("administrator", "frontend")}
    for name, file in files.items():
        file.write_text(f"the {name}'s, of a test")
    receiver = Receiver(
        ReceiverSettings(
            **DatabaseSettings(database_url=f"sqlite+aiosqlite:///{database}").model_dump(),
            **ObjectStoreSettings(object_store_url=(folder / "store").as_uri()).model_dump(),
            face_recog_target="127.0.0.1:1",
            people_target="127.0.0.1:1",
            nsqd_url="http://127.0.0.1:1",
            allowed_hosts=HOSTS["api"],
            oidc_roles="chiefs=administrator",
            administrator_key_file=files["administrator"],
            frontend_key_file=files["frontend"],
        ),
        Argon2Hasher(CHEAP),
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(receiver.app), base_url=f"http://{HOSTS['api']}"
    ) as client:
        page = create_app(
            client,
            Lifecycle({}, drain_seconds=0),
            FrontendSettings(receiver_key_file=files["frontend"], allowed_hosts=HOSTS["page"]),
        )
        world = World(receiver, {"api": receiver.app, "page": page}, database)
        world.secrets = {f"{name}'s key": file.read_text() for name, file in files.items()}
        yield world
        await receiver.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory, _migrated_sqlite: Path
) -> AsyncIterator[World]:
    """An installation with everybody in it of whom the table speaks."""
    async with a_world(tmp_path_factory.mktemp("hostile"), _migrated_sqlite) as world:
        secrets, administrator = world.secrets, "administrator's key"
        ids = {}
        for name in (*AccessScope, "expired", "revoked", "rotated", "unused"):
            scopes = [name] if name in set(AccessScope) else list(AccessScope)
            scopes = ["read"] if name == "unused" else scopes
            made = await world.ask(administrator, "POST", "/keys", name=name, scopes=scopes)
            secrets[f"{name} key"], ids[name] = made["key"], made["id"]
        await world.ask(administrator, "POST", f"/keys/{ids['rotated']}/rotate")
        for name in ("revoked", "rotated"):
            await world.ask(administrator, "DELETE", f"/keys/{ids[name]}")
        async with world.receiver._database.transaction() as connection:
            expired = sa.update(api_keys).where(api_keys.c.id == ids["expired"])
            await connection.execute(expired.values(expires_at=1))
        read, wrong = read_secret_key(secrets["read key"]), new_secret_key()
        assert read
        secrets |= {
            "wrong key": wrong.text,
            "wrong id": wrong.id,
            "wrong secret": wrong.text[-43:],
            "read id": read.id,
            "read secret": read.text[-43:],
            "read cut": read.text[:-1],
            "read tag": read.tag[:43],
            "submit id": ids[AccessScope.SUBMIT],
            "wrong session": "made-up" * 6,
        }
        roles = {"viewer": "viewer", "editor": "editor", "administrator": "administrator"}
        users = {}
        for name, role in {**roles, "disabled": "editor", "removed": "editor"}.items():
            body = {"name": name, "role": role, "password": PASSWORD}
            users[name] = (await world.ask(administrator, "POST", "/users", **body))["id"]
            secrets[f"{name} session"] = await world.log_in(name)
        path = f"/users/{users['disabled']}"
        await world.ask(administrator, "PATCH", path, disabled=True)
        await world.ask(administrator, "DELETE", f"/users/{users['removed']}")
        for name in ("ended", "second", "another", "stale"):
            secrets[f"{name} session"] = await world.log_in("viewer")
        async with world.receiver._database.transaction() as connection:
            await connection.execute(
                sa.update(sessions)
                .where(sessions.c.id == session_id(secrets["stale session"]))
                .values(used_at=sessions.c.used_at - 100_000)
            )
        headers = world.shown("api", "ended session")
        assert (await world.send("api", "DELETE", "/session", headers)).status == 204
        secrets["id of a session"] = session_id(secrets["viewer session"])
        yield world


def in_pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return headers that are written as in a request."""
    pairs = (line.partition(":") for line in lines)
    return [(name, value.removeprefix(" ")) for name, _, value in pairs]


def content_of(world: World, case: dict[str, Any]) -> tuple[list[tuple[str, str]], bytes]:
    """Return the body of a case's request, and the headers that say of what kind it is."""
    if "form" in case:
        fields = {name: world.filled(value) for name, value in case["form"].items()}
        return [("Content-Type", "application/x-www-form-urlencoded")], urlencode(fields).encode()
    text = world.filled(json.dumps(case["json"])) if "json" in case else case.get("body", "")
    return ([("Content-Type", "application/json")] if text else []), text.encode()


async def tried(world: World, case: dict[str, Any], address: str) -> tuple[Answer, list[Any]]:
    """Return what the case's request gets, and what stands in the audit of it.

    What is refused changes nothing.
    """
    world.cookies.clear()
    shown = world.shown(case["to"], case["as"]) if "as" in case else []
    for step in case.get("first", ()):
        method, target = step.split(" ")
        before = await world.send(case["to"], method, target, shown, address=address)
        for name, value in before.headers:
            if name == b"set-cookie":
                found: SimpleCookie = SimpleCookie(value.decode())
                world.cookies |= {one.key: one.value for one in found.values()}
    last = max((row.id for row in await world.acts()), default=0)
    rows = world.rows()
    method, target = world.filled(case["send"]).split(" ", 1)
    headers, body = content_of(world, case)
    headers += [*shown, *in_pairs([world.filled(line) for line in case.get("with", ())])]
    if BEFORE_LOG_IN in world.cookies:
        headers.append(("Cookie", f"{BEFORE_LOG_IN}={world.cookies[BEFORE_LOG_IN]}"))
    answer = await world.send(
        case["to"], method, target, headers, body, hosts=case.get("host"), address=address
    )
    assert answer.status < 400 or world.rows() == rows
    return answer, await world.acts(last)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@in_one_loop
async def test_each_case_gets_what_the_table_says(world: World, case: dict[str, Any]) -> None:
    address = f"192.0.2.{1 + CASES.index(case)}"
    answer, acts = await tried(world, case, address)
    statuses = case["status"] if isinstance(case["status"], list) else [case["status"]]
    assert answer.status in statuses, answer.text
    assert answer.status < 500
    assert case.get("says", "") in answer.text
    # A page says back what stands in an address, to whoever sent it and to nobody else.
    hidden = () if case.get("reflects") else (*world.secrets.values(), PASSWORD)
    for secret in (*hidden, *HELPS, *([case["hides"]] if "hides" in case else ())):
        assert len(secret) < 4 or secret not in answer.text, secret
    if case["to"] == "api" and answer.status == 401 and "/sessions" not in case["send"]:
        assert b"fsk_" not in answer.body
        nobody = await world.send("api", "GET", "/images")
        assert (answer.body, answer.headers) == (nobody.body, nobody.headers)
        await world.acts()
    wanted = case.get("audit", [])
    wanted = wanted if isinstance(wanted, list) else [wanted]
    assert [f"{row.action} {row.status or 'done'}" for row in acts] == wanted
    assert all(row.address == address for row in acts), "somebody else's address"
    by = case.get("by", "")
    assert {row.who for row in acts} <= set(by if isinstance(by, list) else [by])
    assert "about" not in case or {row.subject_kind for row in acts} == {case["about"]}
    assert wanted or case["none"], "nothing in the audit wants a reason"


def test_the_table_is_long_enough_and_names_no_case_twice() -> None:
    names = [case["name"] for case in TABLE]
    assert len(names) >= 90
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "case", [case for case in TABLE if "send" not in case], ids=lambda case: case["name"]
)
def test_what_another_test_shows_is_in_it(case: dict[str, Any]) -> None:
    source = (ROOT / case["shown_by"]).read_text()
    names = {
        node.name: node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert case["test"] in names
    assert case["case"] in source


def test_every_test_that_the_threat_model_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"((?:`test_\w+`(?: and )?)+) in \[[\w.]+\]\(\.\./([\w./]+)\)", page)
    for tests, path in named:
        source = (ROOT / path).read_text()
        for test in re.findall(r"test_\w+", tests):
            assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), (test, path)
    assert sum(len(re.findall("test_", tests)) for tests, _ in named) == page.count("`test_")


# ---- Who may only look ---------------------------------------------------------------------------


@in_one_loop
async def test_a_viewer_who_tries_every_write_of_the_api_changes_nothing(world: World) -> None:
    private = httpx.ASGITransport(Starlette(routes=world.receiver.docs))
    async with httpx.AsyncClient(transport=private, base_url="http://private") as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    shown = world.shown("api", "viewer session")
    before, last, tried_ones = world.rows(), len(await world.acts()), []
    for path, operations in paths.items():
        for method, operation in operations.items():
            [needed] = operation["security"][0]["key"]
            if needed in (AccessScope.READ, Caller.KNOWN):
                continue
            target = re.sub(r"{\w+}", "1", path)
            answer = await world.send("api", method.upper(), target, shown)
            assert answer.status == 403, (method, path, answer.text)
            tried_ones.append(f"{operation['operationId']} 403 viewer")
    assert len(tried_ones) > 35
    assert world.rows() == before
    acts = await world.acts(last)
    assert sorted(f"{act.action} {act.status} {act.who}" for act in acts) == sorted(tried_ones)


def actions(app: Any) -> list[str]:
    """Return the path of every action of the page, with 1 for what changes."""
    while not isinstance(app, FastAPI):
        app = app._app  # of the middleware around it
    return [
        re.sub(r"{\w+}", "1", route.path)
        for included in app.routes
        for route in getattr(included, "original_router", app).routes
        if isinstance(route, Route) and "POST" in (route.methods or ())
    ]


@in_one_loop
async def test_a_viewer_who_tries_every_action_of_the_page_changes_nothing(world: World) -> None:
    may = {"/log-in", "/log-out", "/search"}
    paths = [path for path in actions(world.apps["page"]) if path not in may]
    assert len(paths) >= 30
    fields = {"person": "Eve", "name": "Eve", "into": "Eve", "role": "administrator"}
    fields |= dict.fromkeys(("left", "top"), "1") | dict.fromkeys(("right", "bottom"), "9")
    fields |= {"scope": "read", "password": PASSWORD, "answer": "same", "face": "1/0", "with": "2"}
    picture = b"\r\n".join(
        [
            *(
                b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s'
                % (name.encode(), value.encode())
                for name, value in fields.items()
            ),
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nx',
            b"--x--\r\n",
        ]
    )
    as_form = ("application/x-www-form-urlencoded", urlencode(fields).encode())
    with_file = ("multipart/form-data; boundary=x", picture)
    shown = world.shown("page", "viewer session")
    before, last = world.rows(), len(await world.acts())
    for path in paths:
        kind, body = with_file if path in {"/upload", "/people"} else as_form
        answer = await world.send("page", "POST", path, [*shown, ("Content-Type", kind)], body)
        assert 400 <= answer.status < 500, (path, answer.text)
    assert world.rows() == before
    acts = await world.acts(last)
    assert {(act.who, act.status) for act in acts} == {("viewer", 403)}
    assert len({act.action for act in acts}) > 20


# ---- What is told to whoever guesses -------------------------------------------------------------


@in_one_loop
async def test_a_log_in_that_fails_tells_nothing_of_who_there_is(world: World) -> None:
    headers = [*world.shown("api", "frontend's key"), ("Content-Type", "application/json")]
    answers = []
    for number, name in enumerate(("viewer", "nobody", "disabled", "removed", "viewer\0", "")):
        body = {"name": name, "password": "wrong" if name == "viewer" else PASSWORD}
        answers.append(
            await world.send(
                "api",
                "POST",
                "/sessions",
                [*headers, ("Facestack-Address", f"203.0.113.{number}")],
                json.dumps(body).encode(),
            )
        )
    assert {(answer.status, answer.body, str(answer.headers)) for answer in answers} == {
        (401, answers[0].body, str(answers[0].headers))
    }
    cookie = "somebody who has yet to log in"
    secret = hmac.new(b"", cookie.encode(), "sha256").hexdigest()
    pages = set()
    for number, name in enumerate(("viewer", "nobody", "disabled", "removed")):
        form = {"name": name, "password": "wrong", "csrf": csrf_token(secret)}
        answer = await world.send(
            "page",
            "POST",
            "/log-in",
            [
                ("Cookie", f"{BEFORE_LOG_IN}={secret}"),
                ("Content-Type", "application/x-www-form-urlencoded"),
            ],
            urlencode(form).encode(),
            address=f"203.0.113.{9 + number}",
        )
        length = f"content-length: {len(answer.body)}"
        pages.add(answer.text.replace(f'value="{name}"', "").replace(length, ""))
        assert f'value="{name}"' in answer.text
    assert len(pages) == 1


@in_one_loop
async def test_a_wrong_key_is_as_much_work_as_one_that_nobody_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[str] = []
    compare = hmac.compare_digest

    def counted(one: str, other: str) -> bool:
        work.append(f"compare {len(one)} {len(other)}")
        return compare(one, other)

    def noted(_: Any, __: Any, statement: str, *more: Any) -> None:
        work.append(statement)

    engine = world.receiver._database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", noted)
    monkeypatch.setattr(hmac, "compare_digest", counted)
    done = []
    right = read_secret_key(world.secrets["submit key"])
    assert right
    for secret in (
        new_secret_key(),  # nobody's
        SecretKey(right.id, new_secret_key().secret),
        read_secret_key(world.secrets["revoked key"]),
        read_secret_key(world.secrets["expired key"]),
        right,
    ):
        assert secret
        work.clear()
        answer = await world.send(
            "api", "GET", "/images/1", [("Authorization", f"Bearer {secret.text}")]
        )
        assert answer.status == (403 if secret is right else 401)
        done.append(list(work))
    event.remove(engine, "before_cursor_execute", noted)
    assert done[0] == [one for one in done[0] if one.startswith(("compare", "SELECT"))]
    # Both files' keys, a query, and the tag, whether there is one or not.
    assert [one.partition(" ")[0] for one in done[0]].count("SELECT") == 1
    assert "compare 64 64" in done[0]
    assert all(one == done[0] for one in done), done


@pytest_asyncio.fixture(loop_scope="module")
async def alone(tmp_path: Path, _migrated_sqlite: Path) -> AsyncIterator[World]:
    """An installation for one test, without anybody."""
    async with a_world(tmp_path, _migrated_sqlite) as world:
        yield world


@in_one_loop
async def test_a_thousand_log_ins_lock_nobody_else_out_and_are_counted(alone: World) -> None:
    for name in ("ada", "bob"):
        body = {"name": name, "role": "viewer", "password": PASSWORD}
        await alone.ask("administrator's key", "POST", "/users", **body)
    now = 0
    alone.receiver._log_in._attempts = DatabaseAttempts(
        alone.receiver._database, lambda: sa.literal(now)
    )
    last = len(await alone.acts())
    shown = [*alone.shown("api", "frontend's key"), ("Content-Type", "application/json")]

    async def log_in(name: str, password: str, address: str) -> Answer:
        body = json.dumps({"name": name, "password": password}).encode()
        headers = [*shown, ("Facestack-Address", address)]
        return await alone.send("api", "POST", "/sessions", headers, body)

    statuses: Counter[int] = Counter()
    for _ in range(20):
        attackers = (log_in("ada", "guess", "203.0.113.66") for _ in range(50))
        for answer in await asyncio.gather(*attackers):
            statuses[answer.status] += 1
            assert answer.status == 401 or dict(answer.headers)[b"retry-after"]
        now += 3000
    # In a minute: five at once, then one each when 1, 2, 4, 8 and 16 s were over.
    assert statuses == {401: 10, 429: 990}
    assert (await log_in("ada", PASSWORD, "203.0.113.66")).status == 429
    assert (await log_in("ada", PASSWORD, "198.51.100.7")).status == 201
    assert (await log_in("bob", PASSWORD, "198.51.100.7")).status == 201
    rows = [act for act in await alone.acts(last) if act.status]
    assert {(act.action, act.who, act.address) for act in rows} == {
        ("begin_session", "frontend", "203.0.113.66")
    }
    times = {act.status: act.times for act in rows}
    assert (len(rows), times) == (2, {401: 10, 429: 991})


# ---- Whatever else -------------------------------------------------------------------------------

METHODS: Final = ("HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "get", "GRANT")
PATHS: Final = (
    "/images",
    "//images",
    "/images/1",
    "/images/%2e%2e/keys",
    "/keys",
    "/keys;/livez",
    "/users",
    "/session",
    "/sessions",
    "/audit",
    "/people/keys",
    "/people/a%2fb",
    "/log-in",
    "/openapi.json",
    "/%00",
    "/\xff",
)
QUERIES: Final = ("", "?key=${read key}", "?_method=DELETE", "?cursor=%00", "?limit=x", "?then=//e")
VALUES: Final = (
    "Bearer ${read key}",
    "Bearer ${administer key}",
    "Bearer ${frontend's key}",
    "bearer ${expired key}",
    "Bearer ${read key}, Bearer ${read key}",
    "Bearer ${wrong key}",
    "Basic ${read key}",
    "Bearer",
    "${viewer session}",
    "${ended session}",
    f"{SESSION}=${{another session}}",
    "GET",
    "127.0.0.1",
    "evil.example",
    "receiver",
    "https://evil.example",
    "cross-site",
    "\xff",
    "\0",
    "",
    "${8 kB}",
)
NAMES: Final = (
    "Authorization",
    "Facestack-Session",
    "Facestack_Session",
    "Facestack-Address",
    "Facestack-User",
    "X-Forwarded-For",
    "X-HTTP-Method-Override",
    "X-Original-URL",
    "X-CSRF-Token",
    "Cookie",
    "Origin",
    "Sec-Fetch-Site",
    "Content-Type",
    "Content-Length",
    "Host",
)


def may_succeed(to: str, path: str, sent: list[tuple[str, str]], world: World) -> bool:
    """Tell whether what a request shows is one right thing."""
    if to == "page":
        session = f"{SESSION}={world.secrets['another session']}"
        return path == "/log-in" or [value for name, value in sent if name == "Cookie"] == [session]
    keys = [value for name, value in sent if name == "Authorization"]
    on = [value for name, value in sent if name == "Facestack-Session"]
    if len(keys) != 1 or len(on) > 1:
        return False
    right = {f"Bearer {world.secrets[name]}" for name in ("read key", "administer key")}
    frontend = world.filled("Bearer ${frontend's key}")
    return keys[0] in right or (keys[0] == frontend and on == [world.secrets["viewer session"]])


@given(
    st.tuples(
        st.sampled_from(["api", "page"]),
        # What answers to whoever may is tried most.
        st.sampled_from(["GET"]) | st.sampled_from(METHODS),
        st.sampled_from(["/images", "/keys"]) | st.sampled_from(PATHS),
        st.sampled_from(QUERIES),
    ),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=5),
    # Without any key everything is refused at once.
    st.lists(st.tuples(st.just("Authorization"), st.sampled_from(VALUES[:4])), max_size=2),
)
@in_one_loop
async def test_whatever_is_sent_nothing_fails_and_nobody_gets_in_who_shows_nothing(
    world: World,
    request_line: tuple[str, str, str, str],
    headers: list[tuple[str, str]],
    keys: list[tuple[str, str]],
) -> None:
    to, method, path, query = request_line
    if (method, path) == ("DELETE", "/session"):
        return  # or the sessions would be over for what follows
    sent = [(name, world.filled(value)) for name, value in [*headers, *keys]]
    answer = await world.send(to, method, world.filled(path + query), sent)
    assert answer.status < 500, answer.text
    if answer.status < 300:
        assert may_succeed(to, path, sent, world), answer.text
