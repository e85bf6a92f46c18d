"""Make, rotate and check secrets: ``python -m scripts.secrets --help``."""

import argparse
import base64
import fnmatch
import json
import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import yaml

from scripts.kubectl import Kubectl, KubectlError
from scripts.manifests.model import NAMESPACE
from scripts.manifests.tools import MissingToolError
from scripts.secrets.store import SecretsError, Store, clusters

PREVIOUS: Final = "previous-password"

_ROOT: Final = Path(__file__).parents[2]
_FLUX: Final = "flux-system"
_OF_FLUX: Final = ("webhook", "alerts")
_HAS_TWO: Final = ["password"]
"""The keys of a Secret whose old and new value may be used side by side."""
_UNASKED: Final = (
    "CONTEXT=NAME names the cluster. Without asking any, NEW=1 makes new passwords and"
    " FINISH=unchecked forgets the previous ones, which locks out whoever has others"
)


def main(arguments: list[str] | None = None, root: Path = _ROOT) -> int:
    """Return 0 when it is done, or all is well."""
    options = _parser().parse_args(arguments)
    try:
        return _check(root) if options.check else _manage(options, root)
    except KubectlError as error:
        print(f"secrets: kubectl says: {error}. {_UNASKED}", file=sys.stderr)
    except (SecretsError, MissingToolError) as error:
        print(f"secrets: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.secrets")
    parser.add_argument("cluster", nargs="?", default="", help="a folder of flux/clusters/")
    parser.add_argument("--context", default="", help="of kubectl, for the running cluster")
    parser.add_argument("--new", default="", help="make new ones, whatever some cluster has")
    parser.add_argument("--rotate", default="", help="Secrets, or 'database' for the services'")
    parser.add_argument("--finish", default="", help="1, or 'unchecked' to ask no cluster")
    parser.add_argument("--outage", default="", help="rotate what cannot be without one")
    parser.add_argument("--key", default="", help="file with the private age key")
    parser.add_argument("--check", action="store_true", help="look at what is committed")
    return parser


def _check(root: Path) -> int:
    stores = [Store(root, cluster, Path()) for cluster in clusters(root)]
    problems = [problem for store in stores for problem in store.problems()]
    print("".join(f"{problem}\n" for problem in problems), end="")
    return 1 if problems else 0


def _manage(options: argparse.Namespace, root: Path) -> int:
    key = options.key or f"~/.config/facestack/{options.cluster}.agekey"
    store = Store(root, options.cluster, Path(key).expanduser())
    if options.rotate and options.finish:
        raise SecretsError("one thing at a time: ROTATE begins a rotation, FINISH ends it")
    store.prepare()
    if options.rotate:
        rotate(store, options.rotate.replace(",", " ").split(), outage=bool(options.outage))
    elif options.finish:
        finish(store, options.context, unchecked=options.finish == "unchecked")
    else:
        make(store, options.context, new=bool(options.new))
    if store.changed:
        print(f"next: git add .sops.yaml {store.entry} && git commit && git push")
    else:
        print("nothing to do: all is there and fits")
    return 0


def wanted(store: Store) -> dict[str, list[str]]:
    """Return the keys of each Secret that the cluster needs.

    They are what its credentials Job would make, unless the overlay has it from another store, and
    Flux's own.
    """
    found = {}
    folder = store.root / store.entry
    facts = yaml.safe_load((folder / "cluster.yaml").read_text())["data"]
    overlay = (store.root / "overlays" / facts["overlay"]).rglob("*.yaml")
    if not any("kind: ExternalSecret" in file.read_text() for file in overlay):
        job = next(yaml.safe_load_all((store.root / "base/credentials/job.yaml").read_text()))
        for argument in job["spec"]["template"]["spec"]["containers"][0]["args"]:
            name, _, keys = argument.partition("=")
            found[name] = keys.split(",")
    entry = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if "../../../apps/notifications" in entry["resources"]:
        found["webhook"] = ["token"]
    return found


def make(store: Store, context: str, *, new: bool) -> None:
    """Make what is missing: with the values of the running cluster, or with random ones."""
    needed = wanted(store)
    missing = {name: keys for name, keys in needed.items() if name not in store.names()}
    values = {name: _random(keys) for name, keys in missing.items()}
    if missing and (asked := context or ("" if new else _current_context())):
        values |= _running(store, asked, missing, ours=bool(context))
    alerts = {"address": os.environ.get("ALERTS"), "token": os.environ.get("ALERTS_TOKEN")}
    if "webhook" in needed and alerts["address"]:
        values["alerts"] = {key: _encoded(text) for key, text in alerts.items() if text}
    elif "webhook" in needed and "alerts" not in store.names():
        print("nobody is told of a failure yet: ALERTS=https://... says where to")
    store.write({name: _manifest(name, data) for name, data in values.items()})
    if values:
        print(f"wrote {', '.join(values)}")


