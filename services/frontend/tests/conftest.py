from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from services.common.lifecycle import Lifecycle
from services.frontend.app import create_app
from services.frontend.settings import FrontendSettings
from services.frontend.tests.browser import Site, chromium
from services.frontend.tests.fake_receiver import FRONTEND_KEY, FakeReceiver
from services.testing.pipeline import Pipeline, pipeline

__all__ = ["browser", "pages", "pipeline", "receiver", "site"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the session: its event loop would be in the way of other modules' async tests.
    with chromium() as running:
        yield running


@pytest.fixture
def site(pipeline: Pipeline, browser: Browser) -> Iterator[Site]:
    """The pages, with nobody known and no picture; no page may complain."""
    site = Site(pipeline, browser)
    site.clear()
    yield site
    assert site.complaints == []


@pytest.fixture
def receiver() -> FakeReceiver:
    return FakeReceiver()


@pytest.fixture
async def pages(receiver: FakeReceiver) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the pages where nobody logs in."""
    async with browsing(receiver, FrontendSettings(allowed_hosts="page"), "http://page") as browser:
        yield browser


@pytest.fixture
async def guarded(receiver: FakeReceiver, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of pages where people log in, which keeps cookies."""
    file = tmp_path / "frontend-key"
    file.write_text(FRONTEND_KEY)
    settings = FrontendSettings(receiver_key_file=file, allowed_hosts="page.example")
    async with browsing(receiver, settings, "https://page.example") as browser:
        yield browser


@asynccontextmanager
async def browsing(
    receiver: FakeReceiver, settings: FrontendSettings, url: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of pages with these settings."""
    lifecycle = Lifecycle({}, drain_seconds=0)
    transport = httpx.MockTransport(receiver.answer)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://receiver") as client,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(client, lifecycle, settings)), base_url=url
        ) as browser,
    ):
        yield browser
