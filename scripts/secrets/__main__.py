"""Make, rotate and check secrets: ``python -m scripts.secrets --help``."""

import argparse
import base64
import fnmatch
import json
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from scripts.git import ROOT
from scripts.kubectl import Kubectl, KubectlError
from scripts.manifests.model import NAMESPACE
from scripts.manifests.tools import MissingToolError
from scripts.secrets.store import SecretsError, Store, clusters

PREVIOUS: Final = "previous-password"
_HAS_TWO: Final = ["password"]
"""The keys of a Secret whose old and new value may be used side by side."""
_OPTIONS: Final = {
    "context": "of kubectl: the running cluster, which is asked what it has",
    "new": "1: make new ones, whatever some cluster has",
    "rotate": "Secrets, or 'database' for those of the services",
    "finish": "1, or 'unchecked' to ask no cluster",
    "key": "file with the private age key",
}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Return 0 when it is done, or all is well."""
    options = parse(arguments)
    problems = []
    try:
        if options.check:
            stores = [Store(root, cluster, Path()) for cluster in clusters(root)]
            problems = [problem for store in stores for problem in store.problems()]
        else:
            manage(options, root)
    except KubectlError as error:
        unasked = "NEW=1 and FINISH=unchecked ask no cluster, and lock out who has other passwords"
        problems = [f"kubectl says: {error}. CONTEXT=NAME names the cluster; {unasked}"]
    except (SecretsError, MissingToolError) as error:
        problems = [str(error)]
    print("".join(f"secrets: {problem}\n" for problem in problems), end="", file=sys.stderr)
    return 1 if problems else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m scripts.secrets")
    parser.add_argument("cluster", nargs="?", default="", help="a folder of flux/clusters/")
    parser.add_argument("--check", action="store_true", help="look at what is committed")
    for name, text in _OPTIONS.items():
        parser.add_argument(f"--{name}", default="", help=text)
    return parser.parse_args(arguments)


def manage(options: argparse.Namespace, root: Path) -> None:
    """Do what is asked of one cluster: all of it, or nothing where it is refused."""
    key = options.key or f"~/.config/facestack/{options.cluster}.agekey"
    store = Store(root, options.cluster, Path(key).expanduser())
    if options.rotate and options.finish:
        raise SecretsError("one thing at a time: ROTATE begins a rotation, FINISH ends it")
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
    lacking = {name: keys for name, keys in wanted(store).items() if name not in store.names()}
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
    known = [n for n, keys in wanted(store).items() if keys == _HAS_TWO and n in store.names()]
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
            before, document["data"] = document["data"], _random(_HAS_TWO)
            if PREVIOUS in before:
                raise SecretsError(
                    f"{one} is being rotated: pods may still have the password before. Push, and"
                    " FINISH=1 once the cluster has it; what was never pushed 'git restore"
                    f" {store.entry}' takes back"
                )
            document["data"][PREVIOUS] = before["password"]
            texts[one] = yaml.safe_dump(document, sort_keys=False)
    return texts


def finished(store: Store, context: str, *, unchecked: bool) -> dict[str, str]:
    """Return the Secrets without previous passwords, when the cluster needs them no more."""
    texts = {}
    for name in store.names():
        if PREVIOUS in store.text(name):
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
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "labels": {"app.kubernetes.io/part-of": "facestack"},
        # What opens a volume that stays must stay, too.
        "annotations": {"kustomize.toolkit.fluxcd.io/prune": "disabled"},
    }
    # Not stringData: there Flux would take a ${...} for a fact of the cluster.
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": dict(data)}
    return yaml.safe_dump(document, sort_keys=False)


def _random(keys: Iterable[str]) -> dict[str, str]:
    values = {key: secrets.token_urlsafe(32) for key in keys}
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


if __name__ == "__main__":
    sys.exit(main())
