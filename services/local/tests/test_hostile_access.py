"""What people get who may not, or less than they want: the table hostile_cases.yaml, row by row.

The receiver and the frontend run in this process with keys and log-in, each a whole application;
the frontend's calls go to that receiver. Requests are made as a server hands them over, so that no
client mends what is wrong with them.
"""

import ast
import json
import re
import shutil
import sqlite3
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

from services.common.lifecycle import Lifecycle
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.common.tables import api_keys, audit, log_in_failures, metadata, sessions
from services.frontend.adapters.browser import BEFORE_LOG_IN, SESSION, csrf_token
from services.frontend.app import create_app
from services.frontend.settings import FrontendSettings
from services.receiver.adapters.hashing import Argon2Hasher
from services.receiver.app import Receiver
from services.receiver.domain.access import AccessScope
from services.receiver.domain.keys import new_secret_key, read_secret_key
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
