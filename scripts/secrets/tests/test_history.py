"""A secret that anybody can read is found wherever it is in the history."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any, Final

import pytest
import yaml

from scripts.secrets import history
from scripts.secrets.errors import SecretsError
from scripts.secrets.tests.conftest import ROOT, Site
from services.testing.servers import find_binary

READABLE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "database"},
    "stringData": {"password": "hunter2"},
}
ENCRYPTED = {**READABLE, "stringData": {"password": "ENC[AES256_GCM,data:a,iv:b,tag:c,type:str]"}}
AGE_KEY = "AGE-SECRET-KEY-1" + "Q" * 58
TEXT = yaml.safe_dump(READABLE)
PATCH = {"kind": "Kustomization", "patches": [{"patch": TEXT}]}
LITERAL = {"secretGenerator": [{"name": "database", "literals": ["password=hunter2"]}]}
WITHOUT_KIND = {key: value for key, value in READABLE.items() if key != "kind"}
TAB = "\t"
TARGET = {"kind": "Secret", "name": "database"}


def generator(**named: Any) -> str:
    return yaml.safe_dump({"secretGenerator": [{"name": "database", **named}]})


def patch(patch: Any, **target: str) -> str:
    patches = [{"target": {**TARGET, **target}, "patch": patch}]
    return yaml.safe_dump({"kind": "Kustomization", "patches": patches})


def change(path: str, value: Any) -> str:
    return yaml.safe_dump([{"op": "add", "path": path, "value": value}])


def password(value: str) -> str:
    """Return a manifest, with a value as it is written."""
    return TEXT.replace("hunter2", value)


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
        (
            "a_yaml",
            yaml.safe_dump({"kind": "SecretList", "items": [WITHOUT_KIND]}),
            "Secret database has stringData.password",
        ),
        ("a_yaml", patch(change("/data/password", "hunter2")), "Secret database has data.password"),
        ("a_yaml", patch(change("/stringData", {"a": "hunter2"})), "Secret database has stringDa"),
        ("a_yaml", patch(change("/data/a", "hunter2"), kind="ConfigMap|Secret"), "has data.a that"),
        ("a_yaml", patch(yaml.safe_load(change("/data/a", "hunter2"))), "data.a"),
        ("a_yaml", patch(yaml.safe_dump(WITHOUT_KIND)), "has stringData.password"),
        ("a_yaml", generator(files=["a=b.txt"]), "database has what a=b.txt names as it is"),
        ("a_yaml", generator(envs=["b.env"]), "database has what b.env names as it is"),
        ("a_yaml", generator(env="b.env"), "database has what b.env names as it is"),
        ("a_yaml", password("2024-99-99"), "has stringData.password"),
        ("a_yaml", "secretGenerator: [foo]\n---\n" + TEXT, "has stringData.password"),
        ("a_yaml", password("pre-$X"), "has stringData.password"),
        ("a_sh", f"kubectl apply -f- <<EOF\n{TEXT}EOF\nx=1\n", "has stringData.password"),
        ("a_sh", f"f() {{\n\tx <<-EOF\n{indent(TEXT, TAB)}\tEOF\n}}\n", "has stringData.password"),
        ("a_sh", f"x <<EOF\n{json.dumps(READABLE, indent=2)}\nEOF\n", "has stringData.password"),
        ("a_py", f'TEXT = """{TEXT}"""\nx = {{}}\n', "has stringData.password"),
        (
            "a_py",
            f"def f():\n    return QQQ\n{indent(TEXT, '    ')}QQQ\n".replace("QQQ", "'" * 3),
            "has stringData.password",
        ),
        ("a_py", f"TEXT = {TEXT!r}\n", "has stringData.password"),
        ("notes_md", f"Do this:\n~~~yaml\n{TEXT}~~~\n", "has stringData.password"),
        (
            "notes_md",
            f"Note: do this\n\n{indent(TEXT, '    ')}\nDone.\n",
            "has stringData.password",
        ),
        ("notes_md", f"1. x:\n   ```\n{indent(TEXT, '   ')}   ```\n", "has stringData.password"),
        ("a_yaml_tmpl", "a: {{ b }\nx\n" + TEXT + "more: {{ c }}\n", "has stringData.password"),
        (
            "a_txt",
            f"x\nitems:\n{indent(TEXT, '  ').replace(' ', '-', 1)}- kind: ConfigMap\n",
            "has stringData.password",
        ),
        (
            "a_yaml",
            yaml.safe_dump({"run": f"apply <<EOF\n{TEXT}EOF\nx {{\n"}),
            "has stringData.password",
        ),
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


SSH: Final = ("ssh-keygen", "-q", "-N", "", "-f")
KEYS = {
    "ed25519": (*SSH, "key", "-t", "ed25519", "-C", ""),
    "ssh-rsa": (*SSH, "key", "-t", "rsa", "-b", "2048"),
    "rsa": ("openssl", "genpkey", "-quiet", "-algorithm", "RSA", "-out", "key"),
    "pkcs1": ("openssl", "genrsa", "-traditional", "-out", "key", "2048"),
    "ec": ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_private_key_is_found_in_every_dress(tmp_path: Path, kind: str) -> None:
    program, *arguments = KEYS[kind]
    command = [find_binary(program), *arguments]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    key = (tmp_path / "key").read_text()
    dresses = {
        "as it is": key,
        "indented": indent(key, "    "),
        "with carriage returns": key.replace("\n", "\r\n"),
        "in JSON": json.dumps({"key": key}),
        "in JSON, with carriage returns": json.dumps({"key": key.replace("\n", "\r\n")}),
    }
    for dress, text in dresses.items():
        assert list(history.problems("a", text.encode())) == ["has a private key"], dress


@pytest.mark.parametrize("name", ["a_yaml", "a_sh", "a_py", "a_yaml_tmpl"])
@pytest.mark.parametrize(
    "value", ["$X", "${X}", "$(cat file)", "'$(cat file)'", "{{ .x }}", "'{{ x }}'", "{x}"]
)
def test_what_is_filled_in_later_is_no_secret(repository: Site, name: str, value: str) -> None:
    repository.commit(**{name: password(value)})
    assert found(repository) == []


@pytest.mark.parametrize(
    "content",
    [
        yaml.safe_dump(ENCRYPTED),
        "secretGenerator: [foo]\n",
        "secretGenerator: {literals: [a=b]}\n",
        "secretGenerator:\n- {literals: a=b, files: c}\n",
        generator(literals=["a=$X", "b="]),
        "kind: Secret\nmetadata: {name: a}\nx: 2024-99-99\ny: !!int z\n",
        patch(change("/data/password", ENCRYPTED["stringData"]["password"])),
        patch(change("/metadata/labels", {"a": "b"})),
        patch(change("/data/a", "b"), kind="SecretStore"),
        patch("a: ["),
        patch(None),
        yaml.safe_dump({"kind": "SecretList", "items": [ENCRYPTED, "foo"]}),
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
