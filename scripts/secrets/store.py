"""The encrypted files of one cluster, and all that must fit them."""

import base64
import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from scripts.manifests.tools import binary
from scripts.secrets.errors import SecretsError

NAMESPACE: Final = "face"
INSTALL: Final = "make servers"
"""What brings sops and age."""

_CLUSTERS: Final = "flux/clusters"
_LIST: Final = "kustomization.yaml"
_RULES: Final = ".sops.yaml"
_FACT: Final = re.compile(r"^(  credentials: *)\S+", re.MULTILINE)
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

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


@dataclass(frozen=True)
class Secret:
    """One Secret; the values are text."""

    name: str
    namespace: str
    values: Mapping[str, str] = field(repr=False)

    def manifest(self) -> str:
        """Return it as Kubernetes takes it, not encrypted."""
        metadata: dict[str, Any] = {
            "name": self.name,
            "namespace": self.namespace,
            "labels": {"app.kubernetes.io/part-of": "facestack"},
        }
        if self.namespace == NAMESPACE:
            # What opens a volume that stays must stay, too.
            metadata["annotations"] = {"kustomize.toolkit.fluxcd.io/prune": "disabled"}
        # Not stringData: there Flux would take a ${...} for a fact of the cluster.
        data = {key: base64.b64encode(text.encode()).decode() for key, text in self.values.items()}
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": metadata,
                "type": "Opaque",
                "data": data,
            },
            sort_keys=False,
        )


