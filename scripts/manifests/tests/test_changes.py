"""What a clone changes first is one edit in one place: checks pass, and the cluster gets it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from scripts.gitops.diff import rendered
from scripts.gitops.source import Source, working_tree
from scripts.gitops.tests.changes import change, copy, said

_AWS: Final = "flux/clusters/aws/cluster.yaml"
_KIND: Final = "flux/clusters/kind/cluster.yaml"

# Cluster, file, what stands there, what takes its place, and a part of what the cluster gets.
CHANGES: Final = {
    "another registry": (
        "aws",
        _AWS,
        "123456789012.dkr.ecr.eu-central-1.amazonaws.com/facestack",
        "registry.example.com/team/faces",
        "image: registry.example.com/team/faces/receiver:",
    ),
    "another region": ("aws", _AWS, "region: eu-central-1", "region: us-east-1", "us-east-1"),
    "a wider range of the load balancer": (
        "aws",
        _AWS,
        "load_balancer_subnets: 10.0.0.0/20",
        "load_balancer_subnets: 10.0.64.0/18",
        "cidr: 10.0.64.0/18",
    ),
    "a second range of the load balancer": (
        "aws",
        _AWS,
        "# A second range: more_load_balancer_subnets: 10.0.64.0/20",
        "more_load_balancer_subnets: 10.0.80.0/20",
        "10.0.64.0/18,10.0.80.0/20",
    ),
    "another version of MariaDB": (
        "kind",
        "base/components/images/kustomization.yaml",
        "10.11.19",
        "11.4.8",
        "image: mariadb:11.4.8",
    ),
    "another pod network": ("kind", _KIND, "10.244.0.0/16", "10.42.0.0/16", "- 10.42.0.0/16"),
    "another port of the API server": (
        "kind",
        _KIND,
        'api_server_port: "6443"',
        'api_server_port: "8443"',
        "port: 8443",
    ),
    "a larger volume": (
        "kind",
        "base/mariadb/volume.yaml",
        "storage: 5Gi",
        "storage: 20Gi",
        "storage: 20Gi",
    ),
    "more replicas": (
        "kind",
        "base/people/deployment.yaml",
        "replicas: 2",
        "replicas: 5",
        "replicas: 5",
    ),
    "more memory": (
        "kind",
        "base/face-recog/deployment.yaml",
        "memory: 1664Mi",
        "memory: 3Gi",
        "memory: 3Gi",
    ),
}


@pytest.fixture(scope="module")
def tree() -> Iterator[Source]:
    with working_tree() as found:
        yield found


@pytest.mark.usefixtures("flux_build", "schema_folder")
@pytest.mark.parametrize("cluster", ["aws", "kind"])
def test_each_is_one_edit_that_passes_and_arrives(
    tree: Source, tmp_path: Path, cluster: str
) -> None:
    changed = copy(tree, tmp_path)
    edits = [edit for where, *edit in CHANGES.values() if where == cluster]
    for file, old, new, _ in edits:
        edit: dict[str, Any] = {"file": file, "old": old, "new": new}
        change(changed, edit)
    lines = [line for one in rendered(tree, changed, cluster) for line in one.lines]
    for *_, arrives in edits:
        assert any(line.startswith("+") and arrives in line for line in lines), arrives
    assert said(changed, cluster) == []
