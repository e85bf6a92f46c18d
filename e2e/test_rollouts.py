"""A new version takes over without a lost request, and a bad one stops by itself."""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import uuid4

import httpx
import pytest

from e2e.client import Api
from e2e.cluster import Cluster
from e2e.load import Load, no_request_fails, wait_final
from e2e.versions import (
    CRASHING,
    NEWER,
    NEWER_REVISION,
    NEWER_SCHEMA,
    OLDER,
    ROLLOUT_SECONDS,
    Patch,
    Version,
    Versions,
)
from e2e.waiting import wait_until
from services.common.database import REVISION

pytestmark = pytest.mark.long

WORKLOADS: Final = ("receiver", "frontend", "image-processor", "face-recog")

TRIPS: Final = (WORKLOADS, *((workload,) for workload in WORKLOADS))
"""Workloads that go to the new version at once, and back."""


@pytest.fixture(scope="module")
def versions(pipeline: Cluster) -> Versions:
    """The other versions, in the nodes."""
    if not pipeline.is_ours:
        pytest.skip("other versions of the images can only be loaded into a kind cluster")
    made = Versions(pipeline)
    made.make(
        [
            *((workload, NEWER) for workload in WORKLOADS),
            ("migrations", NEWER_SCHEMA),
            ("receiver", OLDER),
            ("receiver", CRASHING),
        ]
    )
    return made


@pytest.fixture(autouse=True)
def _as_before(pipeline: Cluster, versions: Versions) -> Iterator[None]:
    """Bring the cluster back to the versions of the overlay."""
    yield
    pipeline.deploy()
    versions.wait_rolled_out(WORKLOADS)


@pytest.fixture
def load(pipeline: Cluster) -> Load:
    """Clients that only submit, read and look at pages."""
    return Load(pipeline)


def test_no_request_fails_while_versions_change(
    pipeline: Cluster, versions: Versions, pytestconfig: pytest.Config
) -> None:
    wanted = pytestconfig.getoption("--rollouts")
    least = pytestconfig.getoption("--requests")
    load = Load(pipeline, recognise=True)
    rollouts = 0
    with load.running():
        for workloads in itertools.cycle(TRIPS):
            for version in (NEWER, None):
                _roll(versions, load, workloads, version)
                rollouts += len(workloads)
            if rollouts >= wanted:
                break
        load.phase = "after the last roll-out"
        wait_until(lambda: load.requests >= least, ROLLOUT_SECONDS, f"{least} requests")
    print(f"{rollouts} roll-outs\n{load.report()}")
    assert not load.failures, load.sample()
    rows = wait_final(pipeline, [*load.acknowledged, *load.uploaded])
    assert {rows[image_id] for image_id in load.acknowledged} == {("rejected", 1)}, (
        "no such picture"
    )
    assert {rows[image_id] for image_id in load.uploaded} == {("processed", 1)}


def test_requests_fail_without_the_drain(pipeline: Cluster, versions: Versions) -> None:
    # The less there is to do, the sooner new connections go elsewhere: only a crowd meets the gap.
    load = Load(pipeline, crowd=4)
    at_once = {
        "name": "receiver",
        "lifecycle": None,
        "env": [{"name": "DRAIN_SECONDS", "value": "0"}],
    }
    undrained: Patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "receiver"},
        "spec": {"template": {"spec": {"containers": [at_once]}}},
    }
    patches = {"receiver": undrained}
    versions.release({}, patches=patches)
    versions.wait_rolled_out(["receiver"])
    with load.running():
        for version in (NEWER, None) * 3:
            _roll(versions, load, ("receiver",), version, patches=patches)
            if load.failures:
                break
    print(f"without the drain\n{load.report()}\n{load.sample(4)}")
    assert load.failures
    # Only answers are lost: what was acknowledged is there.
    wait_final(pipeline, load.acknowledged)


def test_old_pods_work_on_the_new_schema(pipeline: Cluster, versions: Versions, load: Load) -> None:
    before = versions.pods("receiver")
    old_job, new_job = (
        f"migrations-{tag.partition('-')[2]}"
        for tag in (versions.current, versions.tag("migrations", NEWER_SCHEMA))
    )
    try:
        with no_request_fails(pipeline, load):
            load.phase = "old pods, new schema"
            versions.release({"migrations": NEWER_SCHEMA})
            _wait_complete(pipeline, new_job)
            assert pipeline.sql("SELECT version_num FROM alembic_version") == [(NEWER_REVISION,)]
            load.wait_more(200)
            assert versions.pods("receiver") == before

            load.phase = "old pods start on the new schema"
            pipeline.kubectl("rollout", "restart", "deployment/receiver")
            versions.wait_rolled_out(["receiver"])

            # What a revert of the release brings.
            load.phase = "old migrations run on the new schema"
            pipeline.kubectl("delete", "job", old_job)
            pipeline.deploy()
            _wait_complete(pipeline, old_job)
            assert pipeline.sql("SELECT version_num FROM alembic_version") == [(NEWER_REVISION,)]
            load.wait_more(50)
    finally:
        pipeline.sql(
            "ALTER TABLE images DROP COLUMN IF EXISTS camera;"
            f" UPDATE alembic_version SET version_num = '{REVISION}';"
        )
        pipeline.kubectl("delete", "job", new_job, "--ignore-not-found")


