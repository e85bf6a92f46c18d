"""What must be so of all that Flux applies to a cluster."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, TypeAlias

import yaml

from scripts.gitops.flux import (
    BRANCH,
    NAMESPACE,
    Cluster,
    Kustomization,
    Object,
    load,
    load_unit,
)
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
Row: TypeAlias = tuple[str, str, list[Finding]]
"""What was checked, how much of it, and what is wrong with it."""


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
    first = [cluster.root.name, *_flux(cluster)]
    for kustomization in cluster.kustomizations.values():
        problems = [
            f"waits for {name}, which {cluster.folder} does not bring"
            for name in kustomization.waits_for
            if name not in cluster.kustomizations
        ]
        if not kustomization.waits_for and kustomization.name not in first:
            problems.append(f"is missing: only {' and '.join(first)} wait for nothing")
        for problem in problems:
            yield finding(kustomization.made_from, "spec.dependsOn", problem)
    try:
        TopologicalSorter({k.name: k.waits_for for k in cluster.kustomizations.values()}).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]
        problem = f"is a circle: {' -> '.join(circle)}"
        yield finding(cluster.kustomizations[circle[0]].made_from, "spec.dependsOn", problem)


def _flux(cluster: Cluster) -> list[str]:
    """Return what brings Flux itself, and so is there before the root: bootstrap applies it."""
    name = "kustomizations.kustomize.toolkit.fluxcd.io"
    return [k.name for k, applied in cluster.objects() if applied.key[3] == name]


def common_fields(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that every Kustomization has what all have in common, and none is suspended."""
    names = ("interval", "retryInterval", "timeout")
    common = {name: cluster.root.spec.get(name) for name in names}
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
    # That of a pinned version has been checked.
    for overlay in sorted({path.rpartition("/")[0] for path in paths if not cluster.pinned}):
        file = f"{overlay}/kustomization.yaml"
        wanted = {"resources": [path.rpartition("/")[2] for path in paths]}
        if (found := _read(source, file)) != wanted:
            problem = f"is {found}: say {wanted}, as Flux applies these in this order"
            yield Finding(file, "resources", problem)


# Kubernetes' own API groups; everything else is defined by somebody's CustomResourceDefinition.
_BUILT_IN: Final = re.compile(
    r"[a-z]*|([a-z]+|rbac\.authorization|flowcontrol\.apiserver)\.k8s\.io"
)
_GIVEN: Final = {f"the namespace {name}" for name in ("default", "kube-public", "kube-system")}
BROUGHT: Final = "facestack.dev/brought"
"""An annotation of a cluster's facts: the API groups that it has from elsewhere."""


