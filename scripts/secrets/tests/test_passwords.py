"""Passwords are made, rotated and encrypted anew, with the real sops and age."""

import base64
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.manifests.tools import MissingToolError, binary
from scripts.secrets.__main__ import main
from scripts.secrets.errors import SecretsError
from scripts.secrets.passwords import Passwords
from scripts.secrets.running import STAMP, Running
from scripts.secrets.store import Secret, Store
from scripts.secrets.tests.conftest import Site

ALL = {
    "mariadb-admin": ["password"],
    "database-receiver": ["password"],
    "database-image-processor": ["password"],
    "database-redeemer": ["password"],
    "database-people": ["password"],
    "database-webhooks": ["password"],
    "database-backup": ["password"],
    "administrator-key": ["password"],
    "frontend-key": ["password"],
    "object-store": ["access-key-id", "secret-access-key"],
}


def test_all_that_the_credentials_job_would_make_is_made_and_encrypted(site: Site) -> None:
    before = (site.root / "flux/clusters/kind/cluster.yaml").read_text()
    site.make()
    values = {name: site.values(name) for name in ALL}
    assert {name: list(keys) for name, keys in values.items()} == ALL
    texts = [text for keys in values.values() for text in keys.values()]
    assert len(set(texts)) == 11
    assert min(map(len, texts)) >= 43
    everything = "".join(site.files().values())
    for text in texts:
        assert text not in everything
        assert base64.b64encode(text.encode()).decode() not in everything
    for name in ALL:
        document = yaml.safe_load(site.store().path(name).read_text())
        assert document["metadata"]["namespace"] == "face"
        assert "app.kubernetes.io/name" not in document["metadata"]["labels"], "a layer's affair"
        assert all(text.startswith("ENC[AES256_GCM,") for text in document["data"].values())
    after = (site.root / "flux/clusters/kind/cluster.yaml").read_text()
    stamp = site.store().stamp()
    assert stamp
    assert after == before.replace("credentials: none", f"credentials: {stamp}")
    assert site.store().problems() == []


def test_the_private_key_is_for_its_owner_only_and_not_in_the_repository(site: Site) -> None:
    site.make()
    key = site.store().key
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    private = key.read_text().split()[-1]
    assert private not in "".join(site.files().values())
    key.chmod(0o644)
    with pytest.raises(SecretsError, match="chmod 600"):
        site.make()
    inside = Passwords(Store(site.root, "minikube", site.root / "flux" / "key"), say=print)
    with pytest.raises(SecretsError, match="in the repository"):
        inside.prepare()


def test_a_second_run_changes_nothing(
    site: Site, capsys: pytest.CaptureFixture[str], no_cluster: None
) -> None:
    arguments = ["kind", f"--key={site.keys / 'kind.agekey'}"]
    assert main(arguments, site.root) == 0
    assert "next: git add .sops.yaml flux/clusters/kind" in capsys.readouterr().out
    before = site.files()
    assert main(arguments, site.root) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert site.files() == before


