"""What a push brings, however it is made."""

import time
from datetime import datetime
from typing import Final

import pytest

from e2e.cluster import Cluster, is_ready
from e2e.gitops.delivery import NOTE_SECONDS, READY_SECONDS, Delivery
from e2e.gitops.flux import NAMESPACE
from e2e.gitops.git import HOST
from e2e.load import Load, no_request_fails, wait_final
from e2e.versions import NEWER, NEWER_REVISION, NEWER_SCHEMA, Versions
from e2e.waiting import wait_until

WORKLOADS: Final = ("receiver", "frontend", "image-processor", "face-recog")
AWAY_SECONDS: Final = 60


@pytest.fixture
def versions(delivery: Delivery) -> Versions:
    """Other versions, in the nodes."""
    made = Versions(delivery.cluster)
    made.make([*((workload, NEWER) for workload in WORKLOADS), ("migrations", NEWER_SCHEMA)])
    return made


def test_a_new_image_is_rolled_out_without_a_failed_request(
    delivery: Delivery, versions: Versions
) -> None:
    cluster = delivery.cluster
    tags = {workload: versions.tag(workload, NEWER) for workload in WORKLOADS}
    tags["migrations"] = versions.tag("migrations", NEWER_SCHEMA)
    load = Load(cluster, recognise=True)
    with load.running():
        load.wait_served()
        load.phase = "a release"
        delivery.tags(tags)
        pushed = delivery.push("A release")
        wait_until(
            lambda: all(serving(cluster, workload, tags[workload]) for workload in WORKLOADS),
            READY_SECONDS,
            "new pods and no others to serve",
        )
        print(f"   from push to all new pods serving: {time.monotonic() - pushed:.0f} s")
        delivery.wait_ready(pushed)
    print(load.report())
    assert not load.failures, load.sample()
    rows = wait_final(cluster, [*load.acknowledged, *load.uploaded])
    assert {rows[image_id] for image_id in load.uploaded} == {("processed", 1)}

    # The schema came first.
    job = cluster.get("job", f"migrations-{tags['migrations'].partition('-')[2]}")
    migrated = moment(job["status"]["completionTime"])
    found = cluster.get("pods", "-l", f"app.kubernetes.io/name in ({','.join(WORKLOADS)})")["items"]
    released = {f"facestack/{workload}:{tags[workload]}" for workload in WORKLOADS}
    # An old pod may still be on its way out.
    made = [
        moment(pod["metadata"]["creationTimestamp"])
        for pod in found
        if pod["spec"]["containers"][0]["image"] in released
    ]
    assert migrated <= min(made)
    assert cluster.sql("SELECT version_num FROM alembic_version") == [(NEWER_REVISION,)]


def serving(cluster: Cluster, workload: str, tag: str) -> bool:
    """Tell whether pods with this tag serve, as many as there should be, and no others are left."""
    spec = cluster.get("deployment", workload)["spec"]
    found = cluster.get("pods", "-l", f"app.kubernetes.io/name={workload}")["items"]
    images = {pod["spec"]["containers"][0]["image"] for pod in found if is_ready(pod)}
    current = [pod for pod in found if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
    return images == {f"facestack/{workload}:{tag}"} and len(current) >= spec["replicas"]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_of_two_pushes_at_once_the_last_one_counts(delivery: Delivery) -> None:
    repository = delivery.repository
    commits = []
    for text in ("one", "two"):
        delivery.write_note(text)
        repository.commit(text)
        commits.append(repository.head)
    began = time.monotonic()
    repository.push_commits(*commits)
    print(f"   both in {time.monotonic() - began:.1f} s")
    delivery.wait_note("two")


def test_a_forced_push_is_followed(delivery: Delivery) -> None:
    repository = delivery.repository
    delivery.write_note("lost")
    delivery.push("To be taken out of history")
    delivery.wait_note("lost")
    lost = repository.head
    repository.git("reset", "--quiet", "--hard", "HEAD^")
    delivery.write_note("forced")
    repository.commit("In its place")
    repository.push("--force")
    assert lost not in repository.git("rev-list", "HEAD").split()
    delivery.wait_note("forced")


def test_while_flux_is_suspended_a_push_waits_and_what_was_pushed_before_is_kept(
    delivery: Delivery,
) -> None:
    before = delivery.note()
    with delivery.flux.suspended():
        delivery.write_note("resumed")
        delivery.push("While Flux is suspended")
        # It still looks after the cluster, and knows nothing of the push.
        delivery.cluster.kubectl("delete", "configmap", "note", NAMESPACE)
        delivery.flux.reconcile("facestack")
        assert delivery.note() == before
    delivery.wait_note("resumed")


@pytest.mark.long
def test_a_minute_without_the_git_server_costs_nothing_and_nobody_else_is_believed(
    delivery: Delivery,
) -> None:
    cluster, flux = delivery.cluster, delivery.flux
    load = Load(cluster)
    with no_request_fails(cluster, load):
        with delivery.server.away():
            began = time.monotonic()
            load.phase = "without the git server"
            wait_until(
                lambda: flux.source().ready == "False", NOTE_SECONDS, "the source to be away"
            )
            assert HOST in flux.source().message
            with delivery.server.impostor():
                refused = "knownhosts: key mismatch"
                wait_until(
                    lambda: refused in flux.source().message,
                    NOTE_SECONDS,
                    "another server to be refused",
                )
            wait_until(
                lambda: time.monotonic() - began > AWAY_SECONDS, AWAY_SECONDS + 1, "a minute"
            )
            assert {state.ready for state in flux.states().values()} <= {"True", "Unknown"}
        load.phase = "the git server is back"
        delivery.write_note("back")
        pushed = delivery.push("After the minute")
        delivery.wait_note("back", pushed)
