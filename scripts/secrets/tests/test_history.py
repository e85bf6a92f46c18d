"""A secret that anybody can read is found wherever it is in the history."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.secrets import history
from scripts.secrets.errors import SecretsError
from scripts.secrets.tests.conftest import ROOT, Site

READABLE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "database"},
    "stringData": {"password": "hunter2"},
}
ENCRYPTED = {**READABLE, "stringData": {"password": "ENC[AES256_GCM,data:a,iv:b,tag:c,type:str]"}}
AGE_KEY = "AGE-SECRET-KEY-1" + "Q" * 58
SSH_KEY = (
    f"-----BEGIN OPENSSH PRIVATE {'KEY'}-----\n{'b' * 70}\n-----END OPENSSH PRIVATE KEY-----\n"
)
TEXT = yaml.safe_dump(READABLE)
PATCH = {"kind": "Kustomization", "patches": [{"patch": TEXT}]}
LITERAL = {"secretGenerator": [{"name": "database", "literals": ["password=hunter2"]}]}


def found(site: Site) -> list[str]:
    return history.check(site.root)[0]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a_yaml", TEXT, "Secret database has stringData.password that is not encrypted"),
        ("a_yaml", TEXT.replace("stringData", "data"), "has data.password"),
        ("a_yml", f"kind: ConfigMap\n{'-' * 3}\n{TEXT}", "has stringData.password"),
        ("a_yaml", f"a: {{{{ b }}}}: c\n{'-' * 3}\n{TEXT}", "has stringData.password"),
        ("a_yaml", "# SOPS was to encrypt it\n" + TEXT.replace("Secret", '"Secret"'), "password"),
        ("a_json", json.dumps(READABLE), "has stringData.password"),
        ("a_yaml", yaml.safe_dump({"kind": "List", "items": [READABLE]}), "stringData.password"),
        ("a_yaml", yaml.safe_dump(PATCH), "stringData.password"),
        ("kustomization_yaml", yaml.safe_dump(LITERAL), "secretGenerator database has password"),
        ("a_yaml", TEXT + "more: {{ template }\n", "looks like a Secret, and is no YAML"),
        ("a_yaml", TEXT.replace(": ", ": !tag "), "has stringData.password"),
        ("a_yaml", TEXT.replace("stringData:", "stringData: !tag"), "has stringData.password"),
        ("notes_md", f"Do this:\n```\n{TEXT}```\n", "has stringData.password"),
        ("key_txt", f"# created\n{AGE_KEY}\n", "has a private age key"),
        ("key_bin", f"\0\1{AGE_KEY}\0", "has a private age key"),
        ("id", SSH_KEY, "has a private key"),
    ],
)
def test_what_is_readable_is_found_in_the_past(
    repository: Site, name: str, content: str, problem: str
) -> None:
    repository.commit(first="nothing")
    commit = repository.commit(**{f"some__folder__{name}": content})
    path = f"some/folder/{name.replace('_', '.')}"
    repository.git("rm", "-q", path)
    repository.commit(last="nothing")
    (line,) = found(repository)
    assert line.startswith(f"commit {commit[:12]} {path}: ")
    assert problem in line
    assert "change it where it is used (make secrets CLUSTER=... ROTATE=...)" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "content",
    [
        yaml.safe_dump(ENCRYPTED),
        yaml.safe_dump({**READABLE, "stringData": {"password": ""}}),
        TEXT.replace("kind: Secret", "kind: SecretStore"),
        "kind: Role\nrules: [{resources: [secrets], resourceNames: [Secret]}]\n",
        "volumes:\n- secret: {secretName: database}\n",
        "Write kind: Secret and its data: into a file\n",
    ],
)
def test_what_nobody_can_read_is_let_through(repository: Site, content: str) -> None:
    repository.commit(a_yaml=content)
    assert found(repository) == []


def _on_a_branch(site: Site) -> None:
    site.git("switch", "-q", "-c", "side")
    site.commit(a_yaml=TEXT)
    site.git("switch", "-q", "main")


def _on_a_tag(site: Site) -> None:
    site.git("switch", "-q", "--detach")
    site.commit(a_yaml=TEXT)
    site.git("tag", "-a", "v1", "-m", "v1")
    site.git("switch", "-q", "main")


def _in_a_merge(site: Site) -> None:
    site.git("switch", "-q", "-c", "side")
    site.commit(one="1")
    site.git("switch", "-q", "main")
    site.commit(two="2")
    site.git("merge", "-q", "--no-commit", "--no-ff", "side")
    site.commit(a_yaml=TEXT)


def _in_a_detached_head(site: Site) -> None:
    site.git("switch", "-q", "--detach")
    site.commit(a_yaml=TEXT)


def _in_the_very_first(site: Site) -> None:
    site.git("switch", "-q", "--orphan", "other")
    site.commit(a_yaml=TEXT)


def _under_another_name(site: Site) -> None:
    site.commit(a_yaml=TEXT)
    site.git("mv", "a.yaml", "b.yaml")
    site.commit(last="nothing")


@pytest.mark.parametrize(
    "put",
    [
        _on_a_branch,
        _on_a_tag,
        _in_a_merge,
        _in_a_detached_head,
        _in_the_very_first,
        _under_another_name,
    ],
)
def test_wherever_it_is_its_commit_is_named(repository: Site, put: Callable[[Site], None]) -> None:
    repository.commit(first="nothing")
    put(repository)
    (line,) = found(repository)
    log = ("log", "--all", "HEAD", "-m", "--format=%H", "--diff-filter=A", "--", "a.yaml")
    assert line.startswith(f"commit {repository.git(*log).split()[-1][:12]} a.yaml: ")


def test_a_message_can_give_a_key_away(repository: Site) -> None:
    repository.git("commit", "-q", "--allow-empty", "-m", f"with {AGE_KEY}")
    (line,) = found(repository)
    assert line.startswith(f"commit {repository.git('rev-parse', '--short=12', 'HEAD')}: has a ")


def test_what_is_not_committed_yet_is_told_before_it_is(repository: Site) -> None:
    repository.commit(first="nothing")
    (repository.root / ".gitignore").write_text("ignored.yaml\n")
    for name in ("new.yaml", "staged.yaml", "ignored.yaml"):
        (repository.root / name).write_text(TEXT)
    repository.git("add", "staged.yaml")
    lines = found(repository)
    assert [line.partition(":")[0] for line in lines] == ["new.yaml", "staged.yaml"]
    assert "in no commit yet: encrypt it (make secrets CLUSTER=...) or take it away" in lines[0]


def test_a_shallow_clone_says_what_was_looked_at(repository: Site, tmp_path: Path) -> None:
    repository.commit(a_yaml=TEXT)
    repository.git("rm", "-q", "a.yaml")
    repository.commit(last="nothing")
    assert history.check(repository.root)[1] == "looked at 2 commits and the files as they are"
    clone = tmp_path / "clone"
    command = ["git", "clone", "-q", "--depth=1", repository.root.as_uri(), str(clone)]
    subprocess.run(command, check=True)
    lines, looked_at = history.check(clone)
    assert lines == []
    assert looked_at.startswith("looked at 1 commits and the files as they are, not at what came")
    assert "git fetch --unshallow" in looked_at


def test_a_repository_without_a_commit_and_none_at_all(repository: Site, tmp_path: Path) -> None:
    assert found(repository) == []
    assert history.check(tmp_path) == ([], "looked at nothing, for this is no git repository")


def test_a_broken_repository_is_no_good_one(repository: Site) -> None:
    repository.commit(a_yaml=TEXT)
    (repository.root / ".git" / "HEAD").unlink()
    with pytest.raises(SecretsError, match=r"git .* says: fatal: not a git repository"):
        found(repository)


def test_our_own_history_has_none() -> None:
    assert history.check(ROOT)[0] == []


def test_our_own_fixture_is_found_without_its_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_FIXTURES", frozenset())
    lines = history.check(ROOT)[0]
    assert lines
    assert all("/tests/broken/" in line for line in lines)
