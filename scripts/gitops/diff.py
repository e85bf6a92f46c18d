"""Say what a push would change: on a running cluster or, with --base, since a commit.

Our own, because `flux diff` knows one Kustomization at a time and no facts but the cluster's.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import unified_diff
from posixpath import normpath
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


class DiffError(Exception):
    """The cluster cannot be compared; the message says why."""


@dataclass(frozen=True)
class Change:
    """An object that differs: + is new, ~ is changed, - is deleted, ! cannot be said."""

    kustomization: str
    sign: str
    key: Key
    why: str = ""
    lines: tuple[str, ...] = ()
    """What differs in it, as a unified diff."""

    @property
    def title(self) -> str:
        """Return how the object is called: kind, namespace and name."""
        _, kind, namespace, name = self.key
        return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"

    def __str__(self) -> str:
        return f"{self.sign} {self.title}{f': {self.why}' if self.why else ''}"


def _change(
    name: str, key: Key, before: Document | None, after: Document | None
) -> Iterator[Change]:
    """Yield how an object differs, if it does."""
    if before == after:
        return
    sign, why = "~", ""
    if before is None:
        sign = "+"
    elif after is None:
        # Flux deletes before it looks whether what is new gets ready.
        sign, why = "-", "goes at once"
        if marked(before, "prune", "disabled"):
            why = "stays on the cluster, as its label says"
    old, new = (yaml.safe_dump(one).splitlines() if one else [] for one in (before, after))
    # The first two lines would name files.
    yield Change(name, sign, key, why, tuple(unified_diff(old, new, lineterm=""))[2:])


def rendered(before: source.Source, after: source.Source, name: str) -> list[Change]:
    """Return what differs in what Flux applies to a cluster; BuildError: it cannot be built."""
    old, new = (_objects(tree, name) for tree in (before, after))
    found: list[Change] = []
    for key in [*new, *(key for key in old if key not in new)]:
        kustomization, _ = new.get(key) or old[key]
        documents = (side[key][1] if key in side else None for side in (old, new))
        found += _change(kustomization, key, *documents)
    return found


def _objects(tree: source.Source, name: str) -> dict[Key, tuple[str, Document]]:
    if name not in tree.clusters():
        return {}
    return {one.key: (layer.name, one.document) for layer, one in _load(tree, name).objects()}


def _load(tree: source.Source, name: str) -> Cluster:
    cluster = load(tree, name)
    for problem in cluster.problems:
        raise problem
    return cluster


class Comparison:
    """Compares what Flux would apply with what a cluster has."""

    def __init__(self, kubectl: Kubectl, cluster: Cluster) -> None:
        self._kubectl = kubectl
        self._cluster = cluster
        self._served = set(kubectl.get("api-versions").split())
        names = kubectl.get("get", "namespaces", "--output=name").split()
        self._namespaces = {name.removeprefix("namespace/") for name in names} | {""}
        self._running = self._kustomizations()

    def _kustomizations(self) -> dict[str, Any]:
        """Return the cluster's Kustomizations by name."""
        if f"{FLUX_API}/v1" not in self._served:
            return {}
        kind = f"kustomizations.{FLUX_API}"
        listed = self._kubectl.get("get", kind, f"--namespace={NAMESPACE}", "--output=json")
        return {item["metadata"]["name"]: item for item in json.loads(listed)["items"]}

    def follows(self) -> str | None:
        """Return the folder that the cluster follows, if it follows one."""
        root = self._running.get(self._cluster.root.name)
        return normpath(str(at(root, "spec.path"))) if root else None

    def changes(self) -> list[Change]:
        """Return what a push would change, in the order in which Flux would."""
        layers = self._cluster.kustomizations
        asked: list[tuple[str, Object]] = []
        found: list[Change] = []
        for name, layer in layers.items():
            for item in layer.objects:
                marks = ("ignore", "ifnotpresent")
                if marked(item.document, "reconcile", "disabled") or (
                    marked(item.document, "ssa", *marks)
                ):
                    continue  # Flux leaves it alone once it is there, or altogether
                known = item.document.get("apiVersion") in self._served
                if known and item.key[2] in self._namespaces:
                    asked.append((name, item))
                else:
                    found.append(Change(name, "+", item.key))
        found += self._differences(asked)
        for name in layers:
            found += self._prune(name, name)
        rank = {name: len(self._cluster.before(name)) for name in layers}
        found.sort(key=lambda change: (rank[change.kustomization], change.kustomization))
        for name in sorted(self._running.keys() - layers.keys()):
            if at(self._running[name], "spec.deletionPolicy") != "Orphan":
                found += self._prune(name, f"{name} (no longer in git)")
        return found

    def _differences(self, asked: list[tuple[str, Object]]) -> list[Change]:
        """Return what the cluster says would change of objects, each with its Kustomization."""
        try:
            return list(self._answers(asked))
        except KubectlError as error:
            if len(asked) == 1:
                return [_refused(*asked[0], str(error))]
            # One that the cluster refuses hides the others.
            middle = len(asked) // 2
            return self._differences(asked[:middle]) + self._differences(asked[middle:])

    def _answers(self, asked: list[tuple[str, Object]]) -> Iterator[Change]:
        owned = {item.key: _owned(item.document, name) for name, item in asked}
        before = self._ask("get", "--ignore-not-found", documents=owned.values())
        how = ("--server-side", "--force-conflicts", f"--field-manager={MANAGER}")
        clear = [document for key, document in owned.items() if key[1] != "Secret"]
        after = self._ask("apply", "--dry-run=server", *how, documents=clear)
        for name, item in asked:
            old, new = before.get(item.key), after.get(item.key)
            if item.key[1] == "Secret":
                # Nobody here can decrypt one, and none is to be seen: the names of keys are enough.
                old, new = old and _keys(old), _keys(item.document)
            for change in _change(name, item.key, old, new):
                # Of a new one, what stands in git is no news.
                yield replace(change, lines=()) if change.sign == "+" else change

    def _ask(self, *how: str, documents: Collection[Document]) -> dict[Key, Document]:
        """Return what kubectl prints about documents, without what the server keeps."""
        if not documents:
            return {}
        given = "\n---\n".join(json.dumps(document) for document in documents)
        printed = self._kubectl.get(*how, "--output=json", "--filename=-", given=given)
        answer = json.loads(printed or '{"items": []}')
        found = {}
        for document in answer.get("items", [answer]):
            document.pop("status", None)
            for field in ("creationTimestamp", "generation", "resourceVersion", "uid"):
                document["metadata"].pop(field, None)
            found[Object(document, "").key] = document
        return found

    def _prune(self, name: str, called: str) -> Iterator[Change]:
        """Yield what the cluster has of a Kustomization and git has no more."""
        applied = {item.key for _, item in self._cluster.objects()}
        for entry in items(self._running.get(name), "status.inventory.entries"):
            key = _key(str(entry.get("id")))
            if key in applied:
                continue
            resource = f"{key[1]}.{entry.get('v')}.{key[0]}" if key[0] else key[1]
            place = [f"--namespace={key[2]}"] if key[2] else []
            found = self._kubectl.run("get", resource, key[3], *place, "--output=json")
            if _NOT_FOUND in found.stderr:
                continue  # it is gone already
            if found.returncode:
                yield Change(called, "!", key, _words(found.stderr))
            elif not marked(json.loads(found.stdout), "prune", "disabled"):
                yield Change(called, "-", key)


