"""Passwords are made, rotated and encrypted anew, with the real sops and age."""

import base64
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.programs import binary
from scripts.secrets import SecretsError, Store, main
from scripts.tests.secrets.conftest import Site, decoded

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
        document = yaml.safe_load(site.store().texts()[name])
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
    with pytest.raises(SecretsError, match="in the repository"):
        Store(site.root, "minikube", site.root / "flux" / "key").prepare()


def test_a_second_run_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["kind", f"--key={site.keys / 'kind.agekey'}"]
    assert main([*arguments, "--new=1"], site.root) == 0
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
        name = document["metadata"]["name"]
        before = site.values(name)
        (site.root / site.store().file(name)).write_text(yaml.safe_dump(document))
        assert site.values(name) == before


def test_a_rotation_keeps_the_previous_password_until_it_is_finished(site: Site) -> None:
    site.make()
    first, stamp = site.values("database-receiver")["password"], site.store().stamp()
    others = {name: site.store().texts()[name] for name in ALL if name != "database-receiver"}
    site.call("--rotate=database-receiver")
    rotated = site.values("database-receiver")
    assert rotated["previous-password"] == first
    assert rotated["password"] != first
    assert site.store().stamp() != stamp
    assert site.store().problems() == []

    with pytest.raises(SecretsError, match=r"database-receiver is being rotated.*FINISH=1"):
        site.call("--rotate=database-receiver")
    assert site.values("database-receiver") == rotated

    site.call("--finish=unchecked")
    assert site.values("database-receiver") == {"password": rotated["password"]}
    assert {name: site.store().texts()[name] for name in others} == others
    site.call("--rotate=database-receiver")
    assert site.values("database-receiver")["previous-password"] == rotated["password"]


def test_a_group_is_rotated_together_and_a_wrong_name_is_told(site: Site) -> None:
    site.make()
    site.call("--rotate=database,mariadb-admin")
    for name in ALL:
        assert ("previous-password" in site.values(name)) == (
            name.startswith("database-") or name == "mariadb-admin"
        )
    with pytest.raises(
        SecretsError,
        match=r"of kind, mariadb-admin, .* can have two passwords, and not database-reciever",
    ):
        site.call("--rotate=database-reciever")


def test_what_has_one_key_at_a_time_is_not_rotated_but_made_again(site: Site) -> None:
    site.make()
    before = site.values("object-store")
    with pytest.raises(SecretsError, match=r"two passwords, and not object-store: docs/gitops.md"):
        site.call("--rotate=object-store")
    assert site.values("object-store") == before
    (site.root / site.store().file("object-store")).unlink()
    stamp = site.store().stamp()
    site.make()
    assert not set(site.values("object-store").values()) & set(before.values())
    assert site.store().stamp() != stamp