def _running(
    store: Store, context: str, missing: Mapping[str, list[str]], *, ours: bool
) -> dict[str, dict[str, str]]:
    """Return what a cluster has of it already, and refuse it where it may not be ours."""
    Kubectl(context).follows(store.cluster)
    found = {}
    for name, keys in missing.items():
        where = ("secret", name, f"--namespace={_namespace(name)}", "--ignore-not-found")
        if answer := _ask(context, "get", *where, "--output=jsonpath={.data}"):
            data = json.loads(answer)
            if lacking := [key for key in keys if not data.get(key)]:
                raise SecretsError(f"Secret {name} of {context} has no {', '.join(lacking)}")
            found[name] = {key: data[key] for key in (*keys, PREVIOUS) if data.get(key)}
    if found and not ours:
        raise SecretsError(
            f"the cluster of your current context {context} has {', '.join(found)} already. If that"
            f" is {store.cluster}, CONTEXT={context} takes them over; if it is another, NEW=1 makes"
            " new ones."
        )
    print(f"asked {context}: it has {', '.join(found) or 'none of them'}")
    return found


def rotate(store: Store, names: Iterable[str], *, outage: bool) -> None:
    """Give Secrets new values: all of them, or none where one is refused."""
    chosen = _chosen(store, names)
    texts = {}
    for name, keys in chosen.items():
        document = yaml.safe_load(store.read(name))
        before, document["data"] = document["data"], _random(keys)
        if PREVIOUS in before:
            raise SecretsError(
                f"{name} is being rotated: pods may still have the password before. Push, and"
                " FINISH=1 once the cluster has it; what was never pushed 'git restore"
                f" {store.entry}' takes back"
            )
        if keys == _HAS_TWO:
            document["data"][PREVIOUS] = before["password"]
        elif name not in _OF_FLUX and not outage:
            raise SecretsError(
                f"{name} has only one key at a time, which its server reads at its start: requests"
                " fail from the change until all have restarted. OUTAGE=1 rotates it; once the"
                # Not `rollout restart`: Flux takes its annotation away, so it restarts twice.
                f" cluster has it, 'kubectl --namespace={NAMESPACE} delete pod {name}-0'"
            )
        texts[name] = yaml.safe_dump(document, sort_keys=False)
    store.write(texts)
    print(f"rotated {', '.join(texts)}")
    if _HAS_TWO in chosen.values():
        print("  the previous passwords stay valid until FINISH=1")
    if "webhook" in chosen:
        print("  tell the git host of webhook: until then a push is fetched within a minute")


def _chosen(store: Store, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the keys by Secret of those that are named, 'database' for those of the services."""
    known = {name: keys for name, keys in wanted(store).items() if name in store.names()}
    chosen = {}
    for name in names:
        group = fnmatch.filter(known, "database-*" if name == "database" else name)
        if not group:
            raise SecretsError(
                f"{store.cluster} has no Secret {name} here, only {', '.join(known) or 'none'}:"
                f" 'make secrets CLUSTER={store.cluster}' makes what is missing; what is in AWS"
                " Secrets Manager is rotated there, see docs/kubernetes.md"
            )
        chosen.update({one: known[one] for one in group})
    return chosen


def finish(store: Store, context: str, *, unchecked: bool) -> None:
    """Take away the previous passwords, when the cluster needs them no more; all or none."""
    texts = {}
    for name in store.names():
        if PREVIOUS in store.text(name):
            document = yaml.safe_load(store.read(name))
            del document["data"][PREVIOUS]
            texts[name] = yaml.safe_dump(document, sort_keys=False)
    if texts and not unchecked:
        Kubectl(context).follows(store.cluster)
        # The last layer: with the stamp and Ready, the migrations have run and all pods are new.
        print(f"asking whether face-services is Ready with {store.stamp()}, a while after the push")
        stamp = f"jsonpath={{.spec.postBuild.substitute.credentials}}={store.stamp()}"
        wait = ("wait", f"--namespace={_FLUX}", "kustomization/face-services", "--timeout=0")
        for state in (stamp, "condition=Ready"):
            _ask(context, *wait, f"--for={state}")
    store.write(texts)
    print(f"only the current password is left: {', '.join(texts) or 'none was rotated'}")


def _current_context() -> str:
    """Return kubectl's current context; nothing without one, or without kubectl."""
    with suppress(MissingToolError):
        # Not `config current-context`: it fails without one just as with a file that is broken.
        return Kubectl().get("config", "view", "--output=jsonpath={.current-context}")
    return ""


def _ask(context: str, *arguments: str) -> str:
    return Kubectl(context).get("--request-timeout=10s", *arguments)


def _namespace(name: str) -> str:
    return _FLUX if name in _OF_FLUX else NAMESPACE


def _manifest(name: str, data: Mapping[str, str]) -> str:
    """Return a Secret as Kubernetes takes it; the values are base64."""
    labels = {"app.kubernetes.io/part-of": "facestack"}
    metadata: dict[str, Any] = {"name": name, "namespace": _namespace(name), "labels": labels}
    if name not in _OF_FLUX:
        # What opens a volume that stays must stay, too.
        metadata["annotations"] = {"kustomize.toolkit.fluxcd.io/prune": "disabled"}
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
    # Not stringData: there Flux would take a ${...} for a fact of the cluster.
    return yaml.safe_dump({**document, "data": data}, sort_keys=False)


def _random(keys: Iterable[str]) -> dict[str, str]:
    return {key: _encoded(secrets.token_urlsafe(32)) for key in keys}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


if __name__ == "__main__":
    sys.exit(main())
