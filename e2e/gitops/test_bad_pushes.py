"""A bad push says what is wrong with it, harms nothing that runs, and a revert heals it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from e2e.client import Client
from e2e.cluster import Cluster, is_ready
from e2e.gitops.delivery import Delivery
from e2e.gitops.flux import LAYERS
from e2e.load import Load, no_request_fails
from e2e.versions import CRASHING, Versions
from e2e.waiting import wait_until
from services.local.samples import EILEEN

FAILED_SECONDS: Final = 180
STARTED_SECONDS: Final = 180
MISSING: Final = "0.0.0-missing"
"""The tag of an image that no node has and no registry."""


@pytest.fixture(scope="module")
def versions(delivery: Delivery) -> Versions:
    """Other versions, in the nodes."""
    made = Versions(delivery.cluster)
    made.make([("receiver", CRASHING), ("migrations", CRASHING)])
    return made


@pytest.mark.long
def test_an_image_that_crashes(delivery: Delivery, versions: Versions) -> None:
    delivery.tags({"receiver": versions.tag("receiver", CRASHING)})
    give_up_soon(delivery)
    with bad_push(delivery, "face-services") as said:
        assert "health check failed" in said, said
        assert "Deployment/face/receiver status: 'Failed'" in said, said


@pytest.mark.long
def test_a_migration_that_fails(delivery: Delivery, versions: Versions) -> None:
    tag = versions.tag("migrations", CRASHING)
    delivery.tags({"migrations": tag})
    delivery.repository.replace("base/migrations/job.yaml", "backoffLimit: 6", "backoffLimit: 0")
    change_receiver(delivery)
    with bad_push(delivery, "face-stores") as said:
        assert f"Job/face/migrations-{tag.partition('-')[2]} status: 'Failed'" in said, said


def test_the_old_version_goes_on_serving_though_its_pods_are_moved_and_added(
    delivery: Delivery,
) -> None:
    """What Flux prunes it prunes before it looks whether the new pods get ready."""
    cluster = delivery.cluster
    delivery.tags({"receiver": MISSING})
    change_receiver(delivery)
    give_up_soon(delivery)
    with bad_push(delivery, "face-services"), scaled(cluster, 3):
        moved, *_ = old = serving(delivery, "receiver")
        cluster.kubectl("delete", "pod", moved, "--wait=false")  # as a drain does

        def served() -> bool:
            found = serving(delivery, "receiver")
            assert moved not in found
            assert len(found) == 3, found
            return bool(found - old)

        wait_until(served, STARTED_SECONDS, "old pods in the place of one, and one more")


@contextmanager
def scaled(cluster: Cluster, number: int) -> Iterator[None]:
    """Have the autoscaler want so many receivers."""
    before = cluster.get("horizontalpodautoscaler", "receiver")["spec"]
    bounds = {bound: before[bound] for bound in ("minReplicas", "maxReplicas")}

    def want(spec: dict[str, int]) -> None:
        patch = f"--patch={json.dumps({'spec': spec})}"
        cluster.kubectl("patch", "horizontalpodautoscaler", "receiver", "--type=merge", patch)

    want(dict.fromkeys(bounds, number))
    try:
        yield
    finally:
        want(bounds)


BROKEN: Final = {
    "no such image": (
        "base/components/images/kustomization.yaml",
        "newTag: 10.11.19",
        f"newTag: {MISSING}",
    ),
    "no such option": (
        "base/mariadb/statefulset.yaml",
        "- --character-set-server=utf8mb4",
        "- --no-such-option",
    ),
}


@pytest.mark.parametrize(
    "fault", ["no such image", pytest.param("no such option", marks=pytest.mark.long)]
)
def test_a_revert_heals_a_database_whose_only_pod_a_push_has_broken(
    delivery: Delivery, fault: str
) -> None:
    cluster, repository = delivery.cluster, delivery.repository
    client = Client(cluster)
    ids = client.upload(client.picture(EILEEN))
    processed = client.wait_final(ids)
    before = cluster.get("pod", "mariadb-0")
    repository.replace(*BROKEN[fault])
    delivery.push("A database that does not start")

    def broken() -> bool:
        pod = cluster.get("pod", "mariadb-0")
        assert pod["metadata"]["uid"] != before["metadata"]["uid"]
        [status] = pod["status"]["containerStatuses"]
        reason = status["state"].get("waiting", {}).get("reason")
        assert reason in {"ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff"}, reason
        return True

    wait_until(broken, STARTED_SECONDS, "the database to be broken")
    repository.revert()
    delivery.wait_ready(repository.push())
    assert cluster.get("pod", "mariadb-0")["spec"]["containers"] == before["spec"]["containers"]
    assert client.wait_final(ids) == processed


@pytest.mark.long
def test_an_invalid_manifest(delivery: Delivery) -> None:
    delivery.repository.replace(
        "base/namespace/priority-classes.yaml", "value: 1000000", "value: high"
    )
    change_receiver(delivery)
    with bad_push(delivery, "face-setup") as said:
        assert "PriorityClass/face-data" in said, said
        assert "high" in said or "value" in said, said


@pytest.mark.long
def test_a_broken_kustomization(delivery: Delivery) -> None:
    delivery.repository.replace(
        "overlays/kind/setup/kustomization.yaml", "- ../../../base/", "- ../../../bass/"
    )
    change_receiver(delivery)
    with bad_push(delivery, "face-setup") as said:
        assert "kustomize build failed" in said, said
        assert "bass" in said, said


def give_up_soon(delivery: Delivery) -> None:
    delivery.repository.replace(
        "base/components/rollout/kustomization.yaml",
        "progressDeadlineSeconds: 300",
        "progressDeadlineSeconds: 20",
    )


def change_receiver(delivery: Delivery) -> None:
    """Put something into the push that would roll the receiver out, if it came that far."""
    delivery.repository.replace(
        "base/receiver/deployment.yaml",
        '{name: DRAIN_SECONDS, value: "5"}',
        '{name: DRAIN_SECONDS, value: "6"}',
    )


@contextmanager
def bad_push(delivery: Delivery, layer: str) -> Iterator[str]:
    """Push, give what the layer says when it has failed, then revert; all of it under load."""
    cluster, flux, repository = delivery.cluster, delivery.flux, delivery.repository
    later = LAYERS[LAYERS.index(layer) + 1 :]
    # After a first push the autoscaler takes a moment to have two receivers.
    wait_until(lambda: len(serving(delivery)) == 4, STARTED_SECONDS, "two pods of either service")
    before = serving(delivery)
    good = repository.revision
    load = Load(cluster)
    with no_request_fails(cluster, load):
        load.phase = "a bad push"
        load.wait_served()
        delivery.push("A bad push")
        bad = repository.revision
        said = flux.wait_failed(layer, bad, FAILED_SECONDS)
        print(f"   {layer} says: {said}", flush=True)
        # Not one request later either, and not one layer further.
        load.wait_more(100)
        states = flux.states()
        assert {name: states[name].applied for name in later} == dict.fromkeys(later, good)
        assert bad not in {states[name].attempted for name in later}
        assert serving(delivery) == before
        yield said

        load.phase = "its revert"
        before = serving(delivery)
        repository.revert()
        pushed = repository.push()
        delivery.wait_ready(pushed)
        assert serving(delivery) <= before


def serving(delivery: Delivery, *services: str) -> set[str]:
    """Return the names of the ready pods of services, by default of those that clients call."""
    names = ", ".join(services or ("receiver", "frontend"))
    found = delivery.cluster.staying("pods", f"--selector=app.kubernetes.io/name in ({names})")
    return {pod["metadata"]["name"] for pod in found if is_ready(pod)}