def test_new_clients_get_on_with_old_pods(pipeline: Cluster, versions: Versions) -> None:
    """A client of the newer API meets both versions, and goes the old way where it must."""
    client = _NewClient(pipeline)
    versions.release({"receiver": OLDER})
    _submit_while_rolling(client, pipeline, versions, OLDER)
    assert client.singly
    versions.wait_rolled_out(["receiver"], OLDER)
    pipeline.deploy()
    _submit_while_rolling(client, pipeline, versions, None)
    versions.wait_rolled_out(["receiver"])
    print(f"{client.at_once} paths taken at once, {client.singly} one by one")
    assert client.at_once
    rows = {
        path
        for (path,) in pipeline.sql(f"SELECT path FROM images WHERE path LIKE '{client.prefix}/%'")
    }
    assert rows == client.submitted


def test_a_release_that_crashes_stops_by_itself(
    pipeline: Cluster, versions: Versions, load: Load
) -> None:
    soon: dict[str, Patch] = {
        "receiver": [{"op": "replace", "path": "/spec/progressDeadlineSeconds", "value": 20}]
    }
    before = versions.pods("receiver")
    with no_request_fails(pipeline, load):
        load.phase = "a release that crashes"
        versions.release({"receiver": CRASHING}, patches=soon)
        status = pipeline.kubectl("rollout", "status", "deployment/receiver", check=False)
        assert status.returncode != 0
        assert "exceeded its progress deadline" in status.stderr
        pods = versions.pods("receiver")
        assert set(before) < set(pods)
        assert len(pods) == len(before) + 1, "one pod at a time is tried"

        load.phase = "undo"
        pipeline.kubectl("rollout", "undo", "deployment/receiver")
        versions.wait_rolled_out(["receiver"])
        assert versions.pods("receiver") == before
        load.wait_more(100)


class _NewClient:
    """Submits many paths at once, and one by one where the receiver is older than that."""

    def __init__(self, cluster: Cluster) -> None:
        self._api = Api(cluster)
        self._numbers = itertools.count(1)
        self.prefix = f"new-client/{uuid4().hex[:12]}"
        self.submitted: set[str] = set()
        self.at_once = 0
        self.singly = 0

    def submit(self) -> None:
        paths = [f"{self.prefix}/{next(self._numbers)}.jpg" for _ in range(3)]
        many = {"paths": [{"path": path} for path in paths]}
        # A new connection each time, so that both versions are met.
        answer = self._api.request("POST", "/images/post", json=many)
        if answer.status_code == httpx.codes.ACCEPTED:
            self.at_once += len(paths)
        else:
            assert answer.status_code == httpx.codes.NOT_FOUND, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["detail"] == "there is nothing at /images/post"
            for path in paths:
                one = self._api.request("POST", "/image/post", json={"path": path})
                assert one.status_code == httpx.codes.ACCEPTED, one.text
            self.singly += len(paths)
        self.submitted.update(paths)


def _roll(
    versions: Versions,
    load: Load,
    workloads: Sequence[str],
    version: Version | None,
    *,
    patches: dict[str, Patch] | None = None,
) -> None:
    """Bring the workloads to the version, by default back to the current one, and say how."""
    number = version.number if version else "back"
    load.phase = f"{', '.join(workloads)} -> {number}"
    started, requests, failed = time.monotonic(), load.requests, len(load.failures)
    versions.release(dict.fromkeys(workloads, version) if version else {}, patches=patches)
    versions.wait_rolled_out(workloads, version)
    print(
        f"   {load.phase}: {time.monotonic() - started:.0f} s,"
        f" {load.requests - requests:,} requests, {len(load.failures) - failed} failed",
        flush=True,
    )


def _submit_while_rolling(
    client: _NewClient, pipeline: Cluster, versions: Versions, version: Version | None
) -> None:
    deadline = time.monotonic() + ROLLOUT_SECONDS
    while _rolling(pipeline, versions, version):
        assert time.monotonic() < deadline, f"receiver is still rolling after {ROLLOUT_SECONDS} s"
        client.submit()


def _rolling(pipeline: Cluster, versions: Versions, version: Version | None) -> bool:
    """Tell whether pods of another version than this one serve."""
    tag = versions.tag("receiver", version) if version else versions.current
    found = pipeline.get("endpointslices", "-l", "kubernetes.io/service-name=receiver")["items"]
    serving = {
        endpoint["targetRef"]["name"]
        for endpoints in found
        for endpoint in endpoints["endpoints"] or ()
        if endpoint["conditions"]["ready"]
    }
    return any(
        not image.endswith(f":{tag}")
        for name, image in versions.pods("receiver")
        if name in serving
    )


def _wait_complete(pipeline: Cluster, job: str) -> None:
    pipeline.kubectl("wait", "--for=condition=complete", f"job/{job}", "--timeout=180s")