_NOT_FOUND: Final = "(NotFound)"


def _words(said: str) -> str:
    """Return on one line why the cluster refuses; what it only warns of is no reason."""
    lines = [line for line in said.splitlines() if not line.startswith("Warning:")]
    return f"the cluster says: {' '.join(' '.join(lines).split()) or 'nothing'}"


def _refused(name: str, item: Object, said: str) -> Change:
    if "immutable" in said and marked(item.document, "force", "enabled"):
        why = "is deleted and made again, because it cannot be changed"
        return Change(name, "~", item.key, why)
    return Change(name, "!", item.key, _words(said))


def _keys(secret: Document) -> Document:
    """Return of a Secret what may be shown."""
    return {"keys": sorted({*mapping(secret, "data"), *mapping(secret, "stringData")})}


def _owned(document: Document, name: str) -> Document:
    """Return an object with the labels by which Flux knows what it has applied."""
    labels = {f"{FLUX_API}/name": name, f"{FLUX_API}/namespace": NAMESPACE}
    metadata = document["metadata"]
    return {
        **document,
        "metadata": {**metadata, "labels": {**(metadata.get("labels") or {}), **labels}},
    }


def _key(inventory_id: str) -> Key:
    """Return what an entry of an inventory stands for: NAMESPACE_NAME_GROUP_KIND."""
    namespace, rest = inventory_id.split("_", maxsplit=1)
    name, group, kind = rest.rsplit("_", maxsplit=2)
    # A name of RBAC may have colons, which are written so.
    return group, kind, namespace, name.replace("__", ":")