def test_the_folder_is_what_kustomize_takes(site: Site) -> None:
    site.make()
    (site.root / "kustomization.yaml").write_text(
        "resources: [flux/clusters/kind/secrets]\nlabels: [{pairs: {one: more}}]\n"
    )
    command = [binary("kubectl"), "kustomize", str(site.root)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    documents = list(yaml.safe_load_all(rendered))
    assert {document["metadata"]["name"] for document in documents} == set(ALL)

    # As Flux does: kustomize first, then decryption of each document.
    for document in documents:
        file = site.store().path(document["metadata"]["name"])
        before = site.values(file.stem)
        file.write_text(yaml.safe_dump(document))
        assert site.values(file.stem) == before


def test_a_rotation_keeps_the_previous_password_until_it_is_finished(site: Site) -> None:
    site.make()
    first, stamp = site.values("database-receiver")["password"], site.store().stamp()
    others = {
        name: site.store().path(name).read_text() for name in ALL if name != "database-receiver"
    }
    site.rotate("database-receiver")
    rotated = site.values("database-receiver")
    assert rotated["previous-password"] == first
    assert rotated["password"] != first
    assert site.store().stamp() != stamp
    assert site.store().problems() == []

    with pytest.raises(SecretsError, match=r"database-receiver is being rotated.*FINISH=1"):
        site.rotate("database-receiver")
    assert site.values("database-receiver") == rotated

    site.finish()
    assert site.values("database-receiver") == {"password": rotated["password"]}
    assert {name: site.store().path(name).read_text() for name in others} == others
    site.rotate("database-receiver")
    assert site.values("database-receiver")["previous-password"] == rotated["password"]


def test_a_group_is_rotated_together_and_a_wrong_name_is_told(site: Site) -> None:
    site.make()
    site.rotate("database", "mariadb-admin")
    for name in ALL:
        assert ("previous-password" in site.values(name)) == (
            name.startswith("database-") or name == "mariadb-admin"
        )
    with pytest.raises(SecretsError, match="no Secret database-reciever here, only mariadb-admin"):
        site.rotate("database-reciever")


def test_what_cannot_be_rotated_without_an_outage_is_refused_until_one_is_meant(site: Site) -> None:
    site.make()
    before = site.values("object-store")
    with pytest.raises(SecretsError, match=r"one key at a time.*OUTAGE=1"):
        site.rotate("object-store")
    assert site.values("object-store") == before
    site.rotate("object-store", outage=True)
    assert not set(site.values("object-store").values()) & set(before.values())


def test_a_rotation_that_is_refused_for_one_changes_no_file(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.make()
    before = site.files()
    key = f"--key={site.keys / 'kind.agekey'}"
    assert main(["kind", "--rotate=database-receiver,object-store", key], site.root) == 1
    said = capsys.readouterr()
    assert "kubectl --namespace=face delete pod object-store-0" in said.err
    assert "rotated" not in said.out
    assert site.files() == before

    # One that cannot be read: neither a rotation nor its end gets half way.
    site.rotate("database")
    site.store().path("database-redeemer").write_text("kind: Secret\nsops: {}\n")
    before = site.files()
    with pytest.raises(SecretsError, match=r"database-redeemer.yaml cannot be read with"):
        site.passwords().finish(unchecked=True)
    with pytest.raises(SecretsError, match=r"database-redeemer.yaml cannot be read with"):
        site.passwords().rotate(["mariadb-admin", "database-redeemer"], outage=False)
    assert site.files() == before


def test_what_cannot_be_encrypted_leaves_all_as_they_were(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.make()
    before = site.files()
    manifest = Secret.manifest
    monkeypatch.setattr(
        Secret, "manifest", lambda one: manifest(one) if one.name != "database-redeemer" else "a: ["
    )
    with pytest.raises(SecretsError, match="sops says"):
        site.rotate("database")
    assert site.files() == before


def test_what_was_written_before_a_failure_has_its_stamp(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Secret.manifest
    monkeypatch.setattr(
        Secret, "manifest", lambda one: manifest(one) if one.name != "object-store" else "a: ["
    )
    arguments = ["kind", "--new=1", f"--key={site.keys / 'kind.agekey'}"]
    assert main(arguments, site.root) == 1
    assert "secrets: sops says" in capsys.readouterr().err
    assert len(site.store().files()) == len(ALL) - 1
    assert site.store().problems() == []


def _data_keys(site: Site) -> set[str]:
    """Return all that is encrypted with the data keys."""
    texts = "".join(file.read_text() for file in site.store().files())
    return set(re.findall(r"ENC\[AES256_GCM,[^]]*\]", texts))


def test_a_changed_recipient_gets_files_with_a_new_data_key(site: Site) -> None:
    site.make()
    before, values = _data_keys(site), {name: site.values(name) for name in ALL}
    stamp = site.store().stamp()
    other = site.keys / "other.agekey"
    subprocess.run([binary("age-keygen"), "-o", other], check=True, capture_output=True)
    second = Store(site.root, "kind", other)
    with pytest.raises(SecretsError, match="cannot be read with"):
        second.read("database-receiver")

    rules = site.root / ".sops.yaml"
    own = site.store().own_recipient()
    rules.write_text(rules.read_text().replace(own, f"{own},{second.own_recipient()}"))
    assert "its recipients are not those of .sops.yaml" in site.store().problems()[0]
    site.make()
    assert site.store().problems() == []
    assert not _data_keys(site) & before
    assert site.store().stamp() != stamp
    for name in ALL:
        assert site.values(name) == second.read(name).values == values[name]

    # And who leaves has nothing of what comes after.
    rules.write_text(rules.read_text().replace(f"{own},", ""))
    passwords = Passwords(second, say=site.said.append)
    passwords.prepare()
    passwords.encrypt_anew()
    assert second.read("database-receiver").values == values["database-receiver"]
    with pytest.raises(SecretsError, match="cannot be read with"):
        site.values("database-receiver")
    assert any(f"{own} can still read every commit before this one" in line for line in site.said)


def test_a_copied_folder_gets_passwords_and_a_key_of_its_own(site: Site) -> None:
    site.make()
    first = {name: site.values(name) for name in ALL}
    shutil.copytree(site.root / "flux/clusters/kind", site.root / "flux/clusters/office")
    facts = site.root / "flux/clusters/office/cluster.yaml"
    facts.write_text(facts.read_text().replace("cluster: kind", "cluster: office"))
    before = site.files()
    advice = (
        "flux/clusters/office/secrets has files, and .sops.yaml has no rule for them: if the folder"
        " was copied, rm -r flux/clusters/office/secrets; if the rule was lost, bring it back"
        " (git log -p .sops.yaml)"
    )
    with pytest.raises(SecretsError, match=re.escape(advice)):
        site.make("office")
    assert site.store("office").problems() == [advice]
    assert site.files() == before
    assert not site.store("office").key.exists()

    shutil.rmtree(site.root / "flux/clusters/office/secrets")
    site.make("office")
    assert site.store("office").problems() == []
    for name in ALL:
        assert not set(site.values(name, "office").values()) & set(first[name].values())
        assert site.values(name) == first[name]
    with pytest.raises(SecretsError, match="cannot be read with"):
        Store(site.root, "kind", site.keys / "office.agekey").read("database-receiver")


@pytest.mark.parametrize("key", ["here", "with somebody else"])
def test_a_lost_rule_costs_no_password(site: Site, key: str) -> None:
    site.make()
    if key != "here":
        site.store().key.unlink()
    rules = site.root / ".sops.yaml"
    before, text = site.files(), rules.read_text()
    rules.unlink()
    with pytest.raises(SecretsError, match="if the rule was lost, bring it back"):
        site.make()
    rules.write_text(text)
    assert site.files() == before


OTHER_SHAPES = {
    "indented": "creation_rules:\n  - path_regex: ^other/\n    age: age1\n",
    "something behind": "creation_rules:\n- age: age1\n  path_regex: ^other/\nstores: {}\n",
    "no rules": "stores: {}\n",
    "a list": "- path_regex: ^other/\n",
    "no mappings": "creation_rules: [one]\n",
    "no YAML": "creation_rules: {\n",
    "no expression": "creation_rules:\n- path_regex: (\n",
}


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_rules_of_another_shape_stay_as_they_are(site: Site, shape: str) -> None:
    rules = site.root / ".sops.yaml"
    rules.write_text(OTHER_SHAPES[shape])
    with pytest.raises(
        SecretsError, match=r"^.sops.yaml (has another shape|is not what sops takes)"
    ):
        site.make()
    assert rules.read_text() == OTHER_SHAPES[shape]
    assert not list(rules.parent.glob(".sops.yaml.*"))
    assert not list(rules.parent.glob(".*.new"))


def test_the_key_is_given_to_the_cluster_by_bootstrap(site: Site) -> None:
    site.make()
    assert (
        "'make bootstrap CLUSTER=kind' gives it to the cluster; to one that follows git already,"
        " before you push." in site.said[0]
    )


def test_without_the_key_nothing_is_changed_and_it_is_told_where_to_get_it(site: Site) -> None:
    site.make()
    site.store().key.unlink()
    before = site.files()
    with pytest.raises(SecretsError, match=r"there is no .*kind.agekey: get it from who made it"):
        site.make()
    subprocess.run([binary("age-keygen"), "-o", site.store().key], check=True, capture_output=True)
    with pytest.raises(SecretsError, match=r"is the key of age1.*, and .sops.yaml has age1"):
        site.make()
    assert site.files() == before


def test_aws_has_its_passwords_elsewhere_and_only_those_of_flux_here(site: Site) -> None:
    entry = site.root / "flux/clusters/aws/kustomization.yaml"
    listed = yaml.safe_load(entry.read_text())["resources"]
    if "../../../apps/notifications" not in listed:
        entry.write_text(
            entry.read_text().replace("resources:\n", "resources:\n- ../../../apps/notifications\n")
        )
    facts = (site.root / "flux/clusters/aws/cluster.yaml").read_text()
    site.make("aws")
    assert [file.name for file in site.store("aws").files()] == ["webhook.yaml"]
    assert site.store("aws").problems() == []
    assert list(site.values("webhook", "aws")) == ["token"]
    assert site.store("aws").read("webhook").namespace == "flux-system"
    assert (site.root / "flux/clusters/aws/cluster.yaml").read_text() == facts, (
        "no pod depends on it"
    )
    assert any("ALERTS=https://..." in line for line in site.said)
    passwords = Passwords(
        site.store("aws"), say=site.said.append, alerts={"address": "https://a/b"}
    )
    passwords.make(new=True)
    assert site.values("alerts", "aws") == {"address": "https://a/b"}
    with pytest.raises(
        SecretsError, match="only webhook; its passwords are in AWS Secrets Manager"
    ):
        passwords.rotate(["database-receiver"], outage=False)


@pytest.mark.parametrize(
    ("path", "old", "new", "problem"),
    [
        (
            "flux/clusters/kind/secrets/kustomization.yaml",
            "- object-store.yaml\n",
            "",
            "does not list",
        ),
        (
            "flux/clusters/kind/cluster.yaml",
            "credentials: sha-",
            "credentials: no-",
            "pods would not roll",
        ),
        (".sops.yaml", "flux/clusters/kind/", "flux/clusters/none/", "no rule for them"),
        ("flux/clusters/kind/secrets/object-store.yaml", "sops:\n", "spos:\n", "is not encrypted"),
    ],
)
def test_what_does_not_fit_together_is_told(
    site: Site, path: str, old: str, new: str, problem: str
) -> None:
    site.make()
    file = site.root / path
    changed = file.read_text().replace(old, new)
    assert changed != file.read_text()
    file.write_text(changed)
    assert any(problem in found for found in site.store().problems())


def test_an_unknown_cluster_is_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["knid"], site.root) == 1
    said = capsys.readouterr().err
    assert "no flux/clusters/knid/cluster.yaml: CLUSTER= is one of aws, kind, minikube" in said


# A running cluster.


class Answers(Running):
    """A cluster that answers from a table instead of through kubectl."""

    def __init__(self, secrets: dict[str, dict[str, str]] | None = None, follows: str = "") -> None:
        super().__init__("somewhere")
        self.secrets = secrets or {}
        self.follows = follows
        self.stamps: dict[str, str] = {}
        self.migrated = ""
        self.ready = 2

    def _get(self, kind: str, name: str, namespace: str) -> dict[str, object] | None:
        if kind == "configmap":
            return {"data": {"cluster": self.follows}} if self.follows else None
        if name not in self.secrets:
            return None
        values = self.secrets[name].items()
        return {"data": {key: base64.b64encode(one.encode()).decode() for key, one in values}}

    def _items(self, *what: str) -> list[dict[str, object]]:
        if what[0] == "jobs":
            return [
                {
                    "spec": {"template": {"metadata": {"annotations": {STAMP: self.migrated}}}},
                    "status": {"succeeded": 1},
                }
            ]
        return [
            {
                "metadata": {"name": name, "generation": 1},
                "spec": {
                    "replicas": 2,
                    "template": {
                        "metadata": {"annotations": {STAMP: stamp}},
                        "spec": {
                            "volumes": [
                                {"secret": {"secretName": f"tls-{name}"}},
                                {
                                    "projected": {
                                        "sources": [{"secret": {"name": f"database-{name}"}}]
                                    }
                                },
                            ]
                        },
                    },
                },
                "status": {
                    "observedGeneration": 1,
                    "replicas": 2,
                    "updatedReplicas": 2,
                    "availableReplicas": self.ready,
                },
            }
            for name, stamp in self.stamps.items()
        ]


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


def test_the_passwords_of_a_running_cluster_are_taken_over(site: Site) -> None:
    passwords = site.passwords()
    passwords.running = Answers(RUNS)
    passwords.prepare()
    passwords.make(new=False)
    assert {name: site.values(name) for name in RUNS} == RUNS


def test_one_that_follows_another_folder_or_lacks_a_key_is_refused(site: Site) -> None:
    passwords = site.passwords()
    passwords.prepare()
    passwords.running = Answers(RUNS, follows="minikube")
    with pytest.raises(SecretsError, match="follows flux/clusters/minikube"):
        passwords.make(new=False)
    passwords.running = Answers({**RUNS, "object-store": {"access-key-id": "id"}}, follows="kind")
    with pytest.raises(SecretsError, match="object-store of somewhere has no secret-access-key"):
        passwords.make(new=False)


def test_no_new_passwords_are_made_for_a_database_that_has_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.secrets.passwords.Running", lambda: Answers(RUNS))
    passwords = site.passwords()
    passwords.prepare()
    with pytest.raises(SecretsError, match=r"CONTEXT=somewhere takes them over.*NEW=1 makes new"):
        passwords.make(new=False)
    assert site.store().files() == []
    passwords.make(new=True)
    assert len(site.store().files()) == len(ALL)


class Down(Answers):
    """A cluster whose API answers nothing."""

    def _get(self, kind: str, name: str, namespace: str) -> dict[str, object] | None:
        raise SecretsError("kubectl says: connection refused")


@pytest.mark.parametrize(
    ("current", "problem"),
    [
        (Down(), "kubectl says: connection refused"),
        (
            Answers(follows="minikube"),
            "context somewhere is the cluster that follows flux/clusters/minikube",
        ),
    ],
)
def test_none_are_made_before_the_current_context_tells_that_it_has_none(
    site: Site, monkeypatch: pytest.MonkeyPatch, current: Answers, problem: str
) -> None:
    monkeypatch.setattr("scripts.secrets.passwords.Running", lambda: current)
    passwords = site.passwords()
    passwords.prepare()
    with pytest.raises(SecretsError) as raised:
        passwords.make(new=False)
    assert str(raised.value) == (
        f"asked your current context somewhere whether kind has passwords already: {problem}."
        " CONTEXT=NAME names the cluster; NEW=1 makes new ones, which would lock everybody out of"
        " a database that has others."
    )
    assert site.store().files() == []


def test_it_is_told_which_context_has_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.secrets.passwords.Running", lambda: Answers(follows="kind"))
    passwords = site.passwords()
    passwords.prepare()
    passwords.make(new=False)
    assert "asked your current context somewhere: it has none of them" in site.said
    assert len(site.store().files()) == len(ALL)


def test_a_kubectl_that_cannot_be_asked_is_not_one_without_a_cluster(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passwords = site.passwords()
    passwords.prepare()
    config = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(config))
    for text, problem in (
        ("kind: [", "asked kubectl whether kind has passwords already: kubectl says: "),
        ("{apiVersion: v1, kind: Config, current-context: gone}", "context gone whether kind has"),
    ):
        config.write_text(text)
        with pytest.raises(SecretsError, match=problem):
            passwords.make(new=False)
    assert site.store().files() == []


@pytest.mark.parametrize("kubectl", ["without a context", "not installed"])
def test_without_a_context_there_is_no_cluster(
    site: Site, monkeypatch: pytest.MonkeyPatch, no_cluster: None, kubectl: str
) -> None:
    def missing(name: str) -> str:
        raise MissingToolError(f"{name} is missing")

    if kubectl == "not installed":
        monkeypatch.setattr("scripts.kubectl.binary", missing)
    passwords = site.passwords()
    passwords.prepare()
    passwords.make(new=False)
    assert len(site.store().files()) == len(ALL)


def test_a_rotation_is_finished_only_when_the_cluster_has_run_through(site: Site) -> None:
    site.make()
    site.rotate("database-receiver", "database-redeemer")
    stamp = site.store().stamp() or ""
    running = Answers(follows="kind")
    running.stamps = {"receiver": stamp, "redeemer": "sha-before", "frontend": "sha-before"}
    passwords = site.passwords()
    passwords.running = running
    with pytest.raises(SecretsError, match=r"migrations have not run.*redeemer has not got them"):
        passwords.finish(unchecked=False)
    running.migrated = running.stamps["redeemer"] = stamp
    running.ready = 1
    with pytest.raises(SecretsError, match="receiver is still rolling"):
        passwords.finish(unchecked=False)
    running.ready = 2
    passwords.finish(unchecked=False)
    assert list(site.values("database-receiver")) == ["password"]
    passwords.finish(unchecked=False)
    assert site.said[-1] == "no password is being rotated"


def test_finishing_without_a_cluster_to_ask_is_refused(
    site: Site, capsys: pytest.CaptureFixture[str], no_cluster: None
) -> None:
    site.make()
    site.rotate("database")
    assert main(["kind", "--finish=1", f"--key={site.keys / 'kind.agekey'}"], site.root) == 1
    said = capsys.readouterr().err
    assert "FINISH=1 asks kind" in said
    assert "current-context is not set" in said
    assert "FINISH=unchecked asks nobody" in said
    assert "previous-password" in site.values("database-receiver")


def test_two_things_at_a_time_are_refused(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.make()
    key = f"--key={site.keys / 'kind.agekey'}"
    assert main(["kind", "--finish=1", "--rotate=database", key], site.root) == 1
    assert "one thing at a time" in capsys.readouterr().err


def test_keys_of_the_environment_do_not_count(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere"
    subprocess.run([binary("age-keygen"), "-o", other], check=True, capture_output=True)
    public = subprocess.run(
        [binary("age-keygen"), "-y", other], check=True, capture_output=True, text=True
    ).stdout.strip()
    monkeypatch.setenv("SOPS_AGE_RECIPIENTS", public)
    site.make()
    assert site.store().problems() == []
