"""A secret that anybody can read is found wherever it is in git, and never shown."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any, Final

import pytest
import yaml

from services.testing.servers import find_binary

ROOT: Final = Path(__file__).parents[2]
PASSWORD: Final = "correcthorse"
READABLE: Final[dict[str, Any]] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "database"},
    "stringData": {"password": PASSWORD},  # gitleaks:allow
}
WITHOUT_KIND: Final = {key: value for key, value in READABLE.items() if key != "kind"}
TEXT: Final = yaml.safe_dump(READABLE)
AGE_KEY: Final = (
    "AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" + "QPZRY9X8GF2TVDW0S3JN54KHCE"
)
ENCRYPTED: Final = "ENC[AES256_GCM,data:a,iv:b,tag:c,type:str]"
SOPS: Final = f"""\
apiVersion: v1
kind: Secret
metadata:
    name: database
    namespace: face
type: Opaque
data:
    password: {ENCRYPTED}
sops:
    age:
        - recipient: age1xyz
          enc: |
            -----BEGIN AGE ENCRYPTED FILE-----
    lastmodified: "2026-01-01T00:00:00Z"
    mac: {ENCRYPTED}
    encrypted_regex: ^(data|stringData)$
    mac_only_encrypted: true
    version: 3.13.2
"""


def generator(**named: Any) -> str:
    return yaml.safe_dump({"secretGenerator": [{"name": "database", **named}]})


def patch(text: Any, kind: str = "Secret") -> str:
    patches = [{"target": {"kind": kind, "name": "database"}, "patch": text}]
    return yaml.safe_dump({"kind": "Kustomization", "patches": patches})


def change(path: str, value: Any) -> list[dict[str, Any]]:
    return [{"op": "add", "path": path, "value": value}]


FOUND: Final = {
    "manifest.yaml": TEXT,
    "data.yaml": TEXT.replace("stringData", "data"),
    "second.yml": f"kind: ConfigMap\n{'-' * 3}\n{TEXT}",
    "quoted.yaml": TEXT.replace("Secret", '"Secret"').replace(PASSWORD, f"'{PASSWORD}'"),
    "data-first.yaml": yaml.safe_dump({"data": READABLE["stringData"], "kind": "Secret"}),
    "block.yaml": TEXT.replace(PASSWORD, f"|\n    {PASSWORD}"),
    "tagged.yaml": TEXT.replace(": correct", ": !tag correct").replace("Data:", "Data: !tag"),
    "manifest.json": json.dumps(READABLE),
    "indented.json": json.dumps(READABLE, indent=2, sort_keys=True),
    "list.yaml": yaml.safe_dump({"kind": "List", "items": [READABLE]}),
    "secrets.yaml": yaml.safe_dump({"kind": "SecretList", "items": [WITHOUT_KIND]}),
    "patches.yaml": yaml.safe_dump({"kind": "Kustomization", "patches": [{"patch": TEXT}]}),
    "target.yaml": patch(yaml.safe_dump(WITHOUT_KIND)),
    "json6902.yaml": patch(yaml.safe_dump(change("/data/password", PASSWORD))),
    "json6902-all.yaml": patch(change("/stringData", {"a": PASSWORD}), kind="ConfigMap|Secret"),
    "literals/kustomization.yaml": generator(literals=[f"password={PASSWORD}"]),
    "files/kustomization.yaml": generator(files=["key=b.txt"]),
    "envs/kustomization.yaml": generator(envs=["b.env"]),
    "apply.sh": f"kubectl apply -f- <<-EOF\n{indent(TEXT, chr(9))}\tEOF\n",
    "text.py": f"TEXT = {TEXT!r}\n",
    "notes.md": f"1. Do this:\n   ```yaml\n{indent(TEXT, '   ')}   ```\n",
    "chart.yaml.tmpl": "a: {{ b }}\n" + TEXT + "more: {{ c }}\n",
    "flux/clusters/kind/secrets/database.yaml": SOPS.replace(ENCRYPTED, PASSWORD, 1),
    "key.txt": f"# created\n{AGE_KEY}\n",
    "post-quantum.txt": "AGE-SECRET-KEY-PQ-1" + "Q" * 60,
    "random.ini": "password = 8Zq1vTnW0xKc5rYb7LmD3sHf",  # gitleaks:allow
}
"""Files with something that can be read, by their names."""

KEPT: Final = {
    "flux/clusters/kind/secrets/database.yaml": SOPS,
    "flux/clusters/kind/secrets/kustomization.yaml": "resources: [database.yaml]",
    "empty.yaml": generator(literals=["b="]),
    "store.yaml": TEXT.replace("kind: Secret", "kind: SecretStore"),
    "role.yaml": "kind: Role\nrules: [{resources: [secrets], resourceNames: [Secret]}]\n",
    "volumes.yaml": "volumes:\n- secret: {secretName: database}\n",
    "page.md": "Write kind: Secret and its data: into a file\n",
    "labels.yaml": patch(change("/metadata/labels", {"a": "b"})),
    **{
        f"variable-{number}.sh": TEXT.replace(PASSWORD, value)
        for number, value in enumerate(("$X", "${X}", "$(cat file)", "'$(cat file)'", "'{{ x }}'"))
    },
}
"""Files with nothing that anybody can use."""


class Repository:
    """A repository with what looks for secrets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet", "--initial-branch=main", str(root))
        (root / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "leaks", root / "scripts")
        shutil.copy(ROOT / ".gitleaks.toml", root)
        (root / ".git" / "info" / "exclude").write_text("/scripts/\n/.gitleaks.toml\n")

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        command = ["git", *identity, *arguments]
        done = subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, name: str = "", content: str = "") -> str:
        """Commit a file, or nothing, and return the commit."""
        if name:
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
            self.git("add", name)
        self.git("commit", "--quiet", "--allow-empty", "-m", "a message")
        return self.git("rev-parse", "HEAD")

    def leaks(self, *arguments: str) -> tuple[int, str]:
        """Return the result and all that is said."""
        path = f"{Path(find_binary('gitleaks')).parent}:/usr/bin:/bin"
        done = subprocess.run(
            [self.root / "scripts" / "leaks", *arguments],
            env={"PATH": path, "HOME": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "repository").mkdir()
    return Repository(tmp_path / "repository")


def test_what_can_be_read_is_found_in_the_past(repository: Repository) -> None:
    commits = {name: repository.commit(name, content) for name, content in FOUND.items()}
    repository.git("rm", "-rq", ".")
    repository.commit()
    code, said = repository.leaks()
    assert code == 1
    missing = [
        name
        for name, commit in commits.items()
        if not any(f"{name}\n" in part and commit in part for part in said.split("\n\n"))
    ]
    assert not missing, said
    assert "change it where it is used\n  (make secrets CLUSTER=... ROTATE=...)" in said
    assert PASSWORD not in said
    assert AGE_KEY not in said


def test_what_nobody_can_use_is_let_through(repository: Repository) -> None:
    for name, content in KEPT.items():
        repository.commit(name, content)
    assert repository.leaks() == (0, "")


SSH: Final = ("ssh-keygen", "-q", "-N", "", "-f")
KEYS: Final = {
    "ed25519": (*SSH, "key", "-t", "ed25519", "-C", ""),
    "pkcs1": ("openssl", "genrsa", "-traditional", "-out", "key", "2048"),
    "ec": ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key"),
}


def test_a_private_key_is_found_in_every_dress(repository: Repository) -> None:
    for kind, (program, *arguments) in KEYS.items():
        made = repository.root / "key"
        command = [find_binary(program), *arguments]
        subprocess.run(command, cwd=repository.root, check=True, capture_output=True)
        key = made.read_text()
        made.unlink()
        dresses = (key, indent(key, "    "), key.replace("\n", "\r\n"), json.dumps({"key": key}))
        for number, dress in enumerate(dresses):
            repository.commit(f"{kind}-{number}.txt", dress)
    _, said = repository.leaks()
    assert said.count("private-key\n") == len(KEYS) * 4


def _on_a_branch(repository: Repository) -> None:
    repository.git("switch", "-q", "-c", "side")
    repository.commit("a.yaml", TEXT)
    repository.git("switch", "-q", "main")


def _on_a_tag(repository: Repository) -> None:
    repository.git("switch", "-q", "--detach")
    repository.commit("a.yaml", TEXT)
    repository.git("tag", "-a", "v1", "-m", "v1")
    repository.git("switch", "-q", "main")


def _in_a_merge(repository: Repository) -> None:
    repository.git("switch", "-q", "-c", "side")
    repository.commit("one", "1")
    repository.git("switch", "-q", "main")
    repository.commit("two", "2")
    repository.git("merge", "-q", "--no-commit", "--no-ff", "side")
    repository.commit("a.yaml", TEXT)


def _in_a_detached_head(repository: Repository) -> None:
    repository.git("switch", "-q", "--detach")
    repository.commit("a.yaml", TEXT)


def _in_the_very_first(repository: Repository) -> None:
    repository.git("switch", "-q", "--orphan", "other")
    repository.commit("a.yaml", TEXT)


@pytest.mark.parametrize(
    "put", [_on_a_branch, _on_a_tag, _in_a_merge, _in_a_detached_head, _in_the_very_first]
)
def test_wherever_it_is_its_commit_is_named(
    repository: Repository, put: Callable[[Repository], None]
) -> None:
    repository.commit("first", "nothing")
    put(repository)
    log = ("log", "--all", "HEAD", "-m", "--format=%H", "--diff-filter=A", "--", "a.yaml")
    assert repository.git(*log).split()[-1] in repository.leaks()[1]


def test_a_message_can_give_a_key_away(repository: Repository) -> None:
    repository.git("commit", "-q", "--allow-empty", "-m", f"one\n\nwith {AGE_KEY}")
    commit = repository.git("rev-parse", "--short", "HEAD")
    repository.git("tag", "-a", "v1", "-m", f"one\n\nwith {AGE_KEY}")
    code, said = repository.leaks()
    assert code == 1
    assert f"commit {commit} has a private key in its message\ntag v1 has a private key" in said
    assert AGE_KEY not in said


def test_what_is_staged_is_told_before_it_is_committed(repository: Repository) -> None:
    assert repository.leaks() == (0, "")
    repository.commit("first", "nothing")
    (repository.root / "new.yaml").write_text(TEXT)
    assert repository.leaks("--staged") == (0, "")
    repository.git("add", "new.yaml")
    for arguments in ((), ("--staged",)):
        code, said = repository.leaks(*arguments)
        assert code == 1
        assert "new.yaml" in said
        assert "what is in no commit yet: take it away" in said


def test_a_push_is_looked_at_by_what_it_brings(repository: Repository) -> None:
    repository.commit("a.yaml", TEXT)
    repository.git("update-ref", "refs/remotes/origin/main", "HEAD")
    repository.commit("b.txt", "nothing")
    assert repository.leaks("HEAD", "--not", "--remotes") == (0, "")
    repository.commit("c.yaml", TEXT)
    code, said = repository.leaks("HEAD", "--not", "--remotes")
    assert code == 1
    assert "c.yaml" in said
    assert "a.yaml" not in said


def test_a_shallow_clone_says_what_it_has_not(repository: Repository, tmp_path: Path) -> None:
    repository.commit("a.yaml", TEXT)
    repository.git("rm", "-q", "a.yaml")
    repository.commit("last", "nothing")
    clone = tmp_path / "clone"
    command = ["git", "clone", "-q", "--depth=1", repository.root.as_uri(), str(clone)]
    subprocess.run(command, check=True)
    code, said = Repository(clone).leaks()
    assert code == 0
    assert "git fetch --unshallow" in said


def test_a_broken_repository_is_no_good_one(repository: Repository) -> None:
    repository.commit("a.yaml", TEXT)
    (repository.root / ".git" / "HEAD").unlink()
    code, said = repository.leaks()
    assert code != 0
    assert "not a git repository" in said
