"""Say what a push would change on a running cluster: the files as they are against what it has."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from scripts.gitops import source
from scripts.gitops.flux import NAMESPACE, Builder, BuildError, Cluster, Kustomization, Object
from scripts.gitops.flux import load as load_cluster
from scripts.manifests import tools
from scripts.manifests.model import FLUX_API, at, items, mapping, marked

MANAGER: Final = "kustomize-controller"
"""In whose name Flux applies; another name would see fields as somebody else's."""

_PLAIN: Final = {"KUBECTL_EXTERNAL_DIFF": "diff -u -N", "LC_ALL": "C"}
"""What is printed is read here, so no tool or language of the user's may write it."""

Key: TypeAlias = tuple[str, str, str, str]


class DiffError(Exception):
    """The cluster cannot be compared; the message says why."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl, with the context that the user chose."""

    context: str | None = None

    def run(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run it and return what it said."""
        command = [tools.binary("kubectl"), *arguments]
        if self.context:
            command.insert(1, f"--context={self.context}")
        return subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **_PLAIN},
        )

    def get(self, *arguments: str) -> str:
        """Run it and return what it printed."""
        done = self.run(*arguments)
        if done.returncode:
            raise DiffError(done.stderr.strip())
        return done.stdout

    def where(self) -> str:
        """Return the name of the context and the address of its cluster."""
        form = "jsonpath={.contexts[0].name} at {.clusters[0].cluster.server}"
        return self.get("config", "view", "--minify", f"--output={form}")


@dataclass
class Changes:
    """What differs, as lines to print, and how many objects that are."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, sign: str, key: Key, why: str = "", hunk: Iterable[str] = ()) -> None:
        """Note an object: + is new, ~ is changed, - is deleted, ! cannot be said."""
        self.count += 1
        self.lines.append(f"{sign} {called(key)}{f': {why}' if why else ''}")
        self.lines.extend(f"    {line}" for line in hunk)


def called(key: Key) -> str:
    """Return how an object is called: kind, namespace and name."""
    _, kind, namespace, name = key
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


def _refused(done: subprocess.CompletedProcess[str]) -> bool:
    """Tell whether `kubectl diff` failed: 1 only says that something differs."""
    return done.returncode not in {0, 1}


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """Return on one line why the cluster refuses; what it only warns of is no reason."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Warning:")]
    said = " ".join(" ".join(lines).split()) or f"nothing, and kubectl ended with {done.returncode}"
    return f"the cluster says: {said}"


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
        """Return the entry folder that the cluster follows, if it follows one."""
        root = self._running.get(self._cluster.root.name)
        return source.normal(str(at(root, "spec.path"))) if root else None

    def layers(self) -> Iterator[tuple[str, Changes]]:
        """Yield the name of each Kustomization and what a push would change of what it applies."""
        applied = {item.key for _, item in self._cluster.objects()}
        for name in sorted(self._cluster.kustomizations, key=self._rank):
            kustomization = self._cluster.kustomizations[name]
            changes = Changes()
            self._compare(kustomization, changes)
            self._prune(name, applied, changes)
            yield name, changes
        for name in sorted(self._running.keys() - self._cluster.kustomizations.keys()):
            changes = Changes()
            if at(self._running[name], "spec.deletionPolicy") != "Orphan":
                self._prune(name, applied, changes)
            yield f"{name} (no longer in git)", changes

    def _rank(self, name: str) -> tuple[int, str]:
        return len(self._cluster.before(name)), name

    def _compare(self, kustomization: Kustomization, changes: Changes) -> None:
        asked = []
        for item in kustomization.objects:
            if _left_alone(item):
                continue
            if item.document.get("apiVersion") not in self._served or (
                item.key[2] not in self._namespaces
            ):
                changes.add("+", item.key)
            elif "sops" in item.document:
                self._compare_sealed(item, changes)
            else:
                asked.append((item, json.dumps(_owned(item, kustomization))))
        texts = [text for _, text in asked]
        done = self._diff("\n---\n".join(texts)) if texts else None
        if done is None or not _refused(done):
            _note(done.stdout if done else "", changes)
            return
        # One that the cluster refuses hides the others, so each is asked for by itself.
        for item, text in asked:
            done = self._diff(text)
            refused = _refused(done)
            if refused and "immutable" in done.stderr and marked(item.document, "force", "enabled"):
                changes.add(
                    "~", item.key, "is deleted and made again, because it cannot be changed"
                )
            elif refused:
                changes.add("!", item.key, _words(done))
            else:
                _note(done.stdout, changes)

    def _diff(self, given: str) -> subprocess.CompletedProcess[str]:
        return self._kubectl.run(
            "diff",
            "--server-side",
            "--force-conflicts",
            f"--field-manager={MANAGER}",
            "--filename=-",
            given=given,
        )

    def _compare_sealed(self, item: Object, changes: Changes) -> None:
        """Compare an encrypted Secret by the names of its keys: nobody here can read the values."""
        _, _, namespace, name = item.key
        form = 'go-template={{range $key, $value := .data}}{{$key}}{{"\\n"}}{{end}}'
        done = self._kubectl.run(
            "get", "secret", name, f"--namespace={namespace}", f"--output={form}"
        )
        if _NOT_FOUND in done.stderr:
            changes.add("+", item.key, "is encrypted")
        elif done.returncode:
            changes.add("!", item.key, _words(done))
        else:
            found = set(done.stdout.split())
            wanted = {
                key for part in ("data", "stringData") for key in mapping(item.document, part)
            }
            if found != wanted:
                hunk = [f"+{key}" for key in sorted(wanted - found)]
                hunk += [f"-{key}" for key in sorted(found - wanted)]
                changes.add("~", item.key, "is encrypted; of its keys differ", hunk)

    def _prune(self, name: str, applied: set[Key], changes: Changes) -> None:
        """Note what the cluster has of a Kustomization and git has no more."""
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
                changes.add("!", key, _words(found))
                continue
            if not marked(json.loads(found.stdout), "prune", "disabled"):
                changes.add("-", key)


_NOT_FOUND: Final = "(NotFound)"


def _left_alone(item: Object) -> bool:
    """Tell whether Flux leaves an object alone once it is there, or altogether."""
    return marked(item.document, "reconcile", "disabled") or marked(
        item.document, "ssa", "ignore", "ifnotpresent"
    )


def _owned(item: Object, kustomization: Kustomization) -> dict[str, Any]:
    """Return an object with the labels by which Flux knows what it has applied."""
    metadata = dict(item.document["metadata"])
    metadata["labels"] = {
        **(metadata.get("labels") or {}),
        f"{FLUX_API}/name": kustomization.name,
        f"{FLUX_API}/namespace": NAMESPACE,
    }
    return {**item.document, "metadata": metadata}


def _key(inventory_id: str) -> Key:
    """Return what an entry of an inventory stands for: NAMESPACE_NAME_GROUP_KIND."""
    namespace, rest = inventory_id.split("_", maxsplit=1)
    name, group, kind = rest.rsplit("_", maxsplit=2)
    # A name of RBAC may have colons, which are written so.
    return group, kind, namespace, name.replace("__", ":")


_START: Final = re.compile(r"^diff .* \S*/MERGED-[^/]+/(\S+)$", re.MULTILINE)
_NOISE: Final = re.compile(r"[-+]  generation: \d+|--- .*|\+\+\+ .*|\\ No newline at end of file")


def _note(printed: str, changes: Changes) -> None:
    """Note what kubectl printed, without the names of its files; DiffError: nothing can be read."""
    starts = list(_START.finditer(printed))
    if printed.strip() and not starts:
        raise DiffError(f"this output of kubectl diff cannot be read: {printed.strip()[:200]}")
    for number, start in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(printed)
        lines = printed[start.end() : end].strip("\n").split("\n")
        hunk = list(_changed(line for line in lines if not _NOISE.fullmatch(line)))
        # GROUP.VERSION.KIND.NAMESPACE.NAME; only group and name may have dots.
        found = _FILE.fullmatch(start[1])
        key = ("", *found.groups()) if found else ("", "object", "", start[1])
        is_new = bool(hunk) and hunk[0].startswith("@@ -0,0 ")
        if hunk:
            changes.add("+" if is_new else "~", _named(key), hunk=() if is_new else hunk)


def _changed(lines: Iterable[str]) -> Iterator[str]:
    """Yield the hunks that change something, once the noise is gone."""
    hunks: list[list[str]] = []
    for line in lines:
        if line.startswith("@@ "):
            hunks.append([])
        if hunks:
            hunks[-1].append(line)
    for hunk in hunks:
        if any(line[:1] in {"+", "-"} for line in hunk):
            yield from hunk


_FILE: Final = re.compile(r"(?:.*\.)?v\d+(?:(?:alpha|beta)\d+)?\.([A-Za-z]+)\.([a-z0-9-]*)\.(.+)")


def _named(key: tuple[str, ...]) -> Key:
    group, kind, namespace, name = key
    return group, kind, namespace, name


def report(tree: source.Source, name: str, kubectl: Kubectl) -> Iterator[str]:
    """Yield the lines that say what differs; nothing but where was looked when nothing does."""
    cluster = load_cluster(Builder(tree, tools.binary("kubectl")), name)
    for problem in cluster.problems:
        raise problem
    comparison = Comparison(kubectl, cluster)
    entry, follows = f"flux/{name}", comparison.follows()
    if follows not in {None, entry}:
        raise DiffError(f"{kubectl.where()} follows {follows}, not {entry}: choose its CONTEXT=")
    yield f"{entry} against {kubectl.where()}" + ("" if follows else ", which follows no git yet")
    for layer, changes in comparison.layers():
        if changes.count:
            yield f"\n{layer}"
        yield from (f"  {line}" for line in changes.lines)
    if sealed := sum("sops" in item.document for _, item in cluster.objects()):
        yield f"\nOf {sealed} encrypted Secrets only the names of their keys were compared."


def main() -> int:
    """Print what differs; return 0 when nothing does, 1 when something does."""
    parser = argparse.ArgumentParser(prog="make diff", description=__doc__)
    parser.add_argument("cluster", help="a folder of flux/")
    parser.add_argument("--context", help="of kubectl, when it is not the current one")
    arguments = parser.parse_args()
    kubectl = Kubectl(arguments.context)
    count = 0
    with source.working_tree() as found:
        if arguments.cluster not in found.entries():
            parser.error(f"say CLUSTER=, one of {', '.join(found.entries())}")
        for line in report(found, arguments.cluster, kubectl):
            print(line)
            count += line[:4] in _SIGNS
    print(f"\n{count} objects differ." if count else "\nNothing differs.")
    return 1 if count else 0


_SIGNS: Final = ("  + ", "  ~ ", "  - ", "  ! ")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (DiffError, BuildError, tools.MissingToolError) as error:
        print(f"diff: {error}", file=sys.stderr)
        sys.exit(2)
