"""What is done by hand is undone, and what leaves the repository leaves the cluster."""

from collections.abc import Iterator
from typing import Final

import pytest

from e2e.cluster import Cluster
from e2e.gitops.delivery import READY_SECONDS, Delivery
from e2e.gitops.flux import NAMESPACE
from e2e.gitops.recipes import follow, recipe
from e2e.waiting import wait_until

PUT_BACK_SECONDS: Final = 300
"""A change during a wait for health is seen after that layer's timeout, which is 3 minutes here."""
STORES: Final = "base/layers/stores/kustomization.yaml"
SERVICES: Final = "face-services"


@pytest.mark.usefixtures("often")
def test_changes_by_hand_are_put_back(delivery: Delivery) -> None:
    cluster = delivery.cluster
    before = settings_of_redeemer(cluster)
    wanted = replicas_of_redeemer(cluster)
    service = cluster.get("service", "face-recog")

    cluster.kubectl("scale", "deployment/redeemer", f"--replicas={wanted + 1}")
    by_hand = ("NSQD_URL=http://elsewhere:4151", "BY_HAND=yes")
    cluster.kubectl("set", "env", "deployment/redeemer", *by_hand)
    cluster.kubectl("delete", "service", "face-recog")

    def put_back() -> bool:
        assert replicas_of_redeemer(cluster) == wanted
        assert settings_of_redeemer(cluster) == before
        made = cluster.get("service", "face-recog")
        assert made["metadata"]["uid"] != service["metadata"]["uid"]
        assert made["spec"]["selector"] == service["spec"]["selector"]
        assert made["spec"]["ports"] == service["spec"]["ports"]
        return True

    wait_until(put_back, PUT_BACK_SECONDS, "what was changed by hand to be as it was")


@pytest.fixture
def often(delivery: Delivery) -> Iterator[None]:
    """Have Flux look after the services every 10 s."""
    delivery.look_often()
    delivery.push("Look often")
    wait_until(
        lambda: (
            delivery.cluster.get("kustomizations", SERVICES, NAMESPACE)["spec"]["interval"] == "10s"
        ),
        PUT_BACK_SECONDS,
        "Flux to look often",
    )
    yield
    delivery.repository.revert()
    delivery.repository.push()
    delivery.wait_ready()


def settings_of_redeemer(cluster: Cluster) -> list[dict[str, str]]:
    """Return what its container finds in its environment."""
    [container] = cluster.get("deployment", "redeemer")["spec"]["template"]["spec"]["containers"]
    return list(container["env"])


def replicas_of_redeemer(cluster: Cluster) -> int:
    return int(cluster.get("deployment", "redeemer")["spec"]["replicas"])


def test_while_a_layer_is_suspended_what_is_done_by_hand_stays(delivery: Delivery) -> None:
    cluster = delivery.cluster
    suspend, resume = recipe("Stop the world").splitlines()
    wanted = replicas_of_redeemer(cluster)
    follow(cluster, suspend, delivery.repository.folder)
    try:
        cluster.kubectl("scale", "deployment/redeemer", f"--replicas={wanted + 1}")
        # What applies the layer's own object leaves it suspended.
        delivery.flux.reconcile("facestack")
        assert cluster.get("kustomizations", SERVICES, NAMESPACE)["spec"]["suspend"]
        assert replicas_of_redeemer(cluster) == wanted + 1
    finally:
        follow(cluster, resume, delivery.repository.folder)
    wait_until(
        lambda: replicas_of_redeemer(cluster) == wanted,
        PUT_BACK_SECONDS,
        "redeemer to be scaled back",
    )


@pytest.mark.long
def test_a_removed_workload_goes_and_its_volume_stays(delivery: Delivery) -> None:
    cluster, repository = delivery.cluster, delivery.repository
    claim = cluster.get("pvc", "data-nsqd-0")
    repository.replace(STORES, "- ../../nsqd\n", "")
    pushed = delivery.push("Do without nsqd")
    selector = "--selector=app.kubernetes.io/name=nsqd"
    kinds = "statefulsets,services,networkpolicies,poddisruptionbudgets,serviceaccounts,pods"
    wait_until(lambda: not cluster.get(kinds, selector)["items"], READY_SECONDS, "nsqd to be gone")
    delivery.flux.wait_ready(repository.revision, READY_SECONDS)
    assert cluster.get("pvc", "data-nsqd-0")["metadata"]["uid"] == claim["metadata"]["uid"]

    repository.revert()
    pushed = repository.push()
    delivery.wait_ready(pushed)
    assert cluster.get("statefulset", "nsqd")["status"]["readyReplicas"] == 1
    after = cluster.get("pvc", "data-nsqd-0")
    assert after["metadata"]["uid"] == claim["metadata"]["uid"]
    assert after["spec"]["volumeName"] == claim["spec"]["volumeName"]
