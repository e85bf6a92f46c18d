"""Flux's own code is called as kustomize-controller calls it, strictly, and changes no file."""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from scripts.gitops.flux import BuildError, Object, build_folder, load
from scripts.gitops.source import Source, working_tree
from scripts.gitops.tests.changes import change
from scripts.programs import git

pytestmark = pytest.mark.usefixtures("flux_build")

KUSTOMIZATION: Final = "resources: [map.yaml]\ncomponents: [../more]\n"
MAP: Final = """
apiVersion: v1
kind: ConfigMap
metadata: {name: map}
data: {key: "${fact}", other: "${none:=default}", kept: "$${brace}"}
"""
COMPONENT: Final = """
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
configMapGenerator: [{name: more, literals: [a=b]}]
generatorOptions: {disableNameSuffixHash: true}
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    found = Source(tmp_path)
    change(found, {"file": "app/kustomization.yaml", "write": KUSTOMIZATION})
    change(found, {"file": "app/map.yaml", "write": MAP})
    change(found, {"file": "more/kustomization.yaml", "write": COMPONENT})
    return found


def build(source: Source, **facts: str) -> dict[str, Object]:
    return {one.title: one for one in build_folder(source, "app", facts)}


def test_every_object_names_its_file_and_has_the_facts(source: Source) -> None:
    found = build(source, fact="text\n")
    assert {title: one.file for title, one in found.items()} == {
        "ConfigMap/map": "app/map.yaml",
        "ConfigMap/more": "more/kustomization.yaml",
    }
    expected: dict[str, Any] = yaml.safe_load(MAP)
    expected["data"] = {"key": "text", "other": "default", "kept": "${brace}"}
    assert found["ConfigMap/map"].document == expected
    assert (source.folder / "app/kustomization.yaml").read_text() == KUSTOMIZATION


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("${fact}", "${fcat}", 'variable not set (strict mode): "fcat"'),
        ("${fact}", "${fact", "closing"),
        ("${fact}", "$$5", "Flux makes one $ of the two in '$$5': write one"),
        ("data:", "data: [", "yaml"),
    ],
)
def test_what_flux_refuses_is_told_with_its_file(
    source: Source, old: str, new: str, said: str
) -> None:
    change(source, {"file": "app/map.yaml", "old": old, "new": new})
    with pytest.raises(BuildError) as error:
        build(source, fact="x")
    (finding,) = error.value.args
    assert said in finding.problem
    assert finding.where.startswith("app/")


def test_an_object_that_switches_it_off_is_left_alone(source: Source) -> None:
    label = "metadata: {labels: {kustomize.toolkit.fluxcd.io/substitute: disabled}, "
    change(source, {"file": "app/map.yaml", "old": "metadata: {", "new": label})
    assert build(source, fact="x")["ConfigMap/map"].document["data"]["key"] == "${fact}"


def test_a_kustomization_brings_others_and_facts_get_into_them() -> None:
    with working_tree() as tree:
        cluster = load(tree, "kind")
    assert cluster.problems == []
    assert cluster.root.name == "facestack"
    layers = {"flux-controllers", "face-setup", "face-secrets", "face-stores"}
    assert cluster.before("face-services") == layers
    claims = [one for _, one in cluster.objects() if one.key[1] == "PersistentVolumeClaim"]
    assert {one.document["spec"]["storageClassName"] for one in claims} == {"standard"}


def test_what_a_cluster_pins_is_of_that_commit_and_its_own_is_of_the_branch() -> None:
    """Facts and secrets are the branch's, whatever is pinned."""
    pinned = git("rev-parse", "HEAD").strip()
    version = f"""
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {{name: version, namespace: flux-system}}
spec: {{url: "https://git.example.com/f.git", interval: 1h, ref: {{commit: {pinned}}}}}
"""
    folder = "flux/clusters/kind"
    facts = {"file": f"{folder}/cluster.yaml"}
    with working_tree() as tree:
        change(tree, {"file": f"{folder}/version.yaml", "write": version})
        listed = {"old": "- cluster.yaml\n", "new": "- cluster.yaml\n- version.yaml\n"}
        change(tree, {"file": f"{folder}/kustomization.yaml", **listed})
        change(tree, {**facts, "old": "source: facestack", "new": "source: version"})
        change(tree, {**facts, "old": "storage_class: standard", "new": "storage_class: new"})
        change(tree, {"file": "overlays/kind/services/kustomization.yaml", "write": "resource: []"})
        cluster = load(tree, "kind")
        assert cluster.problems == []
        assert not any(name.startswith("overlays/") for name in cluster.files)
        claims = [one for _, one in cluster.objects() if one.key[1] == "PersistentVolumeClaim"]
        assert {one.document["spec"]["storageClassName"] for one in claims} == {"new"}
        (problem,) = load(tree, "kind", pinned=False).problems
        assert problem.where == "overlays/kind/services/kustomization.yaml"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"enforce": "privileged"}, {}),
        (
            {"enforce": "baseline", "enforce-version": "v1.34"},
            {"host namespaces": "hostNetwork=true (Pod Security baseline)"},
        ),
        ({}, {"host namespaces": "hostNetwork=true (Pod Security restricted)"}),
        (
            {"enforce": "baselin"},
            {
                "labels of its namespace": "metadata.labels[pod-security.kubernetes.io/enforce]: "
                'Invalid value: "baselin": must be one of privileged, baseline, restricted'
            },
        ),
    ],
)
def test_pod_security_is_kubernetes_own(
    flux_build: str, labels: dict[str, str], said: dict[str, str]
) -> None:
    given = {f"pod-security.kubernetes.io/{name}": value for name, value in labels.items()}
    pods = [{"labels": given, "pod": {"spec": {"hostNetwork": True}}}]
    command = [flux_build, "pod-security"]
    done = subprocess.run(
        command, input=json.dumps(pods), capture_output=True, text=True, check=True
    )
    [forbidden] = json.loads(done.stdout)
    assert forbidden.items() >= said.items()
    assert bool(forbidden) == bool(said)
