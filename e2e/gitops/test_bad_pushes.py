"""A bad push says what is wrong with it, harms nothing that runs, and a revert heals it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from e2e.gitops.delivery import Delivery
from e2e.load import Load, no_request_fails
from e2e.versions import CRASHING, Versions

FAILED_SECONDS: Final = 180
LAYERS: Final = ("controllers", "configs", "data", "apps")


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
    with bad_push(delivery, "apps") as said:
        assert "health check failed" in said, said
        assert "Deployment/face/receiver status: 'Failed'" in said, said


@pytest.mark.long
def test_a_migration_that_fails(delivery: Delivery, versions: Versions) -> None:
    tag = versions.tag("migrations", CRASHING)
    delivery.tags({"migrations": tag})
    delivery.repository.replace("base/migrations/job.yaml", "backoffLimit: 6", "backoffLimit: 0")
    change_receiver(delivery)
    with bad_push(delivery, "data") as said:
        assert f"Job/face/migrations-{tag.partition('-')[2]} status: 'Failed'" in said, said


def test_an_invalid_manifest(delivery: Delivery) -> None:
    delivery.repository.replace(
        "base/namespace/priority-classes.yaml", "value: 1000000", "value: high"
    )
    change_receiver(delivery)
    with bad_push(delivery, "configs") as said:
        assert "PriorityClass/face-data" in said, said
        assert "high" in said or "value" in said, said


@pytest.mark.long
def test_a_broken_kustomization(delivery: Delivery) -> None:
    delivery.repository.replace(
        "overlays/kind/kustomization.yaml", "- ../../base\n", "- ../../bass\n"
    )
    change_receiver(delivery)
    with bad_push(delivery, "configs") as said:
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
        "base/receiver/kustomization.yaml", "DRAIN_SECONDS=5", "DRAIN_SECONDS=6"
    )


@contextmanager
def bad_push(delivery: Delivery, layer: str) -> Iterator[str]:
    """Push, give what the layer says when it has failed, then revert; all of it under load."""
    cluster, flux, repository = delivery.cluster, delivery.flux, delivery.repository
    later = LAYERS[LAYERS.index(layer) + 1 :]
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
        yield said
        # Not one request later either, and not one layer further.
        load.wait_more(100)
        states = flux.states()
        assert {name: states[name].applied for name in later} == dict.fromkeys(later, good)
        assert bad not in {states[name].attempted for name in later}
        # A crashing one is there beside them.
        assert before <= serving(delivery)

        load.phase = "its revert"
        repository.revert()
        pushed = repository.push()
        delivery.wait_ready(pushed)
        assert serving(delivery) == before


def serving(delivery: Delivery) -> set[str]:
    """Return the names of the pods of the services that clients call."""
    selector = "--selector=app.kubernetes.io/name in (receiver, frontend)"
    return {pod["metadata"]["name"] for pod in delivery.cluster.staying("pods", selector)}
