"""The encrypted files of one cluster, and what must fit them."""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import yaml

from scripts.manifests.model import NAMESPACE
from scripts.manifests.tools import binary

_LIST: Final = "kustomization.yaml"
_RULES: Final = ".sops.yaml"
_ENCRYPT: Final = ("sops", "encrypt", "--input-type=yaml", "--filename-override")
_EVERYBODY: Final = "everybody"
_FACT: Final = re.compile(r"^(  credentials: *)\S+", re.MULTILINE)
_FOR_PODS: Final = re.compile(rf"^ +namespace: {NAMESPACE}$", re.MULTILINE)

_RULES_HEAD: Final = """\
# Who may read the secrets of a cluster: public keys, with commas between them. After a change run
# `make secrets CLUSTER=name`.
creation_rules:
"""
_RULE: Final = """\
- path_regex: ^flux/clusters/{cluster}/secrets/[^/]+\\.yaml$
  encrypted_regex: ^(data|stringData)$
  # Flux adds labels and the like before it decrypts.
  mac_only_encrypted: true
  age: {recipient}
"""
_LIST_HEAD: Final = """\
# The passwords of this cluster, encrypted: `make secrets` fills it. Without them a Job makes some.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
"""


class SecretsError(Exception):
    """It cannot be done as asked; the message says what to do."""


