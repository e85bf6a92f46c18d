"""Nodes go away, asked for or not, and nothing that was acknowledged goes with them."""

import subprocess
import time
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from e2e.client import Api, logged_in
from e2e.cluster import Cluster
from e2e.load import Load, no_request_fails, wait_final
from e2e.waiting import wait_until

DATA: Final = ("mariadb-0", "object-store-0", "nsqd-0")
"""The pods with volumes, which are where the volumes are."""

REPLICATED: Final = (
    "receiver",
    "frontend",
    "image-processor",
    "face-recog",
    "redeemer",
    "people",
    "webhooks",
)

_SECONDS: Final = 420
"""How long a cluster may take to notice a node that goes or comes, and to move what was on it."""

_STEADY: Final = 10
"""Requests in a row that must work for every client before the service counts as back."""


@pytest.fixture(autouse=True)
def _as_before(pipeline: Cluster) -> Iterator[None]:
    """Spread the replicas over both workers, and have every node back afterwards."""
    _spread(pipeline)
    yield
    for node in pipeline.nodes():
        pipeline.kubectl("uncordon", node)
        if pipeline.is_ours:
            _docker("start", node)
    _wait_healed(pipeline)
    if pipeline.stays:
        _spread(pipeline)


@pytest.fixture
def load(pipeline: Cluster) -> Load:
    """Clients who lose patience soon."""
    return Load(pipeline, timeout=20)


def test_no_request_fails_while_a_node_is_drained(pipeline: Cluster, load: Load) -> None:
    node = _other_worker(pipeline)
    with no_request_fails(pipeline, load):
        _wait_steady(load)
        load.phase = "drain"
        started = time.monotonic()
        pipeline.kubectl(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=280s"
        )
        drained = time.monotonic() - started
        pipeline.wait_ready()
        print(
            f"{node} was empty after {drained:.0f} s,"
            f" all replicas were ready elsewhere after {time.monotonic() - started:.0f} s"
        )
        assert not _pods_on(pipeline, node)
        _wait_steady(load)


@pytest.mark.long
def test_a_lost_node_is_made_up_for(pipeline: Cluster, load: Load) -> None:
    _need_containers(pipeline)
    node = _other_worker(pipeline)
    with load.running():
        _wait_steady(load)
        load.phase = "lost"
        lost = _stop(node)
        wait_until(lambda: not pipeline.nodes_ready(), _SECONDS, f"{node} to be missed")
        missed = time.monotonic() - lost
        wait_until(lambda: _moved(pipeline, node), _SECONDS, "its pods to be ready elsewhere")
        moved = time.monotonic() - lost
        _wait_steady(load)
        print(
            f"{node} was missed after {missed:.0f} s and all its pods were ready elsewhere after"
            f" {moved:.0f} s; {load.outage(lost)}"
        )

        load.phase = "comes back"
        _docker("start", node)
        _wait_healed(pipeline)
        _wait_steady(load)
    print(f"{load.report()}\n{load.sample(4)}")
    assert _statuses(load) <= {None, 503}, "nobody was told anything wrong"
    wait_final(pipeline, load.acknowledged)


@pytest.mark.long
def test_without_the_node_with_the_data_the_service_says_what_is_away(
    pipeline: Cluster, load: Load
) -> None:
    _need_containers(pipeline)
    node = _data_node(pipeline)
    visitor = logged_in(pipeline)
    with load.running():
        _wait_steady(load)
        load.phase = "lost"
        lost = _stop(node)
        _wait_refused(pipeline)
        print(f"every submission was refused with 503 after {time.monotonic() - lost:.0f} s")
        wait_until(
            lambda: _page_says(pipeline, visitor, "atabase is not available"),
            _SECONDS,
            "the page to say that the database is away",
        )

        load.phase = "comes back"
        _docker("start", node)
        returned = time.monotonic()
        _wait_healed(pipeline)
        _wait_steady(load)
        print(
            f"all pods were ready {time.monotonic() - returned:.0f} s after the node was started;"
            f" {load.outage(returned)}"
        )
    print(f"{load.report()}\n{load.sample(4)}")
    assert _statuses(load) <= {None, 503}, "nobody was told anything wrong"
    wait_final(pipeline, load.acknowledged)


