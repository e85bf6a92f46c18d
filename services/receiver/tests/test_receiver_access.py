"""Who may do what."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from services.common.probes import PROBES
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.receiver.adapters.http.guard import Guard
from services.receiver.adapters.http.rates import Rates
from services.receiver.domain.access import AccessScope
from services.receiver.service.access import Access
from services.receiver.settings import RateSettings
from services.receiver.tests.conftest import Configure, Running

KEY = "a key that lies in a file"


@pytest.fixture
async def guarded(
    configure: Configure,
    sqlite_settings: DatabaseSettings,
    folder_store_settings: ObjectStoreSettings,
    tmp_path: Path,
) -> AsyncIterator[httpx.AsyncClient]:
    """A receiver to which nobody may speak without a key."""
    file = tmp_path / "administrator-key"
    file.write_text(KEY)
    settings = configure(
        sqlite_settings, folder_store_settings, access="keys", administrator_key_file=file
    )
    running = Running(settings)
    yield running.client
    await running.close()


async def test_every_operation_of_the_document_is_closed(
    guarded: httpx.AsyncClient, plain: httpx.AsyncClient
) -> None:
    document = (await plain.get("/openapi.json")).json()
    tried = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["security"], (method, path)
            answer = await guarded.request(method, re.sub(r"{\w+}", "1", path))
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            tried += 1
    assert tried > 40


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


@pytest.mark.parametrize("path", sorted(PROBES))
async def test_probes_are_open(guarded: httpx.AsyncClient, path: str) -> None:
    assert (await guarded.get(path)).status_code == 200


def test_a_route_that_declares_no_scope_is_no_route() -> None:
    async def endpoint() -> None: ...

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.get("/forgotten")(endpoint)
    with pytest.raises(TypeError, match="/forgotten does not say which scope it needs"):
        Guard(app.routes, Access(is_open=False), Rates(RateSettings()), trusted=())


async def test_each_operation_is_refused_exactly_to_whom_its_scope_is_missing(
    guarded: httpx.AsyncClient,
) -> None:
    administrator = {"Authorization": f"Bearer {KEY}"}
    document = (await guarded.get("/openapi.json", headers=administrator)).json()
    keys = {}
    for scope in AccessScope:
        wanted = {"name": scope, "scopes": [scope]}
        made = await guarded.post("/keys", json=wanted, headers=administrator)
        keys[scope] = {"Authorization": f"Bearer {made.json()['key']}"}
    of_scope: Counter[str] = Counter()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            [needed] = operation["security"][0]["key"]
            of_scope[needed] += 1
            for scope, key in keys.items():
                if (path, scope) == ("/events", needed):
                    continue  # its answer has no end
                answer = await guarded.request(method, re.sub(r"{\w+}", "1", path), headers=key)
                refused = answer.status_code == 403
                assert refused == (scope != needed), (method, path, scope, answer.text)
                assert answer.status_code != 401
                if refused:
                    assert f"needs the scope {needed}" in answer.json()["detail"]
    assert set(of_scope) == set(AccessScope)
    assert of_scope.total() > 50
