from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from playwright.sync_api import Browser

from services.common.lifecycle import Lifecycle
from services.frontend.app import create_app
from services.frontend.settings import FrontendSettings
from services.frontend.tests.browser import Site, chromium
from services.frontend.tests.fake_receiver import FakeReceiver
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
    """A client of the pages."""
    lifecycle = Lifecycle({}, drain_seconds=0)
    settings = FrontendSettings(allowed_hosts="page")
    transport = httpx.MockTransport(receiver.answer)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://receiver") as client,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(client, lifecycle, settings)),
            base_url="http://page",
        ) as browser,
    ):
        yield browser
