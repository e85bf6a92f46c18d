"""A world of people for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.database import Database
from services.people.tests.world import World, new_world


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    """With nobody known and no picture."""
    async with new_world(database, tmp_path / "store") as one:
        yield one
