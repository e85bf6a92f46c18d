"""What a push would change is told, against a real API server that has what Flux has applied."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.gitops.diff import Changes, DiffError, Kubectl, _note, report
from scripts.gitops.flux import Builder, load
from scripts.gitops.source import ROOT, Source, working_tree
from scripts.gitops.tests.api_server import apply, running, sync
from scripts.gitops.tests.changes import change, copy

SECRET = """
apiVersion: v1
kind: Secret
metadata:
  name: sealed
  namespace: face
data:
  one: ENC[AES256_GCM,data:c2VjcmV0LW9uZQ==,type:str]
  two: ENC[AES256_GCM,data:c2VjcmV0LXR3bw==,type:str]
sops:
  mac: ENC[AES256_GCM,data:AA==,type:str]
"""
COMPONENT = (
    "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nresources: [sealed.yaml]\n"
)
HASH = re.compile(r"-[0-9a-f]{12}\b")


@pytest.fixture(scope="module")
def whole() -> Iterator[Source]:
    with working_tree() as tree:
        yield tree


@pytest.fixture(scope="module")
def cluster(
    kubectl: str, whole: Source, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubectl]:
    """An API server with everything of flux/kind as it is in git."""
    with running(tmp_path_factory.mktemp("cluster")) as found:
        sync(found, load(Builder(whole, kubectl), "kind"))
        yield found


@pytest.fixture
def mended(cluster: Kubectl, kubectl: str, whole: Source) -> Iterator[Kubectl]:
    """The same, for a test that changes it: afterwards it is as it was."""
    yield cluster
    sync(cluster, load(Builder(whole, kubectl), "kind"))


@pytest.fixture
def tree(whole: Source, tmp_path: Path) -> Source:
    return copy(whole, tmp_path)


def told(tree: Source, cluster: Kubectl) -> list[str]:
    """Return the lines about objects, without what changes in them."""
    return [
        HASH.sub("-HASH", line.strip())
        for line in report(tree, "kind", cluster)
        if re.match(r"  [-+~!] ", line)
    ]


def test_nothing_differs_when_flux_has_applied_it(tree: Source, cluster: Kubectl) -> None:
    (only,) = report(tree, "kind", cluster)
    assert re.fullmatch(r"flux/kind against trial at https://127\.0\.0\.1:\d+", only)


def test_a_change_is_told_with_its_lines(tree: Source, cluster: Kubectl) -> None:
    old = "DRAIN_SECONDS=5"
    change(tree, {"file": "base/redeemer/kustomization.yaml", "old": old, "new": "DRAIN_SECONDS=6"})
    lines = list(report(tree, "kind", cluster))
    start = next(n for n, line in enumerate(lines) if "Deployment face/redeemer" in line)
    names = [line.split()[1:] for line in lines[start:] if "name: redeemer-" in line]
    assert len(names) == 2
    assert any("+ ConfigMap face/redeemer-" in line for line in lines)
    assert any("- ConfigMap face/redeemer-" in line for line in lines)


def test_a_new_fact_reaches_what_uses_it(tree: Source, cluster: Kubectl) -> None:
    fact = "credentials: none"
    change(tree, {"file": "flux/kind/cluster.yaml", "old": fact, "new": "credentials: sha-1"})
    found = told(tree, cluster)
    assert found == [
        "~ ConfigMap flux-system/cluster",
        "~ Job face/migrations-HASH: is deleted and made again, because it cannot be changed",
        *(
            f"~ Deployment face/{name}"
            for name in (
                "face-recog",
                "frontend",
                "image-processor",
                "people",
                "receiver",
                "redeemer",
                "webhooks",
            )
        ),
    ]


def test_what_goes_away_is_told_but_not_what_stays(tree: Source, cluster: Kubectl) -> None:
    line = "- ../../apps/playground\n"
    change(tree, {"file": "flux/kind/kustomization.yaml", "old": line, "new": ""})
    found = told(tree, cluster)
    assert "- Kustomization flux-system/playground" in found
    assert any(line.startswith("- ResourceQuota playground/") for line in found)
    assert not any("Namespace playground" in line for line in found)
    assert all(line.startswith("- ") for line in found)


def add(tree: Source, manifest: str) -> None:
    change(tree, {"file": "apps/playground/manifests/more.yaml", "write": manifest})
    file = "apps/playground/manifests/kustomization.yaml"
    change(tree, {"file": file, "old": "resources:\n", "new": "resources:\n- more.yaml\n"})


def test_what_is_new_is_told(tree: Source, cluster: Kubectl) -> None:
    add(tree, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more, namespace: playground}\n")
    assert told(tree, cluster) == ["+ ConfigMap playground/more"]


def test_a_warning_of_the_cluster_is_no_refusal(tree: Source, cluster: Kubectl) -> None:
    add(tree, "apiVersion: v1\nkind: Endpoints\nmetadata: {name: old, namespace: playground}\n")
    assert told(tree, cluster) == ["+ Endpoints playground/old"]


def test_a_refusal_is_told_without_the_warnings(tree: Source, cluster: Kubectl) -> None:
    fault = "subsets: [{addresses: [{ip: none}]}]\n"
    meta = "metadata: {name: old, namespace: playground}\n"
    add(tree, f"apiVersion: v1\nkind: Endpoints\n{meta}{fault}")
    (found,) = told(tree, cluster)
    assert found.startswith("! Endpoints playground/old: the cluster says: ")
    assert "is invalid" in found
    assert "Warning:" not in found


def test_another_tool_for_differences_is_not_used(
    tree: Source, cluster: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECTL_EXTERNAL_DIFF", "true")
    add(tree, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more, namespace: playground}\n")
    assert told(tree, cluster) == ["+ ConfigMap playground/more"]


def test_an_output_that_cannot_be_read_is_no_sameness() -> None:
    with pytest.raises(DiffError, match=r"cannot be read: \x1b\[1mdiff"):
        _note(
            "\x1b[1mdiff -u -N /tmp/LIVE-1/v1.ConfigMap.a.b /tmp/MERGED-1/v1.ConfigMap.a.b\n",
            Changes(),
        )


class Denied(Kubectl):
    """As kubectl of somebody who may not read quotas."""

    def run(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        if arguments[:2] == ("get", "ResourceQuota"):
            reason = 'Error from server (Forbidden): resourcequotas "total" is forbidden\n'
            return subprocess.CompletedProcess(arguments, 1, "", reason)
        return super().run(*arguments, given=given)


def test_what_cannot_be_looked_at_does_not_count_as_gone(tree: Source, mended: Kubectl) -> None:
    line = "- ../../apps/playground\n"
    change(tree, {"file": "flux/kind/kustomization.yaml", "old": line, "new": ""})
    mended.get("delete", "limitrange/each", "--namespace=playground")
    found = told(tree, Denied(mended.context))
    refused = 'the cluster says: Error from server (Forbidden): resourcequotas "total" is forbidden'
    assert f"! ResourceQuota playground/total: {refused}" in found
    assert "- NetworkPolicy playground/default-deny" in found
    assert not any("LimitRange" in line for line in found)


def test_what_somebody_changed_by_hand_is_told(tree: Source, mended: Kubectl) -> None:
    mended.get("scale", "deployment/frontend", "--namespace=face", "--replicas=7")
    mended.get("delete", "service/frontend", "--namespace=face")
    lines = list(report(tree, "kind", mended))
    assert "  ~ Deployment face/frontend" in lines
    assert "  + Service face/frontend" in lines
    assert "      -  replicas: 7" in lines


def test_an_object_that_the_cluster_refuses_does_not_hide_the_others(
    tree: Source, cluster: Kubectl
) -> None:
    fact = "storage_class: standard"
    change(tree, {"file": "flux/kind/cluster.yaml", "old": fact, "new": "storage_class: other"})
    found = told(tree, cluster)
    assert found[0] == "~ ConfigMap flux-system/cluster"
    refused = [line.partition(": ")[0] for line in found if "is invalid" in line]
    assert refused == [f"! StatefulSet face/{name}" for name in ("mariadb", "nsqd", "object-store")]


def sealed(tree: Source) -> None:
    folder = "flux/kind/secrets"
    change(tree, {"file": f"{folder}/kustomization.yaml", "write": COMPONENT})
    change(tree, {"file": f"{folder}/sealed.yaml", "write": SECRET})


def test_an_encrypted_secret_is_compared_by_its_keys_alone(tree: Source, cluster: Kubectl) -> None:
    sealed(tree)
    assert told(tree, cluster) == ["+ Secret face/sealed: is encrypted"]
    secret: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "sealed", "namespace": "face"},
        "stringData": {"one": "in-clear-1", "three": "in-clear-3"},
    }
    apply(cluster, [secret])
    try:
        lines = list(report(tree, "kind", cluster))
        secret["stringData"] = {"one": "in-clear-1", "two": "in-clear-2"}
        cluster.get("delete", "secret/sealed", "--namespace=face")
        apply(cluster, [secret])
        same = list(report(tree, "kind", cluster))
    finally:
        cluster.get("delete", "secret/sealed", "--namespace=face")
    start = lines.index("  ~ Secret face/sealed: is encrypted; of its keys differ")
    assert lines[start + 1 : start + 3] == ["      +two", "      -three"]
    assert same[1:] == ["\nOf 1 encrypted Secrets only the names of their keys were compared."]
    for secret_text in ("in-clear", "ENC[", "aW4tY2xlYXI"):
        assert secret_text not in "\n".join(lines + same)


def test_a_cluster_that_follows_another_folder_is_refused(tree: Source, cluster: Kubectl) -> None:
    with pytest.raises(DiffError, match=r"trial at .* follows flux/kind, not flux/minikube"):
        list(report(tree, "minikube", cluster))


def test_the_command_says_where_it_looked_and_ends_with_0_or_1(mended: Kubectl) -> None:
    command = [sys.executable, "-m", "scripts.gitops.diff", "kind", "--context=trial"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n\nNothing differs.\n")
    mended.get("delete", "service/receiver", "--namespace=face")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("\n\n1 objects differ.\n")


def test_a_cluster_that_does_not_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    command = [sys.executable, "-m", "scripts.gitops.diff", "kind"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("diff: ")


def test_on_a_cluster_without_flux_it_is_said(
    tree: Source, cluster: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.gitops.diff.Comparison._kustomizations", lambda _: {})
    assert next(report(tree, "kind", cluster)).endswith(", which follows no git yet")
