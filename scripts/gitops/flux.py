"""What Flux would apply to a cluster, rendered by its own code: scripts/flux-build."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from posixpath import normpath
from typing import Any, Final, Self

import yaml

from scripts.gitops.source import CLUSTERS, Source, commit
from scripts.manifests.model import FLUX_API, Document, Finding, Manifests, at, items, mapping
from scripts.programs import ask

NAMESPACE: Final = "flux-system"
BRANCH: Final = "facestack"
"""The GitRepository that follows the branch, and so names what a cluster's folder says."""

PINNED: Final = "version"
"""The GitRepository in version.yaml, for what a cluster takes from one commit."""

# Kustomize takes these for namespaced ones; the API server drops the namespace.
_CLUSTER_WIDE: Final = frozenset({"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"})


class BuildError(Exception):
    """Flux would not build this; its one argument is a Finding, about the file."""


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
        return f"{self.key[1]}/{self.key[3]}"


class Kustomization:
    """A Kustomization of Flux, and the objects that it applies from the folder ``path``."""

    def __init__(self, made_from: Object) -> None:
        self.made_from = made_from
        self.objects: list[Object] = []
        self.name = made_from.key[3]
        self.spec = mapping(made_from.document, "spec")
        self.path = normpath(str(self.spec.get("path")))
        self.waits_for = [str(before.get("name")) for before in items(self.spec, "dependsOn")]


@dataclass(frozen=True)
class Cluster:
    """All that Flux applies to one cluster."""

    name: str
    kustomizations: dict[str, Kustomization] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)
    """What could not be built."""
    variables: set[str] = field(default_factory=set)
    """The names of facts that manifests, or kustomize's replacements, have a place for."""
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
    def config(self) -> Document:
        """Return the ConfigMap with its facts; an empty one when there is none."""
        key = ("", "ConfigMap", NAMESPACE, "cluster")
        return next((one.document for _, one in self.objects() if one.key == key), {})

    @property
    def facts(self) -> Mapping[str, str]:
        """Return what is so on this cluster only."""
        # What is no text has no place there, as its schema says.
        return {name: str(value) for name, value in mapping(self.config, "data").items()}

    @property
    def pinned(self) -> bool:
        """Tell whether it takes its version from one commit."""
        return self.facts.get("source") == PINNED

    def whole(self) -> Self:
        """Return the cluster; BuildError: not all of it could be built."""
        for problem in self.problems:
            raise BuildError(problem)
        return self

    def objects(self) -> Iterator[tuple[Kustomization, Object]]:
        """Yield every object with the Kustomization that applies it."""
        for kustomization in self.kustomizations.values():
            for applied in kustomization.objects:
                yield kustomization, applied

    @property
    def manifests(self) -> Manifests:
        """Return all of them, as the rules look at them."""
        return Manifests((one.document for _, one in self.objects()), self.facts)

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
            cluster.problems.append(error.args[0])
    return cluster


def load_unit(source: Source, path: str) -> Cluster:
    """Build a unit that no cluster has, so without facts."""
    cluster = Cluster(path)
    _grow(cluster, Kustomization(_asking_for(path)), {BRANCH: source})
    return cluster


def _asking_for(path: str, **spec: Any) -> Object:
    """Return a Kustomization for a folder that none is for."""
    document = {"kind": "Kustomization", "metadata": {"name": path}, "spec": {"path": path, **spec}}
    return Object(document, path)


def _grow(cluster: Cluster, first: Kustomization, sources: Mapping[str, Source]) -> None:
    """Build a Kustomization, and what comes out of it, and what comes out of that."""
    cluster.kustomizations[first.name] = first
    waiting = [first]
    while waiting:
        _build(waiting, sources, cluster)
        made = _kustomizations(one for parent in waiting for one in parent.objects)
        known = cluster.kustomizations
        # The root makes itself again; that nobody else does, the checks say.
        waiting = [child for child in made if known.setdefault(child.name, child) is child]


def _kustomizations(made: Iterable[Object]) -> list[Kustomization]:
    """Return those of objects that are Kustomizations of Flux."""
    return [Kustomization(one) for one in made if one.key[:2] == (FLUX_API, "Kustomization")]


def _root(cluster: Cluster, source: Source) -> Kustomization:
    """Return the Kustomization of a cluster's folder that applies this folder."""
    for found in _kustomizations(build_folder(source, cluster.folder)):
        if found.path == cluster.folder:
            return found
    problem = f"brings no Kustomization with the path ./{cluster.folder}: add ../../layers"
    file = f"{cluster.folder}/kustomization.yaml"
    raise BuildError(Finding(file, "build", f"{problem} to components"))


def _build(waiting: list[Kustomization], sources: Mapping[str, Source], cluster: Cluster) -> None:
    """Build Kustomizations with a cluster's facts in them."""
    asked = []
    for one in waiting:
        spec = {"sourceRef": {"name": BRANCH}, **one.spec}
        # What is named stands before what is written here, as the controller does it.
        if items(spec, "postBuild.substituteFrom"):
            post = spec["postBuild"]
            substitute = {**cluster.facts, **(post.get("substitute") or {})}
            spec["postBuild"] = {**post, "substitute": substitute}
        asked.append(Object({**one.made_from.document, "spec": spec}, one.made_from.file))
    for one, built in zip(waiting, _run(asked, sources), strict=True):
        try:
            one.objects.extend(_objects(built))
        except BuildError as error:
            cluster.problems.append(error.args[0])
            continue
        source = sources[str(at(one.spec, "sourceRef.name") or BRANCH)]
        for name in built["files"]:
            cluster.variables.update(_VARIABLE.findall((source.folder / name).read_text()))
        if source is sources[BRANCH]:
            cluster.files.update(built["files"])


_VARIABLE: Final = re.compile(r"(?:\$\{|fieldPath: data\.)(\w+)")


def build_folder(source: Source, path: str, facts: Mapping[str, str] | None = None) -> list[Object]:
    """Build one folder, with facts in it if any are given; BuildError says why it cannot be."""
    spec = {} if facts is None else {"postBuild": {"substitute": facts}}
    [built] = _run([_asking_for(path, sourceRef={"name": BRANCH}, **spec)], {BRANCH: source})
    return _objects(built)


def _run(asked: list[Object], sources: Mapping[str, Source]) -> list[Any]:
    folders = {name: str(source.folder) for name, source in sources.items()}
    given = {"sources": folders, "kustomizations": [asdict(one) for one in asked]}
    found: list[Any] = ask(json.dumps(given), "flux-build", "build")
    return found


_WAY: Final = re.compile(r"recursed (?:accumulation of|merging from) path '([^']+)': ")


def _objects(built: Any) -> list[Object]:
    """Return what was built; BuildError names the file that the fault is in."""
    if built["problem"]:
        said = " ".join(built["problem"].split())
        way = list(_WAY.finditer(said))  # kustomize tells it to where the fault is
        file = f"{way[-1][1]}/kustomization.yaml" if way else built["file"]
        problem = said[way[-1].end() :].removesuffix('"') if way else said
        raise BuildError(Finding(file, "build", problem))
    return [Object(each["document"], each["file"]) for each in built["objects"] or []]
