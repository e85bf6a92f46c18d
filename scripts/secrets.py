"""Make, rotate and check the passwords of the clusters that Flux manages: in git, encrypted.

``flux/clusters/name/secrets`` holds one Secret in a file, which SOPS encrypts for age keys, and a
kustomization.yaml that lists them; ``.sops.yaml`` says who may read them. A stamp over the files is
the fact ``credentials`` of the cluster: with a new one, the migrations run again and the services
roll. MariaDB, the receiver and the services each take two passwords, so no order of events in a
rotation refuses anybody, and ``git revert`` is as safe. How all is used says docs/gitops.md.
"""

import argparse
import base64
import fnmatch
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import yaml

from scripts.manifests.model import NAMESPACE
from scripts.programs import ROOT, Kubectl, KubectlError, ProgramError, binary

PREVIOUS: Final = "previous-password"
_HAS_TWO: Final = ["password"]
"""The keys of a Secret whose old and new value may be used side by side."""
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

    def file(self, name: str) -> str:
        """Return the file of a Secret, from the root of the repository."""
        return f"{self.folder}/{name}.yaml"

    def texts(self) -> dict[str, str]:
        """Return the text of each Secret as git has it, encrypted, by name."""
        files = sorted((self.root / self.folder).glob("*.yaml"))
        return {file.stem: file.read_text() for file in files if file.name != _LIST}

    def read(self, name: str) -> str:
        """Return the text of a Secret, decrypted."""
        text = self.texts()[name]
        if _readers(text) == {_EVERYBODY}:
            return text
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
        """Return the stamp over the files that pods depend on; "none" without any."""
        kept = [(name, text) for name, text in self.texts().items() if _FOR_PODS.search(text)]
        digest = hashlib.sha256("".join(f"{name}.yaml\0{text}\0" for name, text in kept).encode())
        return f"sha-{digest.hexdigest()[:12]}" if kept else "none"

    def _fitting(self) -> dict[str, str]:
        """Return what the list of files and the facts must be, by file."""
        resources = "".join(f"\n- {name}.yaml" for name in self.texts()) or " []"
        facts = f"{self.entry}/cluster.yaml"
        return {
            f"{self.folder}/{_LIST}": f"{_LIST_HEAD}resources:{resources}\n",
            facts: _FACT.sub(rf"\g<1>{self.stamp()}", self._there(facts)),
        }

    def problems(self) -> list[str]:
        """Return what does not fit together; the private key is not needed."""
        rule = self.rule() if self.texts() else set()
        found = [
            f"{self.file(name)} can be read by {_listed(readers)}, not by {_listed(rule)}"
            for name, readers in self._misread(rule).items()
        ]
        for file, text in self._fitting().items():
            if self._there(file) != text:
                found.append(f"{file} does not fit the files in secrets")
        return [f"{problem}: run 'make secrets CLUSTER={self.cluster}'" for problem in found]

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
        if self.texts() and not named:
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
        readers = {name: _readers(text) for name, text in self.texts().items()}
        return {name: found for name, found in readers.items() if found != rule}

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


def wanted(store: Store) -> dict[str, list[str]]:
    """Return the keys of each Secret that the cluster's credentials Job would make.

    They are none where the overlay has them from another store.
    """
    facts = yaml.safe_load((store.root / store.entry / "cluster.yaml").read_text())["data"]
    overlay = (store.root / "overlays" / facts["overlay"]).rglob("*.yaml")
    if any("kind: ExternalSecret" in file.read_text() for file in overlay):
        return {}
    job = next(yaml.safe_load_all((store.root / "base/credentials/job.yaml").read_text()))
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return {name: keys.split(",") for name, _, keys in (one.partition("=") for one in arguments)}


def missing(store: Store, context: str, *, new: bool) -> dict[str, str]:
    """Return what is missing: with the values of the running cluster, or with random ones."""
    there = store.texts()
    lacking = {name: keys for name, keys in wanted(store).items() if name not in there}
    if lacking and not (context or new):
        raise SecretsError(
            f"{store.folder} lacks {', '.join(lacking)}: CONTEXT=NAME of kubectl takes over what"
            " the cluster has, and makes the rest; NEW=1 makes new ones without asking, which"
            " locks out whoever has others"
        )
    found = _running(store, Kubectl(context), lacking) if lacking and context else {}
    return {name: _manifest(name, found.get(name) or _random(lacking[name])) for name in lacking}


def _running(
    store: Store, kubectl: Kubectl, lacking: Mapping[str, list[str]]
) -> dict[str, dict[str, str]]:
    """Return what the running cluster has of it already."""
    kubectl.follows(store.cluster)
    found = {}
    for name, keys in lacking.items():
        how = (f"--namespace={NAMESPACE}", "--ignore-not-found", "--request-timeout=10s")
        if answer := kubectl.get("get", "secret", name, *how, "--output=jsonpath={.data}"):
            data = json.loads(answer)
            if absent := [key for key in keys if not data.get(key)]:
                raise SecretsError(f"Secret {name} of {kubectl.context} has no {', '.join(absent)}")
            found[name] = {key: data[key] for key in (*keys, PREVIOUS) if data.get(key)}
    print(f"asked {kubectl.context}: it has {', '.join(found) or 'none of them'}")
    return found


