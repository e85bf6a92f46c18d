"""The cluster as fixtures, and the evidence of what failed on it."""

import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from e2e import kind
from e2e.cluster import IN_USE, STATE, Cluster, ClusterError, phase
from e2e.gitops.flux import leave


def pytest_addoption(parser: pytest.Parser) -> None:
    """Beside the options of pytest-kind, of which --kubeconfig and --keep-cluster are used."""
    parser.addoption(
        "--wipe", action="store_true", help="delete the pictures that a cluster not made here holds"
    )
    parser.addoption(
        "--orders",
        type=int,
        default=1,
        help="in how many random orders all is applied at once (default: 1)",
    )
    group = parser.getgroup("rollouts")
    group.addoption(
        "--rollouts",
        type=int,
        default=16,
        help="at least so many rollouts, each of one service (default: 16)",
    )
    group.addoption(
        "--requests",
        type=int,
        default=10000,
        help="at least so many requests in all (default: 10000)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each random order."""
    if "order" in metafunc.fixturenames:
        metafunc.parametrize("order", range(1, metafunc.config.getoption("--orders") + 1))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Give the cluster that is named by --kubeconfig, or our own, made if it is not there.

    One that was there before stays, and tests begin only if it holds nothing that they would
    delete.
    """
    option = request.config.getoption
    given = option("--kubeconfig")
    if not given:
        kind.prepare()
    created = not given and not kind.exists()
    try:
        found = Cluster.given(Path(given)) if given else kind.create()
        found.stays = not created or option("--keep-cluster")
        request.config.stash[IN_USE] = found
        if not created and not option("--wipe") and (pictures := found.pictures()):
            raise ClusterError(
                f"the pipeline on this cluster holds {pictures} pictures, which the tests would"
                " delete: say so with 'make e2e WIPE=1', or use another cluster"
            )
        yield found
    finally:
        if created and not option("--keep-cluster"):
            kind.delete()


@pytest.fixture(scope="session")
def pipeline(cluster: Cluster) -> Cluster:
    """Give the cluster with overlays/kind on it and all of it ready."""
    leave(cluster)
    cluster.deploy()
    return cluster


def _file_name(test: str) -> str:
    return re.sub(r"[^\w.-]+", "_", test)


def _folder(item: pytest.Item) -> Path:
    return STATE / _file_name(item.name)


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Path:
    """Give the folder that is kept when the test fails, for screenshots and the like."""
    folder = _folder(request.node)
    folder.mkdir(parents=True)
    return folder


def pytest_runtest_logstart(nodeid: str) -> None:
    """Forget what an earlier run left of this test."""
    shutil.rmtree(STATE / _file_name(nodeid.rpartition("::")[2]), ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect what tells why, while the cluster is still as the failure left it."""
    report = yield
    found = item.config.stash.get(IN_USE, None)
    folder = _folder(item)
    if found is None:
        return report
    if report.failed:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{report.when}.txt").write_text(report.longreprtext)
        with phase(f"collecting logs and events into {folder}"):
            found.collect(folder)
    elif report.when == "teardown" and not list(folder.glob("*.txt")):
        shutil.rmtree(folder, ignore_errors=True)
    return report
