"""Bootstrap again, and a second cluster in the same repository."""

from typing import Any

import pytest

from e2e.gitops.delivery import Delivery
from e2e.gitops.flux import ENTRY, NAMESPACE


def test_bootstrap_again_changes_nothing(delivery: Delivery) -> None:
    before = installed(delivery)
    result = delivery.bootstrap()
    assert result.returncode == 0, result.stdout
    assert "nothing was changed" in result.stdout
    assert "ssh-ed25519" in delivery.bootstrapped
    assert "ssh-ed25519" not in result.stdout
    assert installed(delivery) == before


@pytest.mark.long
def test_a_second_cluster_is_a_copied_folder_and_no_matter_of_the_first(delivery: Delivery) -> None:
    before = installed(delivery)
    delivery.add_entry("second")
    pushed = delivery.push("A second cluster")
    delivery.wait_ready(pushed)
    assert installed(delivery) == before

    result = delivery.bootstrap("second")
    assert result.returncode != 0
    assert ENTRY in result.stdout
    assert "second" in result.stdout
    assert installed(delivery) == before


def installed(delivery: Delivery) -> dict[str, Any]:
    """Return all that bootstrap and the first push have made, as it was asked for, and the pods."""
    cluster = delivery.cluster
    kinds = (
        "deployments,services,networkpolicies,serviceaccounts,configmaps,secrets,"
        "kustomizations.kustomize.toolkit.fluxcd.io,gitrepositories.source.toolkit.fluxcd.io"
    )
    items = [
        *cluster.staying(kinds, NAMESPACE),
        *cluster.staying(
            "crds,clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/part-of=flux"
        ),
        *cluster.staying("pods", NAMESPACE),
        *cluster.staying("deployments,statefulsets,configmaps,secrets,pods"),
    ]
    return {
        f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}": (
            item["metadata"]["uid"],
            item["metadata"].get("generation"),
            {
                key: value
                for key, value in item.items()
                if key not in {"metadata", "status", "kind", "apiVersion"}
            },
        )
        for item in items
    }
