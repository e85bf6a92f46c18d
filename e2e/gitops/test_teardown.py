"""The end: what the docs tell to take a cluster out of Flux's hands leaves its data."""

from typing import Final

import pytest

from e2e.gitops.delivery import READY_SECONDS, Delivery
from e2e.gitops.flux import leftovers
from e2e.gitops.recipes import follow, recipe
from e2e.waiting import wait_until

KEPT: Final = {
    "Namespace",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PriorityClass",
    "Secret",
}
"""Volumes, what they are in, the passwords that the database on them knows, and two names."""


@pytest.mark.long
def test_taken_out_of_the_repositorys_hands_only_data_stays(delivery: Delivery) -> None:
    cluster = delivery.cluster
    volumes = cluster.get("persistentvolumes")["items"]
    follow(cluster, recipe("Take a cluster out of Flux's hands"), delivery.repository.folder)
    assert cluster.get("persistentvolumes")["items"] == volumes

    def gone() -> list[str]:
        left = leftovers(cluster)
        assert {kind_of(name) for name in left} <= KEPT, left
        return left

    # Pods end when they have finished what they had begun.
    left = wait_until(gone, READY_SECONDS, "all but data to be gone")
    print("\n".join(left))
    for workload in ("mariadb", "nsqd", "object-store"):
        assert f"PersistentVolumeClaim data-{workload}-0 in face" in left


def kind_of(name: str) -> str:
    return name.partition(" ")[0]
