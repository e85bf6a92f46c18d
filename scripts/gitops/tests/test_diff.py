"""What a push would change is told, against a real API server that has what Flux has applied."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.gitops.diff import Change, as_markdown, as_text, rendered
from scripts.gitops.diff import running as compare
from scripts.gitops.flux import load
from scripts.gitops.source import Source, working_tree
from scripts.gitops.tests.api_server import apply, running, sync
from scripts.gitops.tests.changes import change, copy
from scripts.programs import ROOT, Kubectl, KubectlError

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
FACTS = "flux/clusters/kind/cluster.yaml"
HASH = re.compile(r"-[0-9a-f]{12}\b")


@pytest.fixture(scope="module")
def whole() -> Iterator[Source]:
    with working_tree() as tree:
        yield tree


@pytest.fixture(scope="module")
def cluster(
    kubectl: str, whole: Source, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubectl]:
    """An API server with everything of flux/clusters/kind as it is in git."""
    with running(tmp_path_factory.mktemp("cluster")) as found:
        sync(found, load(whole, "kind"))
        yield found


@pytest.fixture
def mended(cluster: Kubectl, kubectl: str, whole: Source) -> Iterator[Kubectl]:
    """The same, for a test that changes it: afterwards it is as it was."""
    yield cluster
    sync(cluster, load(whole, "kind"))


@pytest.fixture
def tree(whole: Source, tmp_path: Path) -> Source:
    return copy(whole, tmp_path)


def told(tree: Source, cluster: Kubectl) -> list[str]:
    """Return what is told of objects, without what changes in them."""
    return [HASH.sub("-HASH", str(change)) for change in compare(tree, "kind", cluster)[1]]


def lines(tree: Source, cluster: Kubectl, about: str) -> tuple[str, ...]:
    """Return what is told to change in an object."""
    (found,) = (one.lines for one in compare(tree, "kind", cluster)[1] if str(one) == about)
    return found


def test_nothing_differs_when_flux_has_applied_it(tree: Source, cluster: Kubectl) -> None:
    head, changes = compare(tree, "kind", cluster)
    assert re.fullmatch(r"flux/clusters/kind against trial at https://127\.0\.0\.1:\d+", head)
    assert changes == []


def test_a_change_is_told_with_its_lines(tree: Source, cluster: Kubectl) -> None:
    file = "base/redeemer/deployment.yaml"
    old = 'name: DRAIN_SECONDS, value: "5"'
    change(tree, {"file": file, "old": old, "new": old.replace("5", "6")})
    assert told(tree, cluster) == ["~ Deployment face/redeemer"]
    found = lines(tree, cluster, "~ Deployment face/redeemer")
    assert [line.split() for line in found if line[0] in "-+"] == [
        ["-", "value:", "'5'"],
        ["+", "value:", "'6'"],
    ]


def test_a_new_fact_reaches_what_uses_it(tree: Source, cluster: Kubectl) -> None:
    fact = "credentials: none"
    change(tree, {"file": FACTS, "old": fact, "new": "credentials: sha-1"})
    found = told(tree, cluster)
    services = ("face-recog", "receiver", "image-processor", "redeemer", "people", "webhooks")
    assert found == [
        "~ ConfigMap flux-system/cluster",
        *(f"~ Kustomization flux-system/face-{n}" for n in ("secrets", "stores", "services")),
        "~ Job face/migrations-HASH: is deleted and made again, because it cannot be changed",
        *(f"~ Deployment face/{name}" for name in (*services, "frontend")),
    ]


def test_what_goes_away_is_told_but_not_what_stays(tree: Source, cluster: Kubectl) -> None:
    line = "- ../../../apps/playground\n"
    change(tree, {"file": "flux/clusters/kind/kustomization.yaml", "old": line, "new": ""})
    found = told(tree, cluster)
    assert "- Kustomization flux-system/playground: goes at once" in found
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
    assert lines(tree, cluster, "+ ConfigMap playground/more") == ()


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


class Denied(Kubectl):
    """As kubectl of somebody who may not read quotas and Secrets."""

    def get(self, *arguments: str, given: str | None = None) -> str:
        for kind, what in ("ResourceQuota", 'resourcequotas "total"'), ("Secret", "secrets"):
            if given and f'"kind": "{kind}"' in given:
                raise KubectlError(f"Error from server (Forbidden): {what} is forbidden")
        return super().get(*arguments, given=given)


def test_what_cannot_be_looked_at_does_not_count_as_gone(tree: Source, mended: Kubectl) -> None:
    line = "- ../../../apps/playground\n"
    change(tree, {"file": "flux/clusters/kind/kustomization.yaml", "old": line, "new": ""})
    mended.get("delete", "limitrange/each", "--namespace=playground")
    found = told(tree, Denied(mended.context))
    refused = 'the cluster says: Error from server (Forbidden): resourcequotas "total" is forbidden'
    assert f"! ResourceQuota playground/total: {refused}" in found
    assert "- NetworkPolicy playground/default-deny: goes at once" in found
    assert not any("LimitRange" in line for line in found)


def test_what_somebody_changed_by_hand_is_told(tree: Source, mended: Kubectl) -> None:
    mended.get("scale", "deployment/frontend", "--namespace=face", "--replicas=7")
    mended.get("delete", "service/frontend", "--namespace=face")
    assert told(tree, mended) == ["~ Deployment face/frontend", "+ Service face/frontend"]
    assert "-  replicas: 7" in lines(tree, mended, "~ Deployment face/frontend")


def test_an_object_that_the_cluster_refuses_does_not_hide_the_others(
    tree: Source, cluster: Kubectl
) -> None:
    fact = "storage_class: standard"
    change(
        tree,
        {"file": FACTS, "old": fact, "new": "storage_class: other"},
    )
    found = told(tree, cluster)
    assert found[0] == "~ ConfigMap flux-system/cluster"
    refused = [line.partition(": ")[0] for line in found if "is invalid" in line]
    stores = ("mariadb", "nsqd", "object-store")
    assert sorted(refused) == [f"! PersistentVolumeClaim face/data-{name}-0" for name in stores]


def sealed(tree: Source) -> None:
    folder = "flux/clusters/kind/secrets"
    old = {"old": "resources: []", "new": "resources: [sealed.yaml]"}
    change(tree, {"file": f"{folder}/kustomization.yaml", **old})
    change(tree, {"file": f"{folder}/sealed.yaml", "write": SECRET})


def test_an_encrypted_secret_is_compared_by_its_keys_alone(tree: Source, cluster: Kubectl) -> None:
    sealed(tree)
    assert told(tree, cluster) == ["+ Secret face/sealed"]
    secret: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "sealed", "namespace": "face"},
        "stringData": {"one": "in-clear-1", "three": "in-clear-3"},
    }
    apply(cluster, [secret])
    try:
        found = lines(tree, cluster, "~ Secret face/sealed")
        secret["stringData"] = {"one": "in-clear-1", "two": "in-clear-2"}
        cluster.get("delete", "secret/sealed", "--namespace=face")
        apply(cluster, [secret])
        head, same = compare(tree, "kind", cluster)
    finally:
        cluster.get("delete", "secret/sealed", "--namespace=face")
    assert [line for line in found if line[0] in "-+"] == ["-- three", "+- two"]
    assert same == []
    assert head.endswith("\nOf 1 encrypted Secrets only the names of their keys are compared.")


def test_a_secret_that_cannot_be_looked_at_is_told_once(tree: Source, cluster: Kubectl) -> None:
    sealed(tree)
    found = [one for one in told(tree, Denied(cluster.context)) if "Secret face/" in one]
    refused = "the cluster says: Error from server (Forbidden): secrets is forbidden"
    assert found == [f"! Secret face/sealed: {refused}"]


def test_a_cluster_that_follows_another_folder_is_refused(tree: Source, cluster: Kubectl) -> None:
    with pytest.raises(
        KubectlError, match=r"trial at .* follows flux/clusters/kind, not flux/clusters/minikube"
    ):
        compare(tree, "minikube", cluster)


def test_the_command_says_where_it_looked_and_ends_with_0_or_1(mended: Kubectl) -> None:
    command = [sys.executable, "-m", "scripts.gitops.diff", "kind", "--context=trial"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nkind: nothing\n")
    mended.get("delete", "service/receiver", "--namespace=face")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("\nkind: 1 added\n@@ face-services: + Service face/receiver @@\n")


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
    monkeypatch.setattr("scripts.programs.Kubectl.follows", lambda *_: False)
    assert compare(tree, "kind", cluster)[0].endswith(", which follows no git yet")


@pytest.mark.usefixtures("flux_build")
def test_two_states_are_compared_without_a_cluster(whole: Source, tree: Source) -> None:
    assert rendered(whole, tree, "kind") == []
    file = "apps/playground/manifests/limits.yaml"
    change(tree, {"file": file, "old": "  name: total\n", "new": "  name: whole\n"})
    change(tree, {"file": file, "old": 'pods: "20"', "new": 'pods: "21" # ```'})
    change(
        tree, {"file": "base/redeemer/deployment.yaml", "old": 'value: "5"', "new": "value: a```b"}
    )
    changes = {"kind": rendered(whole, tree, "kind"), "aws": []}
    assert [str(change) for change in changes["kind"]] == [
        "+ ResourceQuota playground/whole",
        "~ Deployment face/redeemer",
        "- ResourceQuota playground/total: goes at once",
    ]
    text = as_text("kind", changes["kind"])
    assert text.startswith("kind: 1 added, 1 changed, 1 deleted\n")
    assert "-          value: '5'" in text
    assert "+  name: whole" in text
    comment = as_markdown(changes)
    assert "aws: nothing" in comment
    # No text of a manifest ends the block that it stands in.
    assert comment.count("````") == 2


def test_what_github_would_refuse_as_too_long_is_cut() -> None:
    changes = [
        Change("layer", "+", f"ConfigMap face/{n}", lines=100 * ("+line",)) for n in range(300)
    ]
    comment = as_markdown({"aws": changes, "kind": changes})
    assert len(comment) < 65_536
    assert comment.count("<summary>aws: 300 added</summary>") == 1
    assert "@@ and more: make diff CLUSTER=kind BASE=... @@\n```\n</details>" in comment
