import os

import pytest

from scripts.faults.disks import why_none


@pytest.fixture
def disks() -> None:
    """Disks that can lose their power; skips where none can be made."""
    if reason := why_none():
        if os.environ.get("REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