def running(tree: source.Source, name: str, kubectl: Kubectl) -> tuple[str, list[Change]]:
    """Return in a line where was looked, and what a push would change on that cluster."""
    cluster = _load(tree, name)
    comparison = Comparison(kubectl, cluster)
    follows, where = comparison.follows(), kubectl.where()
    if follows not in {None, cluster.folder}:
        raise DiffError(f"{where} follows {follows}, not {cluster.folder}: choose its CONTEXT=")
    head = f"{cluster.folder} against {where}{'' if follows else ', which follows no git yet'}"
    if sealed := sum("sops" in item.document for _, item in cluster.objects()):
        head += f"\nOf {sealed} encrypted Secrets only the names of their keys are compared."
    return head, comparison.changes()


def _lines(changes: Iterable[Change]) -> Iterator[str]:
    shown = None
    for change in changes:
        if change.kustomization != shown:
            shown = change.kustomization
            yield f"\n{shown}"
        yield f"  {change}"
        yield from (f"      {line}" for line in change.lines)


def as_text(changes: Mapping[str, list[Change]]) -> str:
    """Return by cluster what differs, to read in a terminal."""
    parts = [
        f"{name}: {_sum(found)}\n" + "\n".join(_lines(found)) for name, found in changes.items()
    ]
    return "\n\n".join(parts)


def as_markdown(changes: Mapping[str, list[Change]]) -> str:
    """Return the same as a comment on a pull request, cut where GitHub would refuse it."""
    parts = ["### What this changes on the clusters"]
    for name, found in changes.items():
        if not found:
            parts.append(f"{name}: nothing")
            continue
        lines = [line for change in found for line in (f"@@ {change} @@", *change.lines)]
        text = "\n".join(lines)
        fence = "```"
        while fence in text:
            fence += "`"
        head = f"<details><summary>{name}: {_sum(found)}</summary>"
        parts.append(f"{head}\n\n{fence}diff\n{text}\n{fence}\n</details>")
    text = "\n\n".join(parts)
    if len(text) <= _MOST_CHARACTERS:
        return text
    heads = "\n".join(f"- {name}: {_sum(found)}" for name, found in changes.items())
    return f"{parts[0]}\n\n{heads}\n\nThat is too much for a comment: run `make diff BASE=...`."


_MOST_CHARACTERS: Final = 60_000
_SIGNS: Final = {"+": "added", "~": "changed", "-": "deleted", "!": "refused"}


def _sum(changes: list[Change]) -> str:
    count = Counter(change.sign for change in changes)
    return ", ".join(f"{count[s]} {word}" for s, word in _SIGNS.items() if count[s]) or "nothing"


def main() -> int:
    """Print what differs; on a cluster return 0 when nothing does, 1 when something does."""
    parser = argparse.ArgumentParser(prog="make diff", description=__doc__)
    parser.add_argument("clusters", nargs="*", metavar="CLUSTER", help="a folder of flux/clusters")
    parser.add_argument("--context", help="of kubectl, when it is not the current one")
    parser.add_argument("--base", metavar="REV", help="compare with a commit, and no cluster")
    parser.add_argument("--markdown", action="store_true", help="as a comment on a pull request")
    arguments = parser.parse_args()
    with source.working_tree() as tree:
        if arguments.base:
            with source.commit(arguments.base) as before:
                known = {*tree.clusters(), *before.clusters()}
                names = arguments.clusters or sorted(known)
                if unknown := set(names) - known:
                    parser.error(f"there is no {', '.join(unknown)}: choose from {sorted(known)}")
                changes = {name: rendered(before, tree, name) for name in names}
            print(as_markdown(changes) if arguments.markdown else as_text(changes))
            return 0
        if len(arguments.clusters) != 1 or arguments.clusters[0] not in tree.clusters():
            parser.error(f"say CLUSTER=, one of {', '.join(tree.clusters())}")
        head, found = running(tree, arguments.clusters[0], Kubectl(arguments.context))
    print("\n".join([head, *_lines(found)]))
    print(f"\n{len(found)} objects differ." if found else "\nNothing differs.")
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (DiffError, BuildError, GitError, KubectlError, MissingToolError) as error:
        print(f"diff: {error}", file=sys.stderr)
        sys.exit(2)