def rotated(store: Store, names: Iterable[str]) -> dict[str, str]:
    """Return the Secrets of those names with a new password beside the one that they have."""
    there = store.texts()
    known = [name for name, keys in wanted(store).items() if keys == _HAS_TWO and name in there]
    texts = {}
    for name in names:
        group = fnmatch.filter(known, "database-*" if name == "database" else name)
        if not group:
            raise SecretsError(
                f"of {store.cluster}, {', '.join(known) or 'none'} can have two passwords, and not"
                f" {name}: docs/gitops.md says how another is changed, docs/kubernetes.md one of"
                " AWS Secrets Manager"
            )
        for one in group:
            document = yaml.safe_load(store.read(one))
            if PREVIOUS in document["data"]:
                raise SecretsError(
                    f"{one} is being rotated: pods may still have the password before. Push, and"
                    " FINISH=1 once the cluster has it; what was never pushed 'git restore"
                    f" {store.entry}' takes back"
                )
            data = _random(_HAS_TWO) | {PREVIOUS: document["data"]["password"]}
            texts[one] = yaml.safe_dump(document | {"data": data}, sort_keys=False)
    return texts


def finished(store: Store, context: str, *, unchecked: bool) -> dict[str, str]:
    """Return the Secrets without previous passwords, when the cluster needs them no more."""
    texts = {}
    for name, text in store.texts().items():
        if PREVIOUS in text:
            document = yaml.safe_load(store.read(name))
            del document["data"][PREVIOUS]
            texts[name] = yaml.safe_dump(document, sort_keys=False)
    if texts and not unchecked:
        # The last layer: with the stamp and Ready, the migrations have run and all pods are new.
        print(f"asking whether face-services is Ready with {store.stamp()}, a while after the push")
        kubectl = Kubectl(context)
        kubectl.follows(store.cluster)
        stamp = f"jsonpath={{.spec.postBuild.substitute.credentials}}={store.stamp()}"
        layer = ("kustomization/face-services", "--namespace=flux-system", "--timeout=0")
        for state in (stamp, "condition=Ready"):
            kubectl.get("wait", *layer, "--request-timeout=10s", f"--for={state}")
    return texts


def _manifest(name: str, data: Mapping[str, str]) -> str:
    """Return a Secret as Kubernetes takes it; the values are base64."""
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "labels": {"app.kubernetes.io/part-of": "facestack"},
        # What opens a volume that stays must stay, too.
        "annotations": {"kustomize.toolkit.fluxcd.io/prune": "disabled"},
    }
    # Not stringData: there Flux would take a ${...} for a fact of the cluster.
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    return yaml.safe_dump(document, sort_keys=False)


def _random(keys: Iterable[str]) -> dict[str, str]:
    values = {key: secrets.token_urlsafe(32) for key in keys}
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


def manage(arguments: list[str] | None, root: Path) -> None:
    """Do what is asked of one cluster, all of it or nothing where it is refused; or check all."""
    parser = argparse.ArgumentParser(argument_default="", prog="python -m scripts.secrets")
    parser.add_argument("cluster", nargs="?", help="a folder of flux/clusters/")
    parser.add_argument("--check", action="store_true", help="look at what is committed")
    parser.add_argument("--context", help="kubectl's: the running cluster, asked what it has")
    parser.add_argument("--new", help="1: make new ones, whatever some cluster has")
    parser.add_argument("--rotate", help="Secrets, or 'database' for those of the services")
    parser.add_argument("--finish", help="1, or 'unchecked' to ask no cluster")
    parser.add_argument("--key", help="file with the private age key")
    options = parser.parse_args(arguments)
    if options.check:
        stores = [Store(root, cluster, Path()) for cluster in clusters(root)]
        if problems := [problem for store in stores for problem in store.problems()]:
            raise SecretsError("\n".join(problems))
        return
    if options.rotate and options.finish:
        raise SecretsError("one thing at a time: ROTATE begins a rotation, FINISH ends it")
    key = options.key or f"~/.config/facestack/{options.cluster}.agekey"
    store = Store(root, options.cluster, Path(key).expanduser())
    store.prepare()
    if options.rotate:
        texts = rotated(store, options.rotate.replace(",", " ").split())
        print("the previous passwords stay valid until FINISH=1")
    elif options.finish:
        texts = finished(store, options.context, unchecked=options.finish == "unchecked")
    else:
        texts = missing(store, options.context, new=bool(options.new))
    store.write(texts)
    print(f"wrote {', '.join(texts) or 'no Secret'}")
    done = f"next: git add .sops.yaml {store.entry} && git commit && git push"
    print(done if store.changed else "nothing to do: all is there and fits")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Return 0 when it is done, or all is well."""
    try:
        manage(arguments, root)
    except KubectlError as error:
        unasked = "NEW=1 and FINISH=unchecked ask no cluster, and lock out who has other passwords"
        said = f"kubectl says: {error}. CONTEXT=NAME names the cluster; {unasked}"
    except (SecretsError, ProgramError) as error:
        said = str(error)
    else:
        return 0
    print(f"secrets: {said}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
