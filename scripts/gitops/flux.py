"""Builds Kustomizations as Flux's kustomize-controller does, by the kustomization that it writes.

The controller adds patches, components and the like of a Kustomization to the kustomization.yaml
in its path, builds that, and puts the facts into what comes out. Here kubectl does the building.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import yaml

from scripts.gitops import substitution
from scripts.gitops.source import Source, normal
from scripts.manifests.model import FLUX_API, Document, at, items, mapping, title

NAMESPACE: Final = "flux-system"
_WAY: Final = re.compile(r"recursed (?:accumulation of|merging from) path '([^']+)': ")
_ORIGIN: Final = "config.kubernetes.io/origin"
# Kustomize takes these for namespaced ones; the API server drops the namespace.
_CLUSTER_WIDE: Final = frozenset({"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"})
# Fields that say how to build, and those that do not; any other is not known here.
_BUILDING: Final = frozenset(
    {
        "commonMetadata",
        "components",
        "decryption",
        "ignoreMissingComponents",
        "images",
        "namePrefix",
        "nameSuffix",
        "patches",
        "path",
        "postBuild",
        "sourceRef",
        "targetNamespace",
    }
)
_RUNNING: Final = frozenset(
    {
        "deletionPolicy",
        "dependsOn",
        "force",
        "healthCheckExprs",
        "healthChecks",
        "interval",
        "prune",
        "retryInterval",
        "serviceAccountName",
        "suspend",
        "timeout",
        "wait",
    }
)


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


@dataclass
class Kustomization:
    """A Kustomization of Flux, and what it applies."""

    made_from: Object
    objects: list[Object] = field(default_factory=list)

    @cached_property
    def name(self) -> str:
        """Return its name."""
        return str(at(self.made_from.document, "metadata.name"))

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        """Return what it says."""
        return mapping(self.made_from.document, "spec")

    @cached_property
    def path(self) -> str:
        """Return the folder that it applies."""
        return normal(str(self.spec.get("path") or "."))

    @cached_property
    def waits_for(self) -> list[str]:
        """Return the names of the Kustomizations that it waits for."""
        return [str(dependency.get("name")) for dependency in items(self.spec, "dependsOn")]

    @property
    def file(self) -> str:
        """Return the file that defines it."""
        return self.made_from.file


class Builder:
    """Builds Kustomizations from one source; equal ones only once, whatever the source."""

    _cache: Final[dict[str, str]] = {}

    def __init__(self, source: Source, kubectl: str) -> None:
        self.source = source
        self._kubectl = kubectl
        self.files: set[str] = set()
        """The files that all builds together read."""

    def build(
        self, kustomization: Kustomization, facts: Mapping[str, str], used: set[str]
    ) -> list[Object]:
        """Return what Flux would apply; note the facts' names in ``used``."""
        spec = kustomization.spec
        if unknown := sorted(spec.keys() - _BUILDING - _RUNNING):
            raise BuildError(
                kustomization.file,
                f"{kustomization.made_from.title}: spec.{unknown[0]}: is not known here: take it"
                " away, or teach scripts/gitops/flux.py what Flux does with it",
            )
        printed = self._print(kustomization)
        try:
            if "postBuild" in spec:
                printed = substitution.apply(printed, facts, used)
            documents = substitution.read(printed)
        except substitution.SubstitutionError as error:
            made_from = error.document and self._object(kustomization, error.document)
            raise BuildError(
                made_from.file if made_from else kustomization.file, str(error)
            ) from None
        objects = [self._object(kustomization, document) for document in documents]
        return [_with_common_metadata(built, spec) for built in objects]

    def plain(self, path: str, facts: Mapping[str, str] | None = None) -> list[Object]:
        """Return the objects of a folder by itself."""
        spec = {"path": path, "postBuild": {}}
        made_from = Object({"metadata": {"name": path}, "spec": spec}, path)
        return self.build(Kustomization(made_from), facts or {}, set())

    def _print(self, kustomization: Kustomization) -> str:
        """Return what kustomize makes of the folder and of what the Kustomization adds."""
        folder = kustomization.path
        file = f"{folder}/kustomization.yaml"
        if not (self.source.folder / folder).is_dir():
            title_ = kustomization.made_from.title
            problem = f"{title_}: spec.path: there is no folder {folder} in git"
            raise BuildError(kustomization.file, problem)
        original = self.source.folder / file
        if not original.is_file():
            raise BuildError(file, "is missing: without it Flux takes every YAML file there is")
        components = [str(component) for component in kustomization.spec.get("components") or []]
        parts = [folder, *(f"{folder}/{component}" for component in components)]
        read = set().union(*(self.source.used(part) for part in parts))
        self.files |= read
        for problem_file, problem in self.source.problems(read):
            raise BuildError(problem_file, problem)
        written = self._generate(kustomization, original)
        digest = sha256(written.encode())
        for name in sorted(read):
            digest.update(f"\0{name}\0".encode() + (self.source.folder / name).read_bytes())
        key = f"{folder} {digest.hexdigest()}"
        if key not in self._cache:
            kept = original.read_bytes()
            original.write_text(written)
            try:
                self._cache[key] = self._kustomize(folder)
            finally:
                original.write_bytes(kept)
        return self._cache[key]

    def _generate(self, kustomization: Kustomization, original: Path) -> str:
        """Return the kustomization that Flux writes in the place of the one that is there."""
        spec = kustomization.spec
        content = yaml.load(original.read_text(), yaml.CSafeLoader)
        for theirs, ours in (
            ("targetNamespace", "namespace"),
            ("namePrefix", "namePrefix"),
            ("nameSuffix", "nameSuffix"),
        ):
            if theirs in spec:
                content[ours] = spec[theirs]
        if spec.get("patches"):
            content["patches"] = [*(content.get("patches") or []), *spec["patches"]]
        folder = self.source.folder / kustomization.path
        components = [str(component) for component in spec.get("components") or []]
        if spec.get("ignoreMissingComponents"):
            components = [component for component in components if (folder / component).exists()]
        if components:
            content["components"] = [*(content.get("components") or []), *components]
        if spec.get("images"):
            content["images"] = list(_merge(content.get("images") or [], spec["images"]))
        # So that every object says which file it is from; Flux itself does without.
        content["buildMetadata"] = ["originAnnotations"]
        return yaml.safe_dump(content, sort_keys=False)

    def _kustomize(self, folder: str) -> str:
        done = subprocess.run(
            [
                self._kubectl,
                "kustomize",
                "--load-restrictor=LoadRestrictionsNone",
                str(self.source.folder / folder),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = " ".join(done.stderr.split()).removeprefix("error: ")
            said = said.replace(f"{self.source.folder.resolve()}/", "")
            # It tells the whole way to where the fault is.
            way = list(_WAY.finditer(said))
            place = way[-1][1] if way else folder
            raise BuildError(f"{place}/kustomization.yaml", said[way[-1].end() :] if way else said)
        return done.stdout

    def _object(self, kustomization: Kustomization, document: Document) -> Object:
        """Take the file that an object is from off the object."""
        if not at(document, "kind") or not at(document, "metadata.name"):
            raise BuildError(kustomization.file, f"{document} has no kind or no name")
        annotations = document["metadata"].get("annotations") or {}
        origin = yaml.load(annotations.pop(_ORIGIN, "{}"), yaml.CSafeLoader)
        if not annotations:
            document["metadata"].pop("annotations", None)
        # What a kustomization generates is from that kustomization.
        name = origin.get("path") or origin.get("configuredIn") or "kustomization.yaml"
        return Object(document, normal(f"{kustomization.path}/{name}"))


def _merge(own: list[Any], added: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield a kustomization's images with what a Kustomization says in addition."""
    by_name = {image["name"]: dict(image) for image in own}
    for image in added:
        entry = by_name.setdefault(image["name"], {"name": image["name"]})
        if image.get("newName"):
            entry["newName"] = image["newName"]
        if image.get("newTag") or image.get("digest"):
            # A tag and a digest are one thing: a new one takes the place of both.
            for name in ("newTag", "digest"):
                entry.pop(name, None)
                if image.get(name):
                    entry[name] = image[name]
    yield from by_name.values()


def _with_common_metadata(one: Object, spec: Mapping[str, Any]) -> Object:
    for kind in ("labels", "annotations"):
        if added := mapping(spec, f"commonMetadata.{kind}"):
            metadata = one.document["metadata"]
            metadata[kind] = {**(metadata.get(kind) or {}), **added}
    return one


@dataclass
class Cluster:
    """All that Flux applies to one cluster."""

    name: str
    facts: Mapping[str, str]
    kustomizations: dict[str, Kustomization] = field(default_factory=dict)
    used_facts: set[str] = field(default_factory=set)
    problems: list[BuildError] = field(default_factory=list)
    """What could not be built."""

    @property
    def root(self) -> Kustomization:
        """Return the Kustomization that brings all others, and itself."""
        return next(iter(self.kustomizations.values()))

    def objects(self) -> Iterator[tuple[Kustomization, Object]]:
        """Yield every object with the Kustomization that applies it."""
        for kustomization in self.kustomizations.values():
            for applied in kustomization.objects:
                yield kustomization, applied

    def before(self, name: str) -> set[str]:
        """Return the Kustomizations that are ready before one is applied."""
        found: set[str] = set()
        wanted = list(self.kustomizations[name].waits_for) if name in self.kustomizations else []
        while wanted:
            earlier = wanted.pop()
            if earlier not in found and earlier in self.kustomizations:
                found.add(earlier)
                wanted += self.kustomizations[earlier].waits_for
        return found


def is_kustomization(document: Document) -> bool:
    """Tell whether a document is a Kustomization of Flux."""
    return document.get("kind") == "Kustomization" and str(document.get("apiVersion")).startswith(
        f"{FLUX_API}/"
    )


def load(builder: Builder, name: str) -> Cluster:
    """Build all that Flux applies to the cluster whose entry folder has this name."""
    if f"flux/{name}/cluster.yaml" not in builder.source.used(f"flux/{name}"):
        file = f"flux/{name}/kustomization.yaml"
        raise BuildError(file, "does not list cluster.yaml: add it to resources")
    plain = builder.plain(f"flux/{name}")
    facts = _facts(name, plain)
    cluster = Cluster(name, facts)
    root = _root(plain, f"flux/{name}", facts)
    cluster.kustomizations[root.name] = root
    waiting = [root]
    while waiting:
        next_ = waiting.pop(0)
        try:
            next_.objects = builder.build(next_, _facts_of(next_, facts), cluster.used_facts)
        except BuildError as error:
            cluster.problems.append(error)
        for made in next_.objects:
            if is_kustomization(made.document):
                waiting += _new(cluster, Kustomization(made))
    return cluster


def _facts(name: str, plain: list[Object]) -> Mapping[str, str]:
    """Return the facts of a cluster, out of what its entry folder has."""
    file = f"flux/{name}/cluster.yaml"
    facts = next(mapping(found.document, "data") for found in plain if found.file == file)
    for key, value in facts.items():
        if not isinstance(value, str):
            raise BuildError(file, f"data.{key}: is {value!r}: put it in quotes")
    # Flux takes line breaks away, because a value becomes part of a line.
    return {key: value.replace("\n", "") for key, value in facts.items()}


def _new(cluster: Cluster, child: Kustomization) -> list[Kustomization]:
    """Add a Kustomization that another one makes; return it unless it is the root again."""
    known = cluster.kustomizations.setdefault(child.name, child)
    if known is child:
        return [child]
    if known is not cluster.root:
        problem = f"{child.made_from.title}: {known.file} has one of this name, too"
        raise BuildError(child.file, problem)
    if known.spec != child.spec:
        problem = f"{child.made_from.title}: its patches change itself: leave it out of the targets"
        raise BuildError(child.file, problem)
    return []


def _root(plain: list[Object], entry: str, facts: Mapping[str, str]) -> Kustomization:
    """Return the Kustomization of the entry folder whose path is that folder."""
    for made in plain:
        if is_kustomization(made.document):
            try:
                text = substitution.substitute(yaml.safe_dump(made.document), facts)
            except substitution.SubstitutionError as error:
                raise BuildError(made.file, f"{made.title}: {error}") from None
            found = Kustomization(Object(substitution.read(text)[0], made.file))
            if found.path == entry:
                return found
    problem = f"has no Kustomization with the path ./{entry}: add ../root to resources"
    raise BuildError(f"{entry}/kustomization.yaml", problem)


def _facts_of(kustomization: Kustomization, facts: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a Kustomization puts into what it builds."""
    found: dict[str, str] = {}
    for reference in items(kustomization.spec, "postBuild.substituteFrom"):
        if reference != {"kind": "ConfigMap", "name": "cluster"}:
            raise BuildError(
                kustomization.file,
                f"{kustomization.made_from.title}: spec.postBuild.substituteFrom: is {reference}:"
                " only the ConfigMap cluster has facts",
            )
        found |= facts
    inline = mapping(kustomization.spec, "postBuild.substitute")
    return found | {name: str(value).replace("\n", "") for name, value in inline.items()}
