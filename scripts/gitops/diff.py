"""Say what a push would change: on a running cluster or, with --base, since a commit.

Our own, because `flux diff` knows one Kustomization at a time and no facts but the cluster's.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import unified_diff
from typing import Any, Final, TypeAlias

import yaml

from scripts.git import GitError
from scripts.gitops import source
from scripts.gitops.flux import NAMESPACE, BuildError, Cluster, Object, load
from scripts.kubectl import Kubectl, KubectlError
from scripts.manifests.model import FLUX_API, Document, at, items, mapping, marked
from scripts.manifests.tools import MissingToolError

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
        _objects(_load(tree, name)) if name in tree.clusters() else {} for tree in (before, after)
    )
    return list(_changes(old, new))


def _objects(cluster: Cluster) -> State:
    return {one.key: (layer.name, one.document) for layer, one in cluster.objects()}


def _load(tree: source.Source, name: str) -> Cluster:
    cluster = load(tree, name)
    for problem in cluster.problems:
        raise problem
    return cluster


class _Cluster:
    """What a cluster has, and what it would have after a push."""

    def __init__(self, kubectl: Kubectl, git: State) -> None:
        self._kubectl = kubectl
        self._git = git
        self._served = kubectl.get("api-versions").split()
        self.before: State = {}
        self.after: State = {}
        self.refused: list[Change] = []

    def kustomizations(self) -> dict[str, Any]:
        """Return what Flux has of its own by name; nothing where Flux is not."""
        if f"{FLUX_API}/v1" not in self._served:
            return {}
        kind = f"kustomizations.{FLUX_API}"
        listed = self._kubectl.get("get", kind, f"--namespace={NAMESPACE}", "--output=json")
        return {item["metadata"]["name"]: item for item in json.loads(listed)["items"]}

    def look(self, gone: State) -> None:
        """Ask about all objects of git, and about those that it has no more."""
        listed = self._kubectl.get("get", "namespaces", "--output=name").split()
        namespaces = {"", *(name.removeprefix("namespace/") for name in listed)}
        asked = dict(gone)
        for key, (layer, document) in self._git.items():
            if marked(document, "reconcile", "disabled") or (
                marked(document, "ssa", "ignore", "ifnotpresent")
            ):
                continue  # Flux leaves it alone once it is there, or altogether
            if document["apiVersion"] in self._served and key[2] in namespaces:
                asked[key] = layer, document
            else:
                self.after[key] = layer, _shown(document)
        self._ask(asked)

    def _ask(self, asked: State) -> None:
        how = ("apply", "--dry-run=server", "--server-side", "--force-conflicts")
        wanted = {key: one for key, one in asked.items() if key in self._git}
        clear = {key: one for key, one in wanted.items() if key[1] != "Secret"}
        try:
            before = self._answer(asked, "get", "--ignore-not-found")
            after = self._answer(clear, *how, f"--field-manager={MANAGER}")
        except KubectlError as error:
            objects = list(asked.items())
            # One that the cluster refuses hides the others.
            if middle := len(objects) // 2:
                self._ask(dict(objects[:middle]))
                self._ask(dict(objects[middle:]))
            else:
                self.refused += [_refused(*one, str(error)) for one in objects]
            return
        for key, document in before.items():
            if key in self._git or not marked(document, "prune", "disabled"):
                self.before[key] = asked[key][0], _shown(document)
        for key, (layer, document) in wanted.items():
            self.after[key] = layer, after[key] if key in clear else _shown(document)

    def _answer(self, asked: State, *how: str) -> dict[Key, Document]:
        """Return what kubectl prints about objects that have the labels of Flux."""
        if not asked:
            return {}
        given = deepcopy(list(asked.values()))
        for layer, document in given:
            owner = {f"{FLUX_API}/name": layer, f"{FLUX_API}/namespace": NAMESPACE}
            labels = mapping(document, "metadata.labels")
            document["metadata"]["labels"] = {**labels, **owner}
        text = "\n---\n".join(json.dumps(document) for _, document in given)
        printed = self._kubectl.get(*how, "--output=json", "--filename=-", given=text)
        answer = json.loads(printed or '{"items": []}')
        documents = answer.get("items", [answer])
        for document in documents:
            # These change by themselves, or with any other change.
            document.pop("status", None)
            for field in ("generation", "resourceVersion"):
                document["metadata"].pop(field, None)
        return {Object(document, "").key: document for document in documents}


def _refused(key: Key, asked: tuple[str, Document], said: str) -> Change:
    layer, document = asked
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


def _gone(cluster: Cluster, layers: Mapping[str, Any]) -> State:
    """Return the names of what Flux has applied to a cluster, and would delete."""
    git, gone = _objects(cluster), State()
    for name, layer in layers.items():
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


def running(tree: source.Source, name: str, kubectl: Kubectl) -> tuple[str, list[Change]]:
    """Return in a line where was looked, and what a push would change, in the order of Flux."""
    built = _load(tree, name)
    follows = "" if kubectl.follows(name) else ", which follows no git yet"
    head = f"{built.folder} against {kubectl.where()}{follows}"
    if sealed := sum("sops" in item.document for _, item in built.objects()):
        head += f"\nOf {sealed} encrypted Secrets only the names of their keys are compared."
    cluster = _Cluster(kubectl, _objects(built))
    cluster.look(_gone(built, cluster.kustomizations()))
    # What is new stands in git, and what goes away is no news.
    changes = (
        one if one.sign == "~" else replace(one, lines=())
        for one in _changes(cluster.before, cluster.after)
    )
    found = [*changes, *cluster.refused]
    rank = {name: len(built.before(name)) for name in built.kustomizations}
    last = len(rank)
    return head, sorted(found, key=lambda one: (rank.get(one.layer, last), one.layer))


def as_text(changes: Mapping[str, list[Change]]) -> str:
    """Return by cluster what differs, to read in a terminal."""
    text = []
    for name, found in changes.items():
        text.append(f"{name}: {_sum(found)}")
        for one in found:
            text += [f"  {one.layer}: {one}", *(f"      {line}" for line in one.lines)]
    return "\n".join(text)


def as_markdown(changes: Mapping[str, list[Change]]) -> str:
    """Return the same, with all lines, as a comment on a pull request that GitHub takes."""
    parts = ["### What this changes on the clusters"]
    for name, found in changes.items():
        if not found:
            parts.append(f"{name}: nothing")
            continue
        text = "\n".join(line for one in found for line in (f"@@ {one} @@", *one.lines))
        if len(text) > (most := _MOST_CHARACTERS // len(changes)):
            text = f"{text[:most]}\n@@ and more: make diff CLUSTER={name} BASE=... @@"
        fence = "```"
        while fence in text:
            fence += "`"
        head = f"<details><summary>{name}: {_sum(found)}</summary>"
        parts.append(f"{head}\n\n{fence}diff\n{text}\n{fence}\n</details>")
    return "\n\n".join(parts)


_MOST_CHARACTERS: Final = 60_000
_SIGNS: Final = {"+": "added", "~": "changed", "-": "deleted", "!": "refused"}


def _sum(changes: list[Change]) -> str:
    count = Counter(change.sign for change in changes)
    return ", ".join(f"{count[s]} {word}" for s, word in _SIGNS.items() if count[s]) or "nothing"


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
    print(as_markdown(changes) if arguments.markdown else as_text(changes))
    return 0 if base else int(bool(found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BuildError, GitError, KubectlError, MissingToolError) as error:
        print(f"diff: {error}", file=sys.stderr)
        sys.exit(2)
