"""What Flux would apply to a cluster, rendered by its own code: scripts/flux-build."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from posixpath import normpath
from typing import Any, Final

import yaml

from scripts.gitops.source import CLUSTERS, Source, commit
from scripts.manifests.model import FLUX_API, Document, at, items, mapping, title
from scripts.manifests.tools import binary

NAMESPACE: Final = "flux-system"
BRANCH: Final = "facestack"
"""The GitRepository that follows the branch, and so names what a cluster's folder says."""

PINNED: Final = "version"
"""The GitRepository in version.yaml, for what a cluster takes from one commit."""

# Kustomize takes these for namespaced ones; the API server drops the namespace.
_CLUSTER_WIDE: Final = frozenset({"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"})


class BuildError(Exception):
    """Flux would not build this: in which file, and why."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


@dataclass(frozen=True)
class Object:
    """One object that Flux applies, and the file in git that it is made from."""

    document: Document
    file: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return what no two objects of a cluster have in common: group, kind, namespace, name."""
        group, slash, _ = str(self.document.get("apiVersion")).partition("/")
        kind = str(self.document.get("kind"))
        metadata = mapping(self.document, "metadata")
        namespace = "" if kind in _CLUSTER_WIDE else str(metadata.get("namespace") or "")
        return group if slash else "", kind, namespace, str(metadata.get("name"))

    @property
    def title(self) -> str:
        """Return how a message calls it."""
        return title(self.document)


@dataclass(frozen=True)
class Kustomization:
    """A Kustomization of Flux, and what it applies."""

    made_from: Object
    objects: list[Object] = field(default_factory=list)

    @cached_property
    def name(self) -> str:
        """Return its name."""
        return self.made_from.key[3]

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        """Return what it says."""
        return mapping(self.made_from.document, "spec")

    @cached_property
    def path(self) -> str:
        """Return the folder that it applies."""
        return normpath(str(self.spec.get("path")))

    @cached_property
    def waits_for(self) -> list[str]:
        """Return the names of the Kustomizations that it waits for."""
        return [str(dependency.get("name")) for dependency in items(self.spec, "dependsOn")]


@dataclass(frozen=True)
class Cluster:
    """All that Flux applies to one cluster."""

    name: str
    kustomizations: dict[str, Kustomization] = field(default_factory=dict)
    problems: list[BuildError] = field(default_factory=list)
    """What could not be built."""
    variables: set[str] = field(default_factory=set)
    """The names of facts that manifests have variables for."""
    files: set[str] = field(default_factory=set)
    """What was read of the source, and not of the commit that a cluster is pinned to."""

    @property
    def folder(self) -> str:
        """Return the folder with what is this cluster's own."""
        return f"{CLUSTERS}/{self.name}"

    @property
    def root(self) -> Kustomization:
        """Return the Kustomization that brings all others, and itself."""
        return next(iter(self.kustomizations.values()))

    @property
    def facts(self) -> Mapping[str, str]:
        """Return what is so on this cluster only."""
        key = ("", "ConfigMap", NAMESPACE, "cluster")
        found = (one.document for one in self.root.objects if one.key == key)
        return mapping(next(found, None), "data")

    def objects(self) -> Iterator[tuple[Kustomization, Object]]:
        """Yield every object with the Kustomization that applies it."""
        for kustomization in self.kustomizations.values():
            for applied in kustomization.objects:
                yield kustomization, applied

    def before(self, name: str) -> set[str]:
        """Return the Kustomizations that are ready before one is applied."""
        found: set[str] = set()
        wanted = [name]
        while wanted:
            for earlier in self.kustomizations[wanted.pop()].waits_for:
                if earlier not in found and earlier in self.kustomizations:
                    found.add(earlier)
                    wanted.append(earlier)
        return found


def load(source: Source, name: str, *, pinned: bool = True) -> Cluster:
    """Build all that Flux applies to a cluster; what its folder pins is taken from that commit.

    Without ``pinned`` as if it followed the branch in all.
    """
    cluster = Cluster(name)
    pin = source.folder / cluster.folder / "version.yaml"
    with ExitStack() as stack:
        sources = {BRANCH: source}
        if pin.is_file():
            wanted = at(yaml.load(pin.read_text(), yaml.CSafeLoader), "spec.ref.commit")
            sources[PINNED] = stack.enter_context(commit(str(wanted))) if pinned else source
        try:
            _grow(cluster, _root(cluster, source), sources)
        except BuildError as error:
            cluster.problems.append(error)
    return cluster


def load_unit(source: Source, path: str) -> Cluster:
    """Build a unit that no cluster has, so without facts."""
    cluster = Cluster(path)
    spec = {"path": path, "sourceRef": {"name": BRANCH}}
    start = Kustomization(
        Object({"kind": "Kustomization", "metadata": {"name": path}, "spec": spec}, path)
    )
    cluster.kustomizations[path] = start
    _grow(cluster, start, {BRANCH: source})
    return cluster


