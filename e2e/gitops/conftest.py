"""A cluster that follows a git server inside it, made once for all of these tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from e2e.cluster import STATE, Cluster
from e2e.gitops.delivery import Delivery
from e2e.gitops.flux import leave, wipe
from e2e.gitops.git import GitServer, Repository

_HERE: Final = Path(__file__).parent
_ORDER: Final = (
    "test_first_push",
    "test_pushes",
    "test_units",
    "test_promotion",
    "test_secrets",
    "test_drift",
    "test_bad_pushes",
    "test_bootstrap",
    "test_recovery",
    "test_teardown",
)
"""Each begins where the one before it ended: the first fills a cluster, the last empties it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have these tests run after all others, which would find the cluster in Flux's hands."""

    def place(item: pytest.Item) -> int:
        if item.path.parent != _HERE:
            return -1
        return _ORDER.index(item.path.stem)

    items.sort(key=place)


@pytest.fixture(scope="session")
def delivery(cluster: Cluster) -> Iterator[Delivery]:
    """Give the cluster, emptied and filled by a first push, with all that a push needs."""
    if not cluster.is_ours:
        pytest.skip("the git server's image can only be loaded into a kind cluster")
    leave(cluster)
    wipe(cluster)
    folder = STATE / "gitops"
    server = GitServer(cluster, folder)
    made = Delivery(cluster, server, Repository(folder / "repository", server))
    try:
        made.begin()
        yield made
    finally:
        if cluster.stays:
            wipe(cluster)
            server.stop()


@pytest.fixture(autouse=True)
def _as_before(delivery: Delivery) -> Iterator[None]:
    """Let no test stumble over what a failed one has left in the repository."""
    yield
    delivery.restore()