def test_a_rotation_that_is_refused_for_one_changes_no_file(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.make()
    before = site.files()
    capsys.readouterr()
    key = f"--key={site.keys / 'kind.agekey'}"
    assert main(["kind", "--rotate=database-receiver,object-store", key], site.root) == 1
    said = capsys.readouterr()
    assert "two passwords, and not object-store" in said.err
    assert "wrote" not in said.out
    assert site.files() == before

    # One that cannot be read: neither a rotation nor its end gets half way.
    site.call("--rotate=database-receiver,database-redeemer")
    file = site.root / site.store().file("database-redeemer")
    file.write_text(
        file.read_text().replace("mac: ENC[AES256_GCM,data:", "mac: ENC[AES256_GCM,data:A")
    )
    site.store().write({})
    before = site.files()
    for arguments in ("--finish=unchecked", "--rotate=mariadb-admin,database-redeemer"):
        with pytest.raises(SecretsError, match=r"sops decrypt .*database-redeemer.yaml' says:"):
            site.call(arguments)
    assert site.files() == before


@pytest.mark.parametrize("arguments", ["--new=1", "--rotate=database"])
def test_what_cannot_be_encrypted_leaves_all_as_they_were(
    site: Site, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    site.make()
    if arguments == "--new=1":
        (site.root / site.store().file("mariadb-admin")).unlink()
        (site.root / site.store().file("database-redeemer")).unlink()
        site.store().write({})
    before = site.files()
    run = Store._run
    monkeypatch.setattr(
        Store,
        "_run",
        lambda store, name, *arguments, given="": run(
            store, name, *arguments, given="a: [" if "redeemer" in given else given
        ),
    )
    with pytest.raises(SecretsError, match=r"database-redeemer.yaml' says: "):
        site.call(arguments)
    assert site.files() == before


def _data_keys(site: Site) -> set[str]:
    """Return all that is encrypted with the data keys."""
    texts = "".join(site.store().texts()[name] for name in ALL)
    return set(re.findall(r"ENC\[AES256_GCM,[^]]*\]", texts))


def test_a_changed_recipient_gets_files_with_a_new_data_key(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.make()
    before, values = _data_keys(site), {name: site.values(name) for name in ALL}
    stamp = site.store().stamp()
    other = site.keys / "other.agekey"
    subprocess.run([binary("age-keygen"), "-o", other], check=True, capture_output=True)
    second = Store(site.root, "kind", other)
    with pytest.raises(SecretsError, match="identity did not match any of the recipients"):
        second.read("database-receiver")

    rules = site.root / ".sops.yaml"
    [own] = site.store().rule()
    public = subprocess.check_output([binary("age-keygen"), "-y", other], text=True).strip()
    rules.write_text(rules.read_text().replace(own, f"{own},{public}"))
    assert f"administrator-key.yaml can be read by {own}, not by " in site.store().problems()[0]
    site.make()
    assert site.store().problems() == []
    assert not _data_keys(site) & before
    assert site.store().stamp() != stamp
    for name in ALL:
        assert site.values(name) == decoded(second.read(name)) == values[name]

    # And who leaves has nothing of what comes after.
    rules.write_text(rules.read_text().replace(f"{own},", ""))
    capsys.readouterr()
    second.prepare()
    assert f"{own} can still read every commit before this one" in capsys.readouterr().out
    assert decoded(second.read("database-receiver")) == values["database-receiver"]
    with pytest.raises(SecretsError, match="identity did not match any of the recipients"):
        site.values("database-receiver")


def test_what_is_not_encrypted_is_told_and_encrypted(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.make()
    secret = {
        "kind": "Secret",
        "metadata": {"name": "own"},
        "stringData": {"key": "dummy-for-the-test"},
    }
    (site.root / site.store().file("own")).write_text(yaml.safe_dump(secret))
    assert "secrets/own.yaml can be read by everybody, not by age1" in site.store().problems()[0]
    site.make()
    assert "everybody can still read every commit" in capsys.readouterr().out
    assert site.store().problems() == []
    assert yaml.safe_load(site.store().read("own")) == secret


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
    with pytest.raises(SecretsError, match=r"no matching creation rules found"):
        site.store("office").problems()
    assert site.files() == before
    assert not site.store("office").key.exists()

    shutil.rmtree(site.root / "flux/clusters/office/secrets")
    site.make("office")
    assert site.store("office").problems() == []
    for name in ALL:
        assert not set(site.values(name, "office").values()) & set(first[name].values())
        assert site.values(name) == first[name]
    with pytest.raises(SecretsError, match="identity did not match any of the recipients"):
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


def test_a_rule_without_a_key_of_age_is_none(site: Site) -> None:
    site.make()
    rules = site.root / ".sops.yaml"
    rules.write_text(re.sub(r"age: .*", "pgp: ''", rules.read_text()))
    with pytest.raises(SecretsError, match="has no rule for them"):
        site.store().problems()


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
    with pytest.raises(SecretsError, match=r"^.sops.yaml has another shape"):
        site.make()
    assert rules.read_text() == OTHER_SHAPES[shape]
    assert not list(rules.parent.glob(".*.new"))


def test_the_key_is_given_to_the_cluster_by_bootstrap(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.make()
    assert (
        "'make bootstrap CLUSTER=kind' gives it to the cluster, before you push"
        in capsys.readouterr().out
    )


def test_without_the_key_nothing_is_changed_and_it_is_told_which_it_was(site: Site) -> None:
    site.make()
    key = site.store().key
    key.unlink()
    before = site.files()
    site.make()
    for problem in ("no such file", "did not match any of the recipients"):
        with pytest.raises(SecretsError, match=rf"(?s)with AGE_KEY={key} .*{problem}"):
            site.call("--rotate=database")
        if not key.exists():
            subprocess.run([binary("age-keygen"), "-o", key], check=True, capture_output=True)
    assert site.files() == before


def test_aws_has_its_passwords_elsewhere_and_only_those_of_flux_here(site: Site) -> None:
    facts = (site.root / "flux/clusters/aws/cluster.yaml").read_text()
    site.call(cluster="aws")
    assert site.store("aws").texts() == {}
    # As docs/gitops.md says for a Secret of one's own.
    metadata = {"name": "webhook", "namespace": "flux-system"}
    secret = {"kind": "Secret", "metadata": metadata, "stringData": {"token": "dummy-for-the-test"}}
    file = site.store("aws").file("webhook")
    command = [binary("sops"), "encrypt", "--input-type=yaml", f"--filename-override={file}"]
    with (site.root / file).open("w") as written:
        given = yaml.safe_dump(secret)
        subprocess.run(command, input=given, stdout=written, text=True, check=True, cwd=site.root)
    assert any("kustomization.yaml does not fit" in one for one in site.store("aws").problems())
    site.call(cluster="aws")
    assert site.store("aws").problems() == []
    assert yaml.safe_load(site.store("aws").read("webhook")) == secret
    listed = (site.root / "flux/clusters/aws/secrets/kustomization.yaml").read_text()
    assert "resources:\n- webhook.yaml\n" in listed
    assert (site.root / "flux/clusters/aws/cluster.yaml").read_text() == facts, (
        "no pod depends on it"
    )
    with pytest.raises(SecretsError, match=r"of aws, none can have two .* AWS Secrets Manager"):
        site.call("--rotate=database-receiver", cluster="aws")


_ENTRY = "flux/clusters/kind"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            (f"{_ENTRY}/secrets/kustomization.yaml", "- object-store.yaml\n", ""),
            "kustomization.yaml does not fit the files in secrets: run",
        ),
        (
            (f"{_ENTRY}/cluster.yaml", "credentials: sha-", "credentials: no-"),
            "cluster.yaml does not fit the files in secrets: run",
        ),
        ((".sops.yaml", f"{_ENTRY}/", "flux/clusters/none/"), "no rule for them"),
        (
            (f"{_ENTRY}/secrets/object-store.yaml", "sops:\n", "spos:\n"),
            "can be read by everybody",
        ),
    ],
)
def test_what_does_not_fit_together_is_told(
    site: Site, change: tuple[str, str, str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, old, new = change
    site.make()
    assert main(["--check"], site.root) == 0
    file = site.root / path
    changed = file.read_text().replace(old, new)
    assert changed != file.read_text()
    file.write_text(changed)
    assert main(["--check"], site.root) == 1
    assert problem in capsys.readouterr().err


def test_an_unknown_cluster_is_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["knid"], site.root) == 1
    said = capsys.readouterr().err
    assert "no flux/clusters/knid: CLUSTER= is one of aws, kind, minikube;" in said


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
