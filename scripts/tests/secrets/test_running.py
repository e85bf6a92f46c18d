"""A running cluster is asked, with kubectl and a real API server: what it has, and what it runs."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from scripts.gitops.tests import api_server
from scripts.programs import Kubectl, KubectlError, ProgramError
from scripts.secrets import SecretsError, main, wanted
from scripts.tests.secrets.conftest import ROOT, Site

RUNS = {
    "mariadb-admin": {"password": "of root"},
    "database-receiver": {"password": "of receiver"},
    "database-image-processor": {"password": "of image-processor"},
    "database-redeemer": {"password": "of redeemer", "previous-password": "before"},
    "database-people": {"password": "of people"},
    "database-webhooks": {"password": "of webhooks"},
    "database-backup": {"password": "of backup"},
    "administrator-key": {"password": "of the administrator"},
    "frontend-key": {"password": "of the frontend"},
    "object-store": {"access-key-id": "id", "secret-access-key": "secret"},
}
DATA = "data"
FACTS = {"kind": "ConfigMap", "metadata": {"name": "cluster", "namespace": "flux-system"}}
LAYER = {"kind": "Kustomization", "metadata": {"name": "face-services", "namespace": "flux-system"}}


class Running:
    """The cluster of the current context, "trial"."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl

    def has(self, *documents: dict[str, Any]) -> None:
        api_server.apply(self.kubectl, [{"apiVersion": "v1", **one} for one in documents])

    def has_secret(self, name: str, values: dict[str, str]) -> None:
        metadata = {"name": name, "namespace": "face"}
        self.has({"kind": "Secret", "metadata": metadata, "stringData": values})

    def follows(self, cluster: str) -> None:
        self.has(FACTS | {DATA: {"cluster": cluster}})

    def has_applied(self, stamp: str) -> int:
        """Have the last layer changed to a stamp, and return the generation that it then is."""
        spec = {
            "interval": "1h",
            "path": "./overlays/kind/services",
            "prune": True,
            "sourceRef": {"kind": "GitRepository", "name": "facestack"},
            "postBuild": {"substitute": {"credentials": stamp}},
        }
        version = "kustomize.toolkit.fluxcd.io/v1"
        self.has({**LAYER, "apiVersion": version, "spec": spec})
        where = ("kustomization", "face-services", "--namespace=flux-system")
        return int(self.kubectl.get("get", *where, "--output=jsonpath={.metadata.generation}"))

    def is_ready(self, generation: int, status: str) -> None:
        ready = {
            "type": "Ready",
            "status": status,
            "observedGeneration": generation,
            "reason": "ReconciliationSucceeded",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        status_of = {"observedGeneration": generation, "conditions": [ready]}
        api_server.note(self.kubectl, "kustomization", "face-services", **status_of)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with api_server.running(tmp_path_factory.mktemp("cluster")) as kubectl:
        crds = (ROOT / "flux/controllers/kustomize-controller/crds.yaml").read_text()
        running = Running(kubectl)
        names = [{"kind": "Namespace", "metadata": {"name": n}} for n in ("face", "flux-system")]
        running.has(*names, *filter(None, yaml.safe_load_all(crds)))
        kubectl.get("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield running


@pytest.fixture
def running(server: Running) -> Running:
    """A cluster with nothing of ours."""
    server.kubectl.get("delete", "secrets", "--all", "--namespace=face")
    server.kubectl.get("delete", "configmaps,kustomizations", "--all", "--namespace=flux-system")
    return server


def test_the_passwords_of_a_running_cluster_are_taken_over(site: Site, running: Running) -> None:
    for name, values in RUNS.items():
        running.has_secret(name, values)
    refusal = r"lacks mariadb-admin, .*: CONTEXT=NAME of kubectl takes over.*NEW=1 makes new"
    with pytest.raises(SecretsError, match=refusal):
        site.call()
    assert site.store().texts() == {}
    site.call("--context=trial")
    assert {name: site.values(name) for name in RUNS} == RUNS


def test_what_the_cluster_lacks_is_made_and_it_is_told_who_was_asked(
    site: Site, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    running.follows("kind")
    site.call("--context=trial")
    assert "asked trial: it has none of them" in capsys.readouterr().out
    assert sorted(site.store().texts()) == sorted(RUNS)


def test_one_that_follows_another_folder_or_lacks_a_key_is_refused(
    site: Site, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    running.follows("minikube")
    assert main(["kind", f"--key={site.store().key}", "--context=trial"], site.root) == 1
    said = capsys.readouterr().err
    assert "follows flux/clusters/minikube, not flux/clusters/kind: choose its CONTEXT" in said
    running.follows("kind")
    running.has_secret("object-store", {"access-key-id": "id"})
    with pytest.raises(SecretsError, match="object-store of trial has no secret-access-key"):
        site.call("--context=trial")
    assert site.store().texts() == {}
    site.call("--new=1")
    assert sorted(site.store().texts()) == sorted(RUNS)


def test_a_rotation_is_finished_only_when_the_cluster_has_run_through(
    site: Site, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    site.make()
    running.follows("kind")
    before = running.has_applied(site.store().stamp())
    running.is_ready(before, "True")
    site.call("--rotate=database-receiver,database-redeemer")

    def refused() -> None:
        with pytest.raises(KubectlError, match="condition not met for kustomizations/face-serv"):
            site.call("--finish=1")
        assert "previous-password" in site.values("database-receiver")

    refused()
    after = running.has_applied(site.store().stamp())
    refused()
    running.is_ready(after, "Unknown")
    refused()
    running.is_ready(after, "True")
    running.follows("minikube")
    with pytest.raises(KubectlError, match="follows flux/clusters/minikube, not flux"):
        site.call("--finish=1")
    running.follows("kind")
    site.call("--finish=1")
    assert list(site.values("database-receiver")) == ["password"]
    capsys.readouterr()
    site.call("--finish=1")
    assert "wrote no Secret" in capsys.readouterr().out


# Without a cluster.


def test_a_cluster_that_cannot_be_asked_is_not_one_without_passwords(
    site: Site, no_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kind", f"--key={site.store().key}", "--context=gone"], site.root) == 1
    assert 'secrets: kubectl says: error: context "gone" does not exist' in capsys.readouterr().err
    assert site.store().texts() == {}


def test_new_passwords_need_no_cluster(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise ProgramError(f"{name} is missing")

    monkeypatch.setattr("scripts.programs.binary", missing)
    site.make()
    assert sorted(site.store().texts()) == sorted(wanted(site.store()))


def test_finishing_without_a_cluster_to_ask_is_refused(
    site: Site, capsys: pytest.CaptureFixture[str], no_cluster: None
) -> None:
    site.make()
    site.call("--rotate=database")
    capsys.readouterr()
    assert main(["kind", "--finish=1", f"--key={site.store().key}"], site.root) == 1
    said = capsys.readouterr().err
    assert said.startswith("secrets: kubectl says: ")
    assert "NEW=1 and FINISH=unchecked ask no cluster, and lock out who has other" in said
    assert "previous-password" in site.values("database-receiver")