class Store:
    """``flux/clusters/CLUSTER`` of a repository; ``key`` is the file with the private age key."""

    def __init__(self, root: Path, cluster: str, key: Path) -> None:
        if cluster not in clusters(root):
            raise SecretsError(
                f"there is no flux/clusters/{cluster or 'CLUSTER'}: CLUSTER= is one of"
                f" {', '.join(clusters(root))}; a new one is a copy of such a folder"
            )
        self.root = root
        self.cluster = cluster
        self.key = key
        self.entry = f"flux/clusters/{cluster}"
        self.folder = f"{self.entry}/secrets"
        self.changed = False

    def names(self) -> list[str]:
        """Return the names of the Secrets that are there."""
        files = sorted((self.root / self.folder).glob("*.yaml"))
        return [file.stem for file in files if file.name != _LIST]

    def file(self, name: str) -> str:
        """Return the file of a Secret, from the root of the repository."""
        return f"{self.folder}/{name}.yaml"

    def text(self, name: str) -> str:
        """Return the text of a Secret as git has it, encrypted."""
        return self._there(self.file(name))

    def prepare(self) -> None:
        """See to it that somebody may read, at first the owner of a new key, and nobody else."""
        if self.key.exists() and self.key.stat().st_mode & 0o077:
            raise SecretsError(f"{self.key} may be read by others: chmod 600 {self.key}")
        rule = self.rule() or self._make_rule()
        misread = self._misread(rule)
        self.write({name: self.read(name) for name in misread})
        if misread:
            print(f"encrypted anew, for {_listed(rule)}: {_listed(misread)}")
        if gone := set().union(*misread.values()) - rule:
            print(
                f"{_listed(gone)} can still read every commit before this one: rotate what must be"
                " secret from there on (ROTATE=database,mariadb-admin)"
            )

    def rule(self) -> set[str]:
        """Return whom sops encrypts for, by ``.sops.yaml``; nobody before there are files."""
        said = ""
        try:
            named = _readers(self._run(*_ENCRYPT, self.file("any"), given="{}")) - {_EVERYBODY}
        except SecretsError as error:
            named, said = set(), str(error)
        if self.names() and not named:
            raise SecretsError(
                f"{self.folder} has files, and {_RULES} has no rule for them: if the folder was"
                f" copied, rm -r {self.folder}; if the rule was lost, bring it back (git log -p"
                f" {_RULES}). {said}"
            )
        return named

    def _make_rule(self) -> set[str]:
        if not self.key.exists():
            if self.key.resolve().is_relative_to(self.root.resolve()):
                raise SecretsError(
                    f"{self.key} is in the repository, where a private key must never be: AGE_KEY"
                    " names a file elsewhere"
                )
            self.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._run("age-keygen", "--output", str(self.key))
            print(
                f"made {self.key}: without it nobody can read the passwords, so keep a copy. 'make"
                f" bootstrap CLUSTER={self.cluster}' gives it to the cluster, before you push"
            )
        named = set(self._run("age-keygen", "-y", str(self.key)).split())
        rule = _RULE.format(cluster=self.cluster, recipient=",".join(named))
        before = self._there(_RULES)
        self._put(_RULES, f"{(before or _RULES_HEAD).rstrip()}\n{rule}")
        if self.rule() != named:
            self._put(_RULES, before)
            raise SecretsError(f"{_RULES} has another shape: add to its creation_rules\n{rule}")
        return named

    def _misread(self, rule: set[str]) -> dict[str, set[str]]:
        """Return who can read a Secret, for each where they are not those of the rule."""
        readers = {name: _readers(self.text(name)) for name in self.names()}
        return {name: found for name, found in readers.items() if found != rule}

    def read(self, name: str) -> str:
        """Return the text of a Secret, decrypted."""
        if _readers(self.text(name)) == {_EVERYBODY}:
            return self.text(name)
        try:
            return self._run("sops", "decrypt", self.file(name))
        except SecretsError as error:
            raise SecretsError(
                f"with AGE_KEY={self.key} {error}\nGet the key from who made it, or let them add"
                f" the public key of yours to {_RULES} and run 'make secrets"
                f" CLUSTER={self.cluster}'; AGE_KEY names its file"
            ) from None

    def write(self, texts: Mapping[str, str]) -> None:
        """Encrypt the texts of Secrets for whom ``.sops.yaml`` names, with new data keys.

        One that cannot be encrypted leaves all as they were. What must fit the files follows.
        """
        # Through a pipe: what is not encrypted is never on a disk.
        files = {self.file(name): text for name, text in texts.items()}
        encrypted = {file: self._run(*_ENCRYPT, file, given=text) for file, text in files.items()}
        (self.root / self.folder).mkdir(exist_ok=True)
        for file, text in encrypted.items():
            self._put(file, text)
        for file, text in self._fitting().items():
            self._put(file, text)

    def stamp(self) -> str:
        """Return the stamp over the files that pods depend on; nothing without any."""
        texts = {name: self.text(name) for name in self.names()}
        kept = [f"{name}.yaml\0{text}\0" for name, text in texts.items() if _FOR_PODS.search(text)]
        digest = hashlib.sha256("".join(kept).encode()).hexdigest()
        return f"sha-{digest[:12]}" if kept else ""

    def _fitting(self) -> dict[str, str]:
        """Return what the list of files and the facts must be, by file."""
        resources = "".join(f"\n- {name}.yaml" for name in self.names()) or " []"
        facts, stamp = f"{self.entry}/cluster.yaml", self.stamp()
        text = self._there(facts)
        if stamp:
            text = _FACT.sub(rf"\g<1>{stamp}", text)
        return {f"{self.folder}/{_LIST}": f"{_LIST_HEAD}resources:{resources}\n", facts: text}

    def problems(self) -> list[str]:
        """Return what does not fit together; the private key is not needed."""
        rule = self.rule() if self.names() else set()
        found = [
            f"{self.file(name)} can be read by {_listed(readers)}, not by {_listed(rule)}"
            for name, readers in self._misread(rule).items()
        ]
        for file, text in self._fitting().items():
            if self._there(file) != text:
                found.append(f"{file} does not fit the files in secrets")
        return [f"{problem}: run 'make secrets CLUSTER={self.cluster}'" for problem in found]

    def _there(self, file: str) -> str:
        path = self.root / file
        return path.read_text() if path.is_file() else ""

    def _put(self, file: str, text: str) -> None:
        """Write a file at once or not at all, and only if it changes."""
        if self._there(file) != text:
            path = self.root / file
            new = path.with_name(f".{path.name}.new")
            new.write_text(text)
            new.replace(path)
            self.changed = True

    def _run(self, name: str, *arguments: str, given: str = "") -> str:
        # Whoever uses SOPS elsewhere has keys and recipients of its own in the environment.
        inherited = {key: one for key, one in os.environ.items() if not key.startswith("SOPS_")}
        done = subprocess.run(
            [binary(name, "make servers"), *arguments],
            cwd=self.root,
            input=given,
            env={**inherited, "SOPS_AGE_KEY_FILE": str(self.key)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SecretsError(f"'{' '.join((name, *arguments))}' says: {done.stderr.strip()}")
        return done.stdout


def clusters(root: Path) -> list[str]:
    """Return the clusters that have an entry folder."""
    return sorted(file.parent.name for file in root.glob("flux/clusters/*/cluster.yaml"))


def _readers(text: str) -> set[str]:
    """Return who can read the text of a Secret: everybody where it is not encrypted."""
    document = next(yaml.safe_load_all(text), None) or {}
    age = document.get("sops", {}).get("age") or []
    return {reader["recipient"] for reader in age} or {_EVERYBODY}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
