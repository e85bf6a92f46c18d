"""What layers write over what their folders have, and what they leave alone."""

import pytest

from scripts.gitops.flux import Cluster, load
from scripts.gitops.source import working_tree
from scripts.gitops.tests.changes import change, copy
from scripts.manifests.model import Document

FACTS = "flux/clusters/kind/cluster.yaml"
OVERLAY = "overlays/kind/services/kustomization.yaml"
COUNTS = "replicas: [{name: receiver, count: 3}, {name: people, count: 3}]\n"


@pytest.fixture(scope="module")
def cluster(flux_build: str, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Give a cluster with two edits: another pod network, and more replicas."""
    with working_tree() as tree:
        source = copy(tree, tmp_path_factory.mktemp("tree"))
    change(source, {"file": FACTS, "old": "10.244.0.0/16", "new": "10.42.0.0/16"})
    text = (source.folder / OVERLAY).read_text()
    change(source, {"file": OVERLAY, "write": text + COUNTS})
    found = load(source, "kind")
    assert found.problems == []
    return found


def objects(cluster: Cluster, kind: str) -> dict[str, Document]:
    """Return what a cluster gets of a kind in the pipeline's namespace, by name."""
    documents = [one.document for _, one in cluster.objects()]
    return {
        document["metadata"]["name"]: document
        for document in documents
        if document["kind"] == kind and document["metadata"].get("namespace") == "face"
    }


def test_another_pod_network_is_one_edit(cluster: Cluster) -> None:
    blocks = {
        name: peer["ipBlock"]
        for name, policy in objects(cluster, "NetworkPolicy").items()
        for rule in policy["spec"].get("ingress", ())
        for peer in rule.get("from", ())
        if "ipBlock" in peer
    }
    client = {"cidr": "0.0.0.0/0", "except": ["10.42.0.0/16"]}
    assert blocks == {"receiver-from-outside": client, "frontend-from-outside": client}


def test_an_overlay_may_say_how_many_there_are_also_of_what_an_autoscaler_scales(
    cluster: Cluster,
) -> None:
    deployments = objects(cluster, "Deployment")
    assert {deployments[name]["spec"]["replicas"] for name in ("receiver", "people")} == {3}
    # Flux makes so many, and then leaves the number alone.
    [left_alone] = cluster.kustomizations["face-services"].spec["ignore"]
    assert left_alone["target"] == {"kind": "Deployment", "name": "receiver"}
    assert left_alone["paths"] == ["/spec/replicas"]
