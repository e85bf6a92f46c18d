"""Who may do what."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from services.common.probes import PROBES
from services.common.settings import DatabaseSettings, ObjectStoreSettings
from services.receiver.adapters.http.guard import Guard
from services.receiver.service.access import Access
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
        Guard(app.routes, Access(is_open=False))