class Store:
    """``flux/clusters/CLUSTER`` of a repository; ``key`` is the file with the private age key."""

    def __init__(self, root: Path, cluster: str, key: Path) -> None:
        self.root = root
        self.cluster = cluster
        self.key = key
        self.folder = root / _CLUSTERS / cluster / "secrets"
        self._facts = self.folder.parent / "cluster.yaml"
        if not _NAME.fullmatch(cluster) or not self._facts.is_file():
            problem = (
                f"there is no {_CLUSTERS}/{cluster}/cluster.yaml" if cluster else "which cluster?"
            )
            raise SecretsError(
                f"{problem}: CLUSTER= is one of {', '.join(clusters(root)) or 'none'}; a new one is"
                " a copy of such a folder"
            )

    def facts(self) -> dict[str, str]:
        """Return the facts of the cluster."""
        document = yaml.safe_load(self._facts.read_text())
        return {name: str(fact) for name, fact in document["data"].items()}

    def entry(self) -> list[str]:
        """Return what the entry folder lists."""
        text = (self._facts.parent / _LIST).read_text()
        listed: list[str] = yaml.safe_load(text).get("resources") or []
        return listed

    def files(self) -> list[Path]:
        """Return the files with secrets."""
        found = sorted(self.folder.glob("*.yaml"))
        return [file for file in found if file.name != _LIST]

    def path(self, name: str) -> Path:
        """Return the file of a Secret."""
        return self.folder / f"{name}.yaml"

    def relative(self, path: Path) -> str:
        """Return a path as it is written in git."""
        return path.relative_to(self.root).as_posix()

    # Keys and recipients.

    def make_key(self) -> None:
        """Make the private key."""
        if self.key.resolve().is_relative_to(self.root.resolve()):
            raise SecretsError(
                f"{self.key} is in the repository, where a private key must never be: AGE_KEY names"
                " a file elsewhere"
            )
        self.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _run("age-keygen", "--output", str(self.key))
        self.key.chmod(0o600)

    def own_recipient(self) -> str:
        """Return the public key that belongs to the private one."""
        if self.key.stat().st_mode & 0o077:
            raise SecretsError(f"{self.key} may be read by others: chmod 600 {self.key}")
        return _run("age-keygen", "-y", str(self.key)).strip().splitlines()[-1]

    def rule(self) -> set[str] | None:
        """Return whom ``.sops.yaml`` names for this cluster; None without a rule for it."""
        file = self.root / _RULES
        return self._named(file.read_text()) if file.is_file() else None

    def _named(self, rules: str) -> set[str] | None:
        """Return whom such rules name for this cluster."""
        try:
            for rule in (yaml.safe_load(rules) or {}).get("creation_rules") or []:
                if re.search(rule.get("path_regex", ""), self.relative(self.path("any"))):
                    age = rule.get("age") or ""
                    names = age.split(",") if isinstance(age, str) else age
                    return {str(name).strip() for name in names if str(name).strip()}
        except (yaml.YAMLError, re.error, AttributeError, TypeError) as error:
            raise SecretsError(
                f"{_RULES} is not what sops takes ({error}): mend it, or take back what changed it"
                f" (git log -p {_RULES})"
            ) from None
        return None

    def add_rule(self, recipient: str) -> None:
        """Name the first who may read."""
        file = self.root / _RULES
        text = file.read_text() if file.is_file() else _RULES_HEAD
        rule = _RULE.format(cluster=self.cluster, recipient=recipient)
        new = f"{text.rstrip()}\n{rule}"
        try:
            fits = self._named(new) == {recipient}
        except SecretsError:
            fits = False
        if not fits:
            raise SecretsError(f"{_RULES} has another shape: add to its creation_rules\n{rule}")
        _replace(file, new)

    def without_rule(self) -> str | None:
        """Return what to do when there are files, and no rule says who may read them."""
        if not self.files() or self.rule() is not None:
            return None
        folder = self.relative(self.folder)
        return (
            f"{folder} has files, and {_RULES} has no rule for them: if the folder was copied,"
            f" rm -r {folder}; if the rule was lost, bring it back (git log -p {_RULES})"
        )

    def recipients(self, file: Path) -> set[str]:
        """Return who can read a file; the error of one that is not encrypted says what to do."""
        text = file.read_text()
        found: set[str] = set()
        for document in yaml.safe_load_all(text):
            if not isinstance(document, dict) or "sops" not in document:
                path = self.relative(file)
                raise SecretsError(
                    f"{path} is not encrypted: run '.tools/bin/sops encrypt --in-place {path}', and"
                    " if it was committed anywhere change what it says"
                )
            found |= {str(reader["recipient"]) for reader in document["sops"].get("age") or []}
        return found

    # The files themselves.

    def write(self, secrets: Iterable[Secret]) -> None:
        """Encrypt Secrets for everybody whom ``.sops.yaml`` names, with new data keys.

        One that cannot be encrypted leaves all as they were.
        """
        self._encrypt({self.path(secret.name): secret.manifest() for secret in secrets})

    def read(self, name: str) -> Secret:
        """Decrypt a Secret."""
        document = yaml.safe_load(self._decrypt(self.path(name)))
        data = document.get("data") or {}
        return Secret(
            document["metadata"]["name"],
            document["metadata"]["namespace"],
            {key: base64.b64decode(text).decode() for key, text in data.items()},
        )

    def encrypt_anew(self, file: Path) -> None:
        """Encrypt a file with a new data key, for whom ``.sops.yaml`` names now."""
        self._encrypt({file: self._decrypt(file)})

    def _encrypt(self, texts: Mapping[Path, str]) -> None:
        # Through a pipe: what is not encrypted is never on a disk.
        encrypted = {
            file: _run(
                "sops",
                *("--config", str(self.root / _RULES)),
                *("encrypt", "--input-type", "yaml", "--filename-override", self.relative(file)),
                cwd=self.root,
                text=text,
            )
            for file, text in texts.items()
        }
        self.folder.mkdir(exist_ok=True)
        for file, text in encrypted.items():
            _replace(file, text)

    def _decrypt(self, file: Path) -> str:
        environment = {"SOPS_AGE_KEY_FILE": str(self.key)}
        try:
            return _run("sops", "decrypt", str(file), cwd=self.root, environment=environment)
        except SecretsError as error:
            raise SecretsError(
                f"{self.relative(file)} cannot be read with {self.key}: {error}"
            ) from None

    # What follows from the files.

    def stamp(self) -> str | None:
        """Return the stamp over the files that services depend on; None without any."""
        total = hashlib.sha256()
        found = False
        for file in self.files():
            document = next(iter(yaml.safe_load_all(file.read_text())), None) or {}
            if (document.get("metadata") or {}).get("namespace") == NAMESPACE:
                found = True
                total.update(f"{file.name}\0{file.read_text()}\0".encode())
        return f"sha-{total.hexdigest()[:12]}" if found else None

    def settle(self) -> None:
        """Write the list of files, and the stamp into the facts."""
        resources = "".join(f"\n- {file.name}" for file in self.files()) or " []"
        self.folder.mkdir(exist_ok=True)
        _replace(self.folder / _LIST, f"{_LIST_HEAD}resources:{resources}\n")
        if stamp := self.stamp():
            text, number = _FACT.subn(rf"\g<1>{stamp}", self._facts.read_text())
            if number != 1:
                raise SecretsError(
                    f"{self.relative(self._facts)} must have one line '  credentials: none'"
                )
            _replace(self._facts, text)

    def problems(self) -> list[str]:
        """Return what does not fit together; the private key is not needed."""
        found = []
        rule = self.rule()
        advice = f"run 'make secrets CLUSTER={self.cluster}'"
        for file in self.files():
            path = self.relative(file)
            try:
                readers = self.recipients(file)
            except SecretsError as error:
                found.append(str(error))
                continue
            if rule is not None and readers != rule:
                others = ", ".join(sorted(readers ^ rule))
                found.append(
                    f"{path}: its recipients are not those of {_RULES} ({others}): {advice}"
                )
        if lost := self.without_rule():
            found.append(lost)
        if found:
            return found
        listing = self.folder / _LIST
        listed = yaml.safe_load(listing.read_text())["resources"] if listing.is_file() else None
        if listed != [file.name for file in self.files()]:
            found.append(f"{self.relative(listing)} does not list what is there: {advice}")
        stamp = self.stamp()
        if stamp and self.facts().get("credentials") != stamp:
            is_now = self.facts().get("credentials")
            found.append(
                f"{self.relative(self._facts)}: credentials is {is_now}, and {stamp} belongs to the"
                f" files in secrets, so pods would not roll: {advice}"
            )
        return found


def clusters(root: Path) -> list[str]:
    """Return the clusters that have an entry folder."""
    return sorted(file.parent.name for file in root.glob(f"{_CLUSTERS}/*/cluster.yaml"))


def _run(
    name: str,
    *arguments: str,
    cwd: Path | None = None,
    text: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    command: Sequence[str] = (binary(name, INSTALL), *arguments)
    # Whoever uses SOPS elsewhere has keys and recipients of its own in the environment.
    inherited = {key: one for key, one in os.environ.items() if not key.startswith("SOPS_")}
    done = subprocess.run(
        command,
        cwd=cwd,
        input=text,
        env={**inherited, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SecretsError(f"{name} says: {done.stderr.strip()}")
    return done.stdout


def _replace(file: Path, text: str) -> None:
    """Write a file at once or not at all, and only if it changes."""
    if file.is_file() and file.read_text() == text:
        return
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.replace(file)
