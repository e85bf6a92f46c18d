"""What must be so of all that Flux applies to a cluster."""

import json
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from typing import Any, Final, TypeAlias

import yaml

from scripts.gitops.flux import BRANCH, NAMESPACE, Cluster, Kustomization, Object
from scripts.gitops.source import Source
from scripts.manifests import tools
from scripts.manifests.model import (
    NAME_LABEL,
    WORKLOAD_KINDS,
    Finding,
    Manifests,
    at,
    items,
    mapping,
)
from scripts.manifests.rules import check as check_manifests

Check: TypeAlias = Callable[[Cluster, Source], Iterator[Finding]]


def finding(applied: Object, field: str, problem: str) -> Finding:
    """Return a finding about an object, which names its file."""
    return Finding(f"{applied.file}: {applied.title}", field, problem)


def identities(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that no two Kustomizations apply the same object: each would undo the other's."""
    seen: dict[tuple[str, ...], Kustomization] = {}
    for kustomization, applied in cluster.objects():
        other = seen.setdefault(applied.key, kustomization)
        if other is not kustomization:
            problem = f"{other.name} and {kustomization.name} both apply it: take it out of one"
            yield finding(applied, "metadata.name", problem)


def dependencies(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that what a Kustomization waits for exists, and does not wait for it in turn."""
    told: set[str] = set()
    first = [cluster.root.name, *_flux(cluster)]
    for kustomization in cluster.kustomizations.values():
        problems = [
            f"waits for {name}, which {cluster.folder} does not bring"
            for name in kustomization.waits_for
            if name not in cluster.kustomizations
        ]
        if circle := _circle(cluster, kustomization.name):
            if not told & set(circle):
                problems.append(f"is a circle: {' -> '.join(circle)}")
            told |= set(circle)
        elif not kustomization.waits_for and kustomization.name not in first:
            problems.append(f"is missing: only {' and '.join(first)} wait for nothing")
        for problem in problems:
            yield finding(kustomization.made_from, "spec.dependsOn", problem)


def _flux(cluster: Cluster) -> list[str]:
    """Return what brings Flux itself, and so is there before the root: bootstrap applies it."""
    name = "kustomizations.kustomize.toolkit.fluxcd.io"
    return [k.name for k, applied in cluster.objects() if applied.key[3] == name]


def _circle(cluster: Cluster, start: str) -> list[str]:
    """Return the names on the way from a Kustomization back to itself, if there is one."""
    ways = [[start]]
    for way in ways:
        for name in cluster.kustomizations[way[-1]].waits_for:
            if name == start:
                return [*way, name]
            if name in cluster.kustomizations and name not in way:
                ways.append([*way, name])
    return []


def common_fields(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that every Kustomization has what all have in common, and none is suspended."""
    common = {
        name: cluster.root.spec.get(name) for name in ("interval", "retryInterval", "timeout")
    }
    for kustomization in cluster.kustomizations.values():
        # The root would wait for itself, and a fact of the next push must not hold up that push.
        is_root = kustomization is cluster.root
        own = kustomization.path.startswith(cluster.folder)
        wanted = {
            **common,
            "prune": True,
            "sourceRef.kind": "GitRepository",
            "sourceRef.name": BRANCH if own else cluster.facts.get("source"),
            "wait": not is_root,
            "postBuild.substituteFrom": None
            if is_root
            else [{"kind": "ConfigMap", "name": "cluster"}],
        }
        for field, value in wanted.items():
            if (found := at(kustomization.spec, field)) != value:
                problem = f"is {found!r}: {value!r} is right, which the root gives to all others"
                yield finding(kustomization.made_from, f"spec.{field}", problem)
        if kustomization.spec.get("suspend"):
            problem = "take it away: a push would change nothing, and nobody would know"
            yield finding(kustomization.made_from, "spec.suspend", problem)


def facts(cluster: Cluster, source: Source) -> Iterator[Finding]:
    """Check that every fact is used; that every variable is a fact is Flux's own strict mode."""
    used = cluster.variables.union(
        # Those that kustomize itself puts where they belong.
        str(at(replacement, "source.fieldPath")).removeprefix("data.")
        for name in cluster.files
        if fnmatch(name, "flux/*/kustomization.yaml")
        for replacement in items(_read(source, name), "replacements")
    )
    where = f"{cluster.folder}/cluster.yaml: ConfigMap/cluster"
    for name in sorted(cluster.facts.keys() - used):
        yield Finding(where, f"data.{name}", "nothing on this cluster uses it: take it away")


def _read(source: Source, name: str) -> Any:
    return yaml.load((source.folder / name).read_text(), yaml.CSafeLoader)


def layers(cluster: Cluster, source: Source) -> Iterator[Finding]:
    """Check that an overlay is its layers and nothing else: Flux applies those, and never it."""
    paths = [k.path for k in cluster.kustomizations.values() if k.path.startswith("overlays/")]
    for overlay in sorted({path.rpartition("/")[0] for path in paths}):
        file = f"{overlay}/kustomization.yaml"
        # That of a pinned version has been checked.
        if cluster.facts.get("source") == BRANCH:
            wanted = {"resources": [path.rpartition("/")[2] for path in paths]}
            if (found := _read(source, file)) != wanted:
                problem = f"is {found}: say {wanted}, as Flux applies these in this order"
                yield Finding(file, "resources", problem)


# Kubernetes' own API groups; everything else is defined by somebody's CustomResourceDefinition.
_BUILT_IN: Final = re.compile(
    r"[a-z]*|([a-z]+|rbac\.authorization|flowcontrol\.apiserver)\.k8s\.io"
)
_GIVEN: Final = {("namespace", name) for name in ("", "default", "kube-public", "kube-system")}
BROUGHT: Final = "facestack.dev/brought"
"""An annotation of a cluster's facts: the API groups that it has from elsewhere."""


def order(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that namespaces and kinds are there before what needs them."""
    made: dict[str, set[tuple[str, ...]]] = {name: set() for name in cluster.kustomizations}
    brought: list[str] = []
    for kustomization, applied in cluster.objects():
        group, kind, namespace, name = applied.key
        if kind == "Namespace":
            made[kustomization.name].add(("namespace", name))
        elif kind == "CustomResourceDefinition":
            spec = mapping(applied.document, "spec")
            made[kustomization.name] |= {
                (str(spec.get("group")), str(version.get("name")), str(at(spec, "names.kind")))
                for version in items(spec, "versions")
                if version.get("served")
            }
        elif (kind, namespace, name) == ("ConfigMap", NAMESPACE, "cluster"):
            text = mapping(applied.document, "metadata.annotations").get(BROUGHT, "")
            brought = re.split(r"[,\s]+", text)
    for kustomization, applied in cluster.objects():
        # Within one Kustomization Flux applies namespaces and definitions first.
        earlier = [kustomization.name, *cluster.before(kustomization.name)]
        earlier += _flux(cluster) if kustomization is cluster.root else []
        there = _GIVEN.union(*(made[name] for name in earlier))
        group, _, version = str(applied.document.get("apiVersion")).rpartition("/")
        _, kind, namespace, _ = applied.key
        if ("namespace", namespace) not in there:
            problem = f"nothing before {kustomization.name} makes the namespace {namespace}: add"
            yield finding(applied, "metadata.namespace", f"{problem} it to what this depends on")
        known = _BUILT_IN.fullmatch(group) or group in brought
        if not known and (group, version, kind) not in there:
            problem = f"nothing before {kustomization.name} installs {group}/{version} {kind}"
            yield finding(applied, "apiVersion, kind", f"{problem}: depend on what does")


def secrets(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that every Secret is encrypted for this cluster, and decrypted where it is applied."""
    place = f"{cluster.folder}/secrets/"
    for kustomization, applied in cluster.objects():
        if "sops" in applied.document and not at(kustomization.spec, "decryption.provider"):
            problem = f"{kustomization.name} does not decrypt it: set its spec.decryption"
            yield finding(applied, "sops", problem)
        if applied.key[1] != "Secret":
            continue
        for field in ("data", "stringData"):
            for key, value in mapping(applied.document, field).items():
                if not str(value).startswith("ENC["):
                    problem = f"is not encrypted: run 'make secrets CLUSTER={cluster.name}', and"
                    yield finding(applied, f"{field}.{key}", f"{problem} change the secret")
        if not at(applied.document, "sops.mac"):
            yield finding(applied, "sops", "is missing: only what sops has encrypted is in git")
        if not applied.file.startswith(place):
            yield finding(applied, "kind", f"put it into {place}, which this cluster's key is for")


def migrations_first(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that what asks the database is not rolled out before the migrations have run."""
    done = {
        kustomization.name
        for kustomization, applied in cluster.objects()
        if applied.key[1] == "Job"
        and mapping(applied.document, "metadata.labels").get(NAME_LABEL) == "migrations"
    }
    for kustomization, applied in cluster.objects():
        labels = mapping(applied.document, "spec.template.metadata.labels")
        needed = applied.key[1] == "Deployment" and "access.facestack.dev/mariadb" in labels
        if needed and not done & cluster.before(kustomization.name):
            problem = f"does not wait for the migrations, which {applied.title} needs"
            yield finding(kustomization.made_from, "spec.dependsOn", problem)


def strictness(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that Flux refuses a variable that is no fact, as these checks do."""
    for _, applied in cluster.objects():
        if applied.key[1:] == ("Deployment", NAMESPACE, "kustomize-controller"):
            for container in items(applied.document, "spec.template.spec.containers"):
                if not any(_STRICT.match(str(word)) for word in container.get("args") or []):
                    problem = "set --feature-gates=StrictPostBuildSubstitutions=true"
                    yield finding(applied, "spec.template.spec.containers[manager].args", problem)


_STRICT: Final = re.compile(r"--feature-gates=(.*,)?StrictPostBuildSubstitutions=true(,|$)")
_valid: set[str] = set()


def schemas(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check every object against its schema; what has passed once is not asked about again."""
    new: dict[str, Object] = {}
    for _, applied in cluster.objects():
        # Flux takes away what sops adds.
        document = {key: value for key, value in applied.document.items() if key != "sops"}
        text = json.dumps(document)
        if text not in _valid:
            new[text] = applied
    wrong = set()
    for found in tools.kubeconform("\n---\n".join(new)) if new else ():
        wrong.add(found.where)
        files = sorted({applied.file for applied in new.values() if applied.title == found.where})
        where = f"{' or '.join(files)}: {found.where}"
        yield Finding(where, found.field or "fields", found.problem)
    _valid.update(text for text, applied in new.items() if applied.title not in wrong)


def manifests(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check the rules for manifests, and Pod Security, over all that is applied."""
    files = {applied.title: applied.file for _, applied in cluster.objects()}
    documents = Manifests((one.document for _, one in cluster.objects()), cluster.facts)
    pods = "\n---\n".join(map(json.dumps, documents.kind("Namespace", *WORKLOAD_KINDS)))
    for found in (*check_manifests(documents), *tools.pod_security(pods)):
        file = files.get(found.where.replace(" of ", "/"))
        yield Finding(f"{file}: {found.where}" if file else found.where, found.field, found.problem)


STAGES: Final[tuple[tuple[Check, ...], ...]] = (
    (identities, dependencies, common_fields, facts, secrets, strictness, schemas),
    (layers, order, migrations_first),
    (manifests,),
)
"""The checks. After a stage with findings comes none: its findings would follow from them."""


def check(cluster: Cluster, source: Source) -> Iterator[Finding]:
    """Yield whatever is wrong with a cluster."""
    for problem in cluster.problems:
        yield Finding(problem.file, "build", problem.problem)
    for stage in STAGES if not cluster.problems else ():
        found = [finding for look in stage for finding in look(cluster, source)]
        yield from found
        if found:
            return


_NOT_FOR_FLUX: Final = (
    "*README.md",
    "overlays/*/kustomization.yaml",  # the check of layers holds it to what Flux applies
    "base/checks.yaml",
    "base/components/*",  # an overlay takes in what it wants
)


def unused_files(source: Source, used: set[str]) -> Iterator[Finding]:
    """Yield the files in the trees that no cluster uses."""
    for name in sorted(source.files() - used):
        if not any(fnmatch(name, pattern) for pattern in _NOT_FOR_FLUX):
            problem = "no cluster uses it: name it in a kustomization.yaml, or delete it"
            yield Finding(name, "file", problem)
