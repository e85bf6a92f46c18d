"""What is done by hand is undone, and what leaves the repository leaves the cluster."""

from typing import Final

import pytest

from e2e.gitops.delivery import READY_SECONDS, Delivery
from e2e.gitops.flux import NAMESPACE
from e2e.gitops.recipes import follow, recipe
from e2e.waiting import wait_until

PUT_BACK_SECONDS: Final = 300
"""A change during a wait for health is seen after that layer's timeout, which is 3 minutes here."""
BASE: Final = "base/kustomization.yaml"


def test_changes_by_hand_are_put_back(delivery: Delivery) -> None:
    cluster = delivery.cluster
    delivery.look_often()
    delivery.push("Look often")
    kustomization = ("kustomizations", "apps", NAMESPACE)
    wait_until(
        lambda: cluster.get(*kustomization)["spec"]["interval"] == "10s",
        PUT_BACK_SECONDS,
        "Flux to look often",
    )
    wanted = cluster.get("deployment", "redeemer")["spec"]["replicas"]
    [container] = cluster.get("deployment", "redeemer")["spec"]["template"]["spec"]["containers"]
    names = [source["configMapRef"]["name"] for source in container["envFrom"]]
    [settings] = (name for name in names if name.startswith("redeemer-"))
    before = cluster.get("configmap", settings)["data"]
    service = cluster.get("service", "face-recog")

    cluster.kubectl("scale", "deployment/redeemer", f"--replicas={wanted + 1}")
    by_hand = '--patch={"data": {"NSQD_URL": "http://elsewhere:4151", "BY_HAND": "yes"}}'
    cluster.kubectl("patch", "configmap", settings, "--type=merge", by_hand)
    cluster.kubectl("delete", "service", "face-recog")

    def scaled() -> bool:
        return bool(cluster.get("deployment", "redeemer")["spec"]["replicas"] == wanted)

    wait_until(scaled, PUT_BACK_SECONDS, "redeemer to be scaled back")
    wait_until(
        lambda: cluster.get("configmap", settings)["data"] == before,
        PUT_BACK_SECONDS,
        f"the ConfigMap {settings} to be as it was",
    )

    def made_again() -> bool:
        made = cluster.get("service", "face-recog")
        assert made["metadata"]["uid"] != service["metadata"]["uid"]
        assert made["spec"]["selector"] == service["spec"]["selector"]
        assert made["spec"]["ports"] == service["spec"]["ports"]
        return True

    wait_until(made_again, PUT_BACK_SECONDS, "the Service face-recog to be there again")
    delivery.repository.revert()
    delivery.repository.push()
    delivery.wait_ready()


def test_while_a_layer_is_suspended_what_is_done_by_hand_stays(delivery: Delivery) -> None:
    cluster = delivery.cluster
    suspend, resume = recipe("Stop the world").splitlines()
    wanted = cluster.get("deployment", "redeemer")["spec"]["replicas"]

    def replicas() -> int:
        return int(cluster.get("deployment", "redeemer")["spec"]["replicas"])

    follow(cluster, suspend, delivery.repository.folder)
    try:
        cluster.kubectl("scale", "deployment/redeemer", f"--replicas={wanted + 1}")
        # What applies the layer's own object leaves it suspended.
        delivery.flux.reconcile("facestack")
        assert cluster.get("kustomizations", "apps", NAMESPACE)["spec"]["suspend"]
        assert replicas() == wanted + 1
    finally:
        follow(cluster, resume, delivery.repository.folder)
    wait_until(lambda: replicas() == wanted, PUT_BACK_SECONDS, "redeemer to be scaled back")


@pytest.mark.long
def test_a_removed_workload_goes_and_its_volume_stays(delivery: Delivery) -> None:
    cluster, repository = delivery.cluster, delivery.repository
    claim = cluster.get("pvc", "data-nsqd-0")
    repository.replace(BASE, "\n- nsqd\n", "\n")
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
