"""Say what a push would change: on a running cluster or, with --base, since a commit.

Our own, because `flux diff` knows one Kustomization at a time and no facts but the cluster's.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import unified_diff
from typing import Final, TypeAlias

import yaml

from scripts.gitops import source
from scripts.gitops.flux import NAMESPACE, BuildError, Cluster, Object, load
from scripts.manifests.model import FLUX_API, Document, at, items, mapping, marked
from scripts.programs import Kubectl, KubectlError, ProgramError

MANAGER: Final = "kustomize-controller"
"""In whose name Flux applies; another name would see fields as somebody else's."""

Key: TypeAlias = tuple[str, str, str, str]

State: TypeAlias = dict[Key, tuple[str, Document]]
"""Objects, each with the name of the Kustomization that applies it."""


@dataclass(frozen=True)
class Change:
    """An object that differs: + is new, ~ is changed, - is deleted, ! cannot be said."""

    layer: str
    sign: str
    title: str
    why: str = ""
    lines: tuple[str, ...] = ()
    """What differs in it, as a unified diff."""

    def __str__(self) -> str:
        return f"{self.sign} {self.title}{f': {self.why}' if self.why else ''}"


def _title(key: Key) -> str:
    _, kind, namespace, name = key
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


def _changes(before: State, after: State) -> Iterator[Change]:
    """Yield what differs, last what is deleted."""
    for key in {**after, **before}:
        name, _ = after.get(key) or before[key]
        old, new = (state[key][1] if key in state else None for state in (before, after))
        if old == new:
            continue
        sign, why = "~" if old else "+", ""
        if new is None:
            # Flux deletes before it looks whether what is new gets ready.
            sign, why = "-", "goes at once"
            if marked(old or {}, "prune", "disabled"):
                why = "stays on the cluster, as its label says"
        was, becomes = (yaml.safe_dump(one).splitlines() if one else [] for one in (old, new))
        # The first two lines would name files.
        lines = tuple(unified_diff(was, becomes, lineterm=""))[2:]
        yield Change(name, sign, _title(key), why, lines)


def rendered(before: source.Source, after: source.Source, name: str) -> list[Change]:
    """Return what differs in what Flux applies to a cluster; BuildError: it cannot be built."""
    old, new = (
        _objects(load(tree, name).whole()) if name in tree.clusters() else {}
        for tree in (before, after)
    )
    return list(_changes(old, new))


def _objects(cluster: Cluster) -> State:
    return {one.key: (layer.name, one.document) for layer, one in cluster.objects()}


def running(tree: source.Source, name: str, kubectl: Kubectl) -> tuple[str, list[Change]]:
    """Return in a line where was looked, and what a push would change, in the order of Flux."""
    built = load(tree, name).whole()
    follows = "" if kubectl.follows(name) else ", which follows no git yet"
    head = f"{built.folder} against {kubectl.where()}{follows}"
    if sealed := sum("sops" in item.document for _, item in built.objects()):
        head += f"\nOf {sealed} encrypted Secrets only the names of their keys are compared."
    # What bears one of these Flux leaves alone once it is there, or altogether.
    alone = (("reconcile", "disabled"), ("ssa", "ignore", "ifnotpresent"))
    wanted = {
        key: one
        for key, one in _objects(built).items()
        if not any(marked(one[1], *mark) for mark in alone)
    }
    # It cannot be asked about what it has no kind or namespace for: that is new.
    served = kubectl.get("api-versions").split()
    listed = kubectl.get("get", "namespaces", "--output=jsonpath={.items[*].metadata.name}")
    namespaces = {"", *listed.split()}
    gone = _gone(built, kubectl) if f"{FLUX_API}/v1" in served else {}
    there = {
        key: one
        for key, one in {**gone, **wanted}.items()
        if one[1]["apiVersion"] in served and key[2] in namespaces
    }
    clear = {key: one for key, one in there.items() if key in wanted and key[1] != "Secret"}
    how = ("--dry-run=server", "--server-side", "--force-conflicts", f"--field-manager={MANAGER}")
    found = _ask(kubectl, there, "get", "--ignore-not-found")
    made = _ask(kubectl, clear, "apply", *how)
    before, after, refused = State(), State(), []
    for key, (layer, document) in {**wanted, **gone}.items():
        old, new = found.get(key), made.get(key, document)
        if error := next((one for one in (old, new) if isinstance(one, KubectlError)), None):
            refused.append(_refused(key, layer, document, str(error)))
            continue
        if isinstance(old, dict) and not (key in gone and marked(old, "prune", "disabled")):
            before[key] = layer, _shown(old)
        if isinstance(new, dict) and key in wanted:
            after[key] = layer, _shown(new)
    # What is new stands in git, and what goes away is no news.
    changes = (
        one if one.sign == "~" else replace(one, lines=()) for one in _changes(before, after)
    )
    rank = {name: len(built.before(name)) for name in built.kustomizations}
    last = len(rank)
    order = sorted([*changes, *refused], key=lambda one: (rank.get(one.layer, last), one.layer))
    return head, order