def order(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that namespaces and kinds are there before what needs them."""
    made = {name: set(_made(one)) for name, one in cluster.kustomizations.items()}
    annotation = mapping(cluster.config, "metadata.annotations").get(BROUGHT, "")
    brought = re.split(r"[,\s]+", annotation)
    for name, kustomization in cluster.kustomizations.items():
        # Within one Kustomization Flux applies namespaces and definitions first.
        earlier = {name, *cluster.before(name)}
        earlier |= set(_flux(cluster)) if kustomization is cluster.root else set()
        there = _GIVEN.union(*(made[each] for each in earlier))
        for applied in kustomization.objects:
            group, kind, namespace, _ = applied.key
            place, what = f"the namespace {namespace}", f"{applied.document['apiVersion']} {kind}"
            if namespace and place not in there:
                problem = f"nothing before {name} makes {place}: add it to what this depends on"
                yield finding(applied, "metadata.namespace", problem)
            if not _BUILT_IN.fullmatch(group) and group not in brought and what not in there:
                problem = f"nothing before {name} installs {what}: depend on what does"
                yield finding(applied, "apiVersion, kind", problem)


def _made(kustomization: Kustomization) -> Iterator[str]:
    """Yield the namespaces and kinds that a Kustomization brings."""
    for applied in kustomization.objects:
        _, kind, _, name = applied.key
        if kind == "Namespace":
            yield f"the namespace {name}"
        elif kind == "CustomResourceDefinition":
            spec = applied.document["spec"]
            for version in items(spec, "versions"):
                if version.get("served"):
                    yield f"{spec['group']}/{version['name']} {at(spec, 'names.kind')}"


def secrets(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that every Secret is encrypted for this cluster, and decrypted where it is applied.

    That it is sops' is a rule for all manifests.
    """
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
    new: dict[str, str] = {}
    for _, applied in cluster.objects():
        # Flux takes away what sops adds.
        document = {key: value for key, value in applied.document.items() if key != "sops"}
        if (text := json.dumps(document)) not in _valid:
            new[text] = applied.title
    found = list(tools.kubeconform("\n---\n".join(new))) if new else []
    wrong = {one.where for one in found}
    _valid.update(text for text, title in new.items() if title not in wrong)
    yield from _with_files(cluster, found)


def manifests(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check the rules for manifests, and Pod Security, over all that is applied."""
    documents = Manifests((one.document for _, one in cluster.objects()), cluster.facts)
    pods = "\n---\n".join(map(json.dumps, documents.kind("Namespace", *WORKLOAD_KINDS)))
    yield from _with_files(cluster, (*check_manifests(documents), *tools.pod_security(pods)))


def _with_files(cluster: Cluster, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings about objects with the files that these are made from."""
    files: dict[str, set[str]] = {}
    for _, applied in cluster.objects():
        files.setdefault(applied.title, set()).add(applied.file)
    for one in findings:
        file = " or ".join(sorted(files.get(one.where.replace(" of ", "/"), ())))
        yield Finding(f"{file}: {one.where}" if file else one.where, one.field, one.problem)


STAGES: Final[tuple[tuple[Check, ...], ...]] = (
    (identities, dependencies, common_fields, facts, secrets, strictness, schemas),
    (layers, order, migrations_first),
    (manifests,),
)
"""The checks. After a stage with findings comes none: its findings would follow from them."""


def check(cluster: Cluster, source: Source) -> Iterator[Finding]:
    """Yield whatever is wrong with a cluster."""
    yield from _not_built(cluster)
    for stage in STAGES if not cluster.problems else ():
        found = [finding for look in stage for finding in look(cluster, source)]
        yield from found
        if found:
            return


def _not_built(cluster: Cluster) -> list[Finding]:
    return [Finding(problem.file, "build", problem.problem) for problem in cluster.problems]


_NOT_FOR_FLUX: Final = (
    "*README.md",
    "overlays/*/kustomization.yaml",  # the check of layers holds it to what Flux applies
    "base/checks.yaml",
    "base/components/*",  # an overlay takes in what it wants
)


def validate(tree: Source, names: list[str]) -> Iterator[Row]:
    """Check clusters; when all are asked for, and can be built, also what none of them uses."""
    whole = names == tree.clusters()
    used: set[str] = set()
    with ThreadPoolExecutor() as pool:  # one is built while another is checked
        for cluster in pool.map(lambda name: load(tree, name), names):
            count = len(list(cluster.objects()))
            looked_at = f"{len(cluster.kustomizations)} Kustomizations, {count} objects"
            yield cluster.name, looked_at, list(check(cluster, tree))
            used |= cluster.files
            if whole and cluster.pinned:
                used |= load(tree, cluster.name, pinned=False).files
            whole = whole and not cluster.problems
    if not whole:
        return
    # A unit that no cluster has is there to be taken.
    for path in sorted(tree.folder.glob("apps/*/kustomization.yaml")):
        unit = path.parent.relative_to(tree.folder).as_posix()
        if f"{unit}/kustomization.yaml" not in used:
            built = load_unit(tree, unit)
            yield unit, "built alone: no cluster has it", _not_built(built)
            used |= built.files
    problem = "no cluster uses it: name it in a kustomization.yaml, or delete it"
    unused = [
        Finding(name, "file", problem)
        for name in sorted(tree.files() - used)
        if not any(fnmatch(name, pattern) for pattern in _NOT_FOR_FLUX)
    ]
    yield "files", f"{len(tree.files())} files", unused
