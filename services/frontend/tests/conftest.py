from collections.abc import AsyncIterator

import httpx
import pytest

from services.common.ops import Lifecycle
from services.common.settings import HttpSettings
from services.frontend.app import create_app
from services.frontend.tests.fake_receiver import FakeReceiver
from services.testing.pipeline import pipeline

__all__ = ["page", "pipeline", "receiver"]


@pytest.fixture
def receiver() -> FakeReceiver:
    return FakeReceiver()


@pytest.fixture
async def page(receiver: FakeReceiver) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the pages."""
    lifecycle = Lifecycle({}, drain_seconds=0)
    transport = httpx.MockTransport(receiver.answer)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://receiver") as client,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(client, lifecycle, HttpSettings())),
            base_url="http://page",
        ) as browser,
    ):
        yield browser
