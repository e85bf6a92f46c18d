"""Who may do what."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.applications import Starlette

from services.common.database import Database
from services.common.probes import PROBES
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.common.tables import backups
from services.receiver.adapters.http.guard import Guard
from services.receiver.adapters.http.rates import Rates
from services.receiver.domain.access import AccessScope, Caller
from services.receiver.service.access import Access
from services.receiver.settings import RateSettings
from services.receiver.tests.conftest import Configure, Running

KEY = "a key that lies in a file"


@pytest.fixture
async def running(
    configure: Configure,
    sqlite_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    tmp_path: Path,
) -> AsyncIterator[Running]:
    """A receiver to which nobody may speak without a key."""
    file = tmp_path / "administrator-key"
    file.write_text(KEY)
    settings = configure(
        sqlite_settings, folder_store_settings, access="keys", administrator_key_file=file
    )
    running = Running(settings)
    yield running
    await running.close()


@pytest.fixture
def guarded(running: Running) -> httpx.AsyncClient:
    """A client of it that shows no key."""
    return running.client


@pytest.fixture
async def operations(running: Running) -> list[tuple[str, str, Any]]:
    """Method, path and description of each of its operations."""
    private = httpx.ASGITransport(Starlette(routes=running.receiver.docs))
    async with httpx.AsyncClient(transport=private, base_url="http://private") as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    return [
        (method, path, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]


async def test_every_operation_of_the_document_is_closed(
    guarded: httpx.AsyncClient, operations: list[tuple[str, str, Any]]
) -> None:
    assert len(operations) > 40
    for method, path, operation in operations:
        assert operation["security"], (method, path)
        answer = await guarded.request(method, re.sub(r"{\w+}", "1", path))
        assert answer.status_code == 401, (method, path, answer.text)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_the_key_in_the_file_opens_and_a_new_one_holds_at_once(
    guarded: httpx.AsyncClient, tmp_path: Path
) -> None:
    with_key = {"Authorization": f"Bearer {KEY}"}
    assert (await guarded.get("/images", headers=with_key)).status_code == 200
    (tmp_path / "administrator-key").write_text("another one")
    (tmp_path / "previous-administrator-key").write_text(KEY)
    assert (await guarded.get("/images", headers=with_key)).status_code == 200
    (tmp_path / "previous-administrator-key").unlink()
    assert (await guarded.get("/images", headers=with_key)).status_code == 401


async def test_a_newline_at_the_end_of_an_address_leads_nowhere(guarded: httpx.AsyncClient) -> None:
    with_key = {"Authorization": f"Bearer {KEY}"}
    for path in ("/image/post%0A", "/images/post%0a", "/images%0A", "/search%0A", "/people/1%0A"):
        answer = await guarded.post(path, headers=with_key, json={"paths": [{"path": "a"}]})
        assert answer.status_code == 404, path


async def test_without_its_file_a_key_is_nobodys(
    guarded: httpx.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "administrator-key").unlink()
    for key in (KEY, "", "None"):
        shown = {"Authorization": f"Bearer {key}"}
        assert (await guarded.get("/images", headers=shown)).status_code == 401


def test_a_key_that_could_be_guessed_is_refused_at_the_start(
    configure: Configure,
    sqlite_settings: DatabaseSettings,
    folder_store_settings: Any,
    tmp_path: Path,
) -> None:
    file = tmp_path / "key"
    for key in ("", "changeme", "x" * 19):
        file.write_text(key)
        with pytest.raises(ValueError, match="take 20 random characters or more"):
            configure(
                sqlite_settings, folder_store_settings, access="keys", administrator_key_file=file
            )


@pytest.mark.parametrize("path", sorted(PROBES))
async def test_probes_are_open(guarded: httpx.AsyncClient, path: str) -> None:
    assert (await guarded.get(path)).status_code == 200


def test_a_route_that_declares_no_scope_is_no_route() -> None:
    async def endpoint() -> None: ...

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.get("/forgotten")(endpoint)
    with pytest.raises(TypeError, match="/forgotten does not say which scope it needs"):
        Guard(app.routes, Access(is_open=False), Rates(RateSettings()), trusted=())


async def test_why_a_backup_failed_is_for_administrators(
    guarded: httpx.AsyncClient, sqlite_settings: DatabaseSettings
) -> None:
    database = Database(sqlite_settings)
    row = {"name": "1", "started_at": 0, "finished_at": 1, "error": "no bucket at s3.example.com"}
    async with database.transaction() as connection:
        await connection.execute(sa.insert(backups).values(row))
    await database.close()
    administrator = {"Authorization": f"Bearer {KEY}"}
    wanted = {"name": "reads", "scopes": ["read"]}
    made = await guarded.post("/keys", json=wanted, headers=administrator)
    reads = {"Authorization": f"Bearer {made.json()['key']}"}
    why = [
        (await guarded.get("/status", headers=headers)).json()["backup"]["error"]
        for headers in (administrator, reads)
    ]
    assert why == [row["error"], "it failed; an administrator sees why in GET /status"]


async def test_each_operation_is_refused_exactly_to_whom_its_scope_is_missing(
    guarded: httpx.AsyncClient, operations: list[tuple[str, str, Any]]
) -> None:
    administrator = {"Authorization": f"Bearer {KEY}"}
    keys = {}
    for scope in AccessScope:
        wanted = {"name": scope, "scopes": [scope]}
        made = await guarded.post("/keys", json=wanted, headers=administrator)
        keys[scope] = {"Authorization": f"Bearer {made.json()['key']}"}
    of_scope: Counter[str] = Counter()
    for method, path, operation in operations:
        [needed] = operation["security"][0]["key"]
        of_scope[needed] += 1
        open_to = {Caller.KNOWN: set(AccessScope), Caller.FRONTEND: set()}.get(needed, {needed})
        for scope, key in keys.items():
            if (path, scope) == ("/events", needed):
                continue  # its answer has no end
            answer = await guarded.request(method, re.sub(r"{\w+}", "1", path), headers=key)
            refused = answer.status_code == 403
            assert refused == (scope not in open_to), (method, path, scope, answer.text)
            assert answer.status_code != 401
            if refused and needed != Caller.FRONTEND:
                assert f"needs the scope {needed}" in answer.json()["detail"]
    assert set(of_scope) == {*AccessScope, *Caller}
    assert of_scope.total() > 50