def _ask(kubectl: Kubectl, asked: State, *how: str) -> dict[Key, Document | KubectlError]:
    """Return what kubectl prints about objects with the labels of Flux, or why it does not."""
    if not asked:
        return {}
    given = deepcopy(list(asked.values()))
    for layer, document in given:
        owner = {f"{FLUX_API}/name": layer, f"{FLUX_API}/namespace": NAMESPACE}
        labels = mapping(document, "metadata.labels")
        document["metadata"]["labels"] = {**labels, **owner}
    text = "\n---\n".join(json.dumps(document) for _, document in given)
    try:
        printed = kubectl.get(*how, "--output=json", "--filename=-", given=text)
    except KubectlError as error:
        keys = list(asked)
        if len(keys) == 1:
            return {keys[0]: error}
        # One that the cluster refuses hides the others.
        halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
        first, second = ({key: asked[key] for key in half} for half in halves)
        return {**_ask(kubectl, first, *how), **_ask(kubectl, second, *how)}
    answer = json.loads(printed or '{"items": []}')
    documents = answer.get("items", [answer])
    for document in documents:
        # These change by themselves, or with any other change.
        document.pop("status", None)
        for field in ("generation", "resourceVersion"):
            document["metadata"].pop(field, None)
    return {Object(document, "").key: document for document in documents}


def _refused(key: Key, layer: str, document: Document, said: str) -> Change:
    if "immutable" in said and marked(document, "force", "enabled"):
        why = "is deleted and made again, because it cannot be changed"
        return Change(layer, "~", _title(key), why)
    # What the cluster only warns of is no reason.
    lines = [line for line in said.splitlines() if not line.startswith("Warning:")]
    return Change(layer, "!", _title(key), f"the cluster says: {' '.join(' '.join(lines).split())}")


def _shown(document: Document) -> Document:
    """Return what may be shown: of a Secret, which nobody here can decrypt, the names of keys."""
    if document["kind"] != "Secret":
        return document
    return {"keys": sorted({*mapping(document, "data"), *mapping(document, "stringData")})}


def _gone(cluster: Cluster, kubectl: Kubectl) -> State:
    """Return the names of what Flux has applied to a cluster, and would delete."""
    kind = f"kustomizations.{FLUX_API}"
    listed = kubectl.get("get", kind, f"--namespace={NAMESPACE}", "--output=json")
    git, gone = _objects(cluster), State()
    for layer in json.loads(listed)["items"]:
        name = layer["metadata"]["name"]
        is_gone = name not in cluster.kustomizations
        if is_gone and at(layer, "spec.deletionPolicy") == "Orphan":
            continue
        for entry in items(layer, "status.inventory.entries"):
            # NAMESPACE_NAME_GROUP_KIND, where a name of RBAC has two _ for each of its colons.
            namespace, rest = entry["id"].split("_", maxsplit=1)
            called, group, kind = rest.rsplit("_", maxsplit=2)
            key = group, kind, namespace, called.replace("__", ":")
            if key not in git:
                version = f"{group}/{entry['v']}".removeprefix("/")
                metadata = {"namespace": namespace, "name": key[3]}
                document = {"apiVersion": version, "kind": kind, "metadata": metadata}
                gone[key] = f"{name} (no longer in git)" if is_gone else name, document
    return gone


def as_text(name: str, changes: list[Change]) -> str:
    """Return what differs on a cluster, to read in a terminal."""
    heads = ((f"@@ {one.layer}: {one} @@", *one.lines) for one in changes)
    count = Counter(change.sign for change in changes)
    found = ", ".join(f"{count[s]} {word}" for s, word in _SIGNS.items() if count[s]) or "nothing"
    return "\n".join([f"{name}: {found}", *(line for lines in heads for line in lines)])


def as_markdown(changes: Mapping[str, list[Change]]) -> str:
    """Return the same by cluster, as a comment on a pull request that GitHub takes."""
    parts = ["### What this changes on the clusters"]
    for name, found in changes.items():
        head, _, text = as_text(name, found).partition("\n")
        if len(text) > (most := _MOST_CHARACTERS // len(changes)):
            text = f"{text[:most]}\n@@ and more: make diff CLUSTER={name} BASE=... @@"
        fence = "`" * max(3, *(len(run) + 1 for run in ["", *re.findall("`+", text)]))
        block = f"<summary>{head}</summary>\n\n{fence}diff\n{text}\n{fence}\n"
        parts.append(f"<details>{block}</details>" if text else head)
    return "\n\n".join(parts)


_MOST_CHARACTERS: Final = 60_000
_SIGNS: Final = {"+": "added", "~": "changed", "-": "deleted", "!": "refused"}


def main() -> int:
    """Print what differs; on a cluster return 0 when nothing does, 1 when something does."""
    parser = argparse.ArgumentParser(prog="make diff", description=__doc__)
    parser.add_argument("cluster", nargs="?", help="a folder of flux/clusters")
    parser.add_argument("--context", help="of kubectl, when it is not the current one")
    parser.add_argument("--base", metavar="REV", help="compare with a commit, and no cluster")
    parser.add_argument("--markdown", action="store_true", help="as a comment on a pull request")
    arguments = parser.parse_args()
    cluster, base = arguments.cluster, arguments.base
    with ExitStack() as stack:
        tree = stack.enter_context(source.working_tree())
        before = stack.enter_context(source.commit(base)) if base else tree
        known = sorted({*tree.clusters(), *before.clusters()})
        if cluster not in known and (cluster or not base):
            parser.error(f"say CLUSTER=, one of {', '.join(known)}")
        if base:
            names = [cluster] if cluster else known
            changes = {name: rendered(before, tree, name) for name in names}
        else:
            head, found = running(tree, cluster, Kubectl(arguments.context))
            print(head)
            changes = {cluster: found}
    print(
        as_markdown(changes)
        if arguments.markdown
        else "\n".join(as_text(*one) for one in changes.items())
    )
    return 0 if base else int(bool(found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BuildError, ProgramError) as error:
        print(f"diff: {error}", file=sys.stderr)
        sys.exit(2)
