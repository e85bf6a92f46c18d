import pytest

from faults.disks import why_none
from services.testing.servers import give_up


@pytest.fixture
def disks() -> None:
    """Disks that can lose their power; skips where none can be made."""
    if reason := why_none():
        give_up(reason)