def _need_containers(pipeline: Cluster) -> None:
    if not pipeline.is_ours:
        pytest.skip("only the nodes of a kind cluster may be stopped")


def _docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True, timeout=120)


def _stop(node: str) -> float:
    """Stop a node at once, as if its power were gone, and return when."""
    _docker("stop", "--time=0", node)
    return time.monotonic()


def _data_node(pipeline: Cluster) -> str:
    nodes = {pipeline.get("pod", name)["spec"]["nodeName"] for name in DATA}
    assert len(nodes) == 1, f"overlays/kind keeps {', '.join(DATA)} together, found {nodes}"
    return str(nodes.pop())


def _other_worker(pipeline: Cluster) -> str:
    """Return the worker that holds no data; never the control plane, where clients come in."""
    taken = {_data_node(pipeline)}
    for node in pipeline.get("nodes")["items"]:
        name: str = node["metadata"]["name"]
        if name not in taken and not node["spec"].get("taints"):
            return name
    raise AssertionError("the data takes the only worker")


def _pods_on(pipeline: Cluster, node: str) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in pipeline.get("pods")["items"]
        if pod["spec"].get("nodeName") == node and pod["status"]["phase"] in {"Pending", "Running"}
    ]


def _spread(pipeline: Cluster) -> None:
    """Have the replicas of each Deployment on two nodes: nothing else moves them back."""
    for name in REPLICATED:
        pods = pipeline.get("pods", "-l", f"app.kubernetes.io/name={name}")["items"]
        if len({pod["spec"].get("nodeName") for pod in pods}) < 2:
            pipeline.kubectl("rollout", "restart", f"deployment/{name}")
    for name in REPLICATED:
        pipeline.kubectl("rollout", "status", f"deployment/{name}", "--timeout=280s")
    _wait_healed(pipeline)


def _wait_healed(pipeline: Cluster) -> None:
    """Return when all nodes and workloads are ready and no pod is about to end."""
    wait_until(pipeline.nodes_ready, _SECONDS, "every node to be ready")
    pipeline.wait_ready()
    wait_until(lambda: not _ending(pipeline), _SECONDS, "every old pod to end")


def _ending(pipeline: Cluster) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in pipeline.get("pods")["items"]
        if "deletionTimestamp" in pod["metadata"]
    ]


def _moved(pipeline: Cluster, node: str) -> bool:
    """Tell whether every replica is ready on another node."""
    for name in REPLICATED:
        pods = pipeline.get("pods", "-l", f"app.kubernetes.io/name={name}")["items"]
        ready = [
            pod
            for pod in pods
            if pod["spec"].get("nodeName") not in {node, None}
            and all(status["ready"] for status in pod["status"].get("containerStatuses", [{}]))
        ]
        if len(ready) < 2:
            return False
    return True


def _wait_steady(load: Load) -> None:
    wanted = load.requests + 100
    wait_until(
        lambda: load.requests > wanted and load.in_a_row >= _STEADY,
        _SECONDS,
        f"{_STEADY} requests of every client in a row to work",
    )


def _wait_refused(pipeline: Cluster) -> None:
    """Return when submissions are refused with a problem document, many times in a row."""
    in_a_row = 0
    api = Api(pipeline)

    def refused() -> bool:
        nonlocal in_a_row
        in_a_row += 1
        try:
            answer = api.request("POST", "/image/post", json={"path": "refused.jpg"})
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["detail"] == "database is not available, try again"
        except (httpx.HTTPError, AssertionError):
            in_a_row = 0
            raise
        return in_a_row >= _STEADY

    wait_until(refused, _SECONDS, "every submission to be refused with 503")


def _page_says(pipeline: Cluster, visitor: dict[str, str], words: str) -> bool:
    answer = httpx.get(pipeline.page_url, headers=visitor, timeout=20, trust_env=False)
    return answer.status_code == 503 and words in answer.text


def _statuses(load: Load) -> set[int | None]:
    """Return what the API said to requests that failed; pages also show what else is away."""
    return {failure.status for failure in load.failures if "(page)" not in failure.client}