def _grow(cluster: Cluster, start: Kustomization, sources: Mapping[str, Source]) -> None:
    """Build a Kustomization, and what comes out of it, and what comes out of that."""
    waiting = [start]
    while waiting:
        _build(waiting, sources, cluster)
        made = [one for parent in waiting for one in parent.objects]
        waiting = [child for one in made if (child := _new(one, cluster))]


def _root(cluster: Cluster, source: Source) -> Kustomization:
    """Return the Kustomization of a cluster's folder that applies this folder."""
    for made in build_folder(source, cluster.folder):
        found = Kustomization(made)
        if _is_kustomization(made) and found.path == cluster.folder:
            cluster.kustomizations[found.name] = found
            return found
    problem = f"brings no Kustomization with the path ./{cluster.folder}: add ../../layers"
    raise BuildError(f"{cluster.folder}/kustomization.yaml", f"{problem} to components")


def _is_kustomization(made: Object) -> bool:
    return made.key[:2] == (FLUX_API, "Kustomization")


def _new(made: Object, cluster: Cluster) -> Kustomization | None:
    """Add a Kustomization that another one makes; return it unless it is the root again."""
    if not _is_kustomization(made):
        return None
    child = Kustomization(made)
    known = cluster.kustomizations.setdefault(child.name, child)
    if known is child:
        return child
    problem = None
    if known is not cluster.root:
        problem = f"{known.made_from.file} has one of this name, too"
    elif known.spec != child.spec:
        problem = "its patches change itself: leave it out of the targets"
    if problem:
        cluster.problems.append(BuildError(made.file, f"{made.title}: {problem}"))
    return None


def _build(waiting: list[Kustomization], sources: Mapping[str, Source], cluster: Cluster) -> None:
    """Build Kustomizations with a cluster's facts in them."""
    wanted = PINNED if PINNED in sources else BRANCH
    for name, value in cluster.facts.items():
        advice = None if isinstance(value, str) else "put it in quotes"
        if name == "source" and value != wanted:
            advice = f"say {wanted}: a pinned cluster has a version.yaml, and no other has one"
        if advice:
            problem = f"data.{name}: is {value!r}: {advice}"
            raise BuildError(f"{cluster.folder}/cluster.yaml", problem)
    asked = []
    for one in waiting:
        document = deepcopy(one.made_from.document)
        document["spec"].setdefault("sourceRef", {"name": BRANCH})
        # What is named stands before what is written here, as the controller does it.
        if items(one.spec, "postBuild.substituteFrom"):
            post = document["spec"]["postBuild"]
            post["substitute"] = {**cluster.facts, **(post.get("substitute") or {})}
        asked.append({"file": one.made_from.file, "document": document})
    for one, built in zip(waiting, _run(asked, sources), strict=True):
        try:
            one.objects.extend(_objects(built))
        except BuildError as error:
            if str(error) not in map(str, cluster.problems):
                cluster.problems.append(error)
        cluster.variables.update(built["variables"] or [])
        if sources.get(str(at(one.spec, "sourceRef.name") or BRANCH)) is sources[BRANCH]:
            cluster.files.update(built["files"] or [])


def build_folder(source: Source, path: str, facts: Mapping[str, str] | None = None) -> list[Object]:
    """Build one folder, with facts in it if any are given; BuildError says why it cannot be."""
    spec: Document = {"path": path, "sourceRef": {"name": BRANCH}}
    if facts is not None:
        spec["postBuild"] = {"substitute": dict(facts)}
    document = {"kind": "Kustomization", "metadata": {"name": path}, "spec": spec}
    (built,) = _run([{"file": path, "document": document}], {BRANCH: source})
    return _objects(built)


def _run(asked: list[Document], sources: Mapping[str, Source]) -> list[Any]:
    folders = [f"{name}={source.folder}" for name, source in sources.items()]
    done = subprocess.run(
        [binary("flux-build"), "build", *folders],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: list[Any] = json.loads(done.stdout)
    return found


_WAY: Final = re.compile(r"recursed (?:accumulation of|merging from) path '([^']+)': ")


def _objects(built: Any) -> list[Object]:
    """Return what was built; BuildError names the file that the fault is in."""
    if problem := built["problem"]:
        said = " ".join(problem["said"].split())
        way = list(_WAY.finditer(said))  # kustomize tells it to where the fault is
        file = f"{way[-1][1]}/kustomization.yaml" if way else problem["file"]
        raise BuildError(file, said[way[-1].end() :].removesuffix('"') if way else said)
    return [Object(each["document"], each["file"]) for each in built["objects"] or []]
