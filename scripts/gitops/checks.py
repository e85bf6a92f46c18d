"""Build what Flux would apply to each cluster, exactly as Flux does, and check it."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from typing import Final, TypeAlias

import yaml

from scripts.gitops import source
from scripts.gitops.flux import (
    BRANCH,
    NAMESPACE,
    PINNED,
    BuildError,
    Cluster,
    Kustomization,
    load,
    load_unit,
)
from scripts.gitops.source import Source
from scripts.manifests import tools
from scripts.manifests.model import Finding, at, items, mapping
from scripts.manifests.rules import check as check_manifests
from scripts.programs import ProgramError

Check: TypeAlias = Callable[[Cluster, Source], Iterator[Finding]]
Row: TypeAlias = tuple[str, str, list[Finding]]
"""What was checked, how much of it, and what is wrong with it."""


def identities(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that no two Kustomizations apply the same object: each would undo the other's."""
    seen: dict[tuple[str, ...], Kustomization] = {}
    for kustomization, applied in cluster.objects():
        other = seen.setdefault(applied.key, kustomization)
        if other is not kustomization:
            problem = f"{other.name} and {kustomization.name} both apply it: take it out of one"
            yield Finding(applied.title, "metadata.name", problem)


def circles(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that no Kustomization waits for itself, by way of others."""
    try:
        TopologicalSorter({k.name: k.waits_for for k in cluster.kustomizations.values()}).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]
        problem = f"is a circle: {' -> '.join(circle)}"
        yield Finding(f"Kustomization/{circle[0]}", "spec.dependsOn", problem)


def versions(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that a cluster's own is of the branch, and all else of the commit that it pins."""
    pin = ("source.toolkit.fluxcd.io", "GitRepository", NAMESPACE, PINNED)
    pinned = any(applied.key == pin for _, applied in cluster.objects())
    for kustomization in cluster.kustomizations.values():
        own = kustomization.path.startswith(cluster.folder)
        wanted = PINNED if pinned and not own else BRANCH
        if (found := at(kustomization.spec, "sourceRef.name")) != wanted:
            problem = f"is {found!r}: set the fact source to {wanted}"
            yield Finding(f"Kustomization/{kustomization.name}", "spec.sourceRef.name", problem)


def facts(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that every fact is used; that every variable is a fact is Flux's own strict mode."""
    for name in sorted(cluster.facts.keys() - cluster.variables):
        problem = "nothing on this cluster uses it: take it away"
        yield Finding("ConfigMap/cluster", f"data.{name}", problem)


def layers(cluster: Cluster, source: Source) -> Iterator[Finding]:
    """Check that an overlay is its layers and nothing else: Flux applies those, and never it."""
    paths = [k.path for k in cluster.kustomizations.values() if k.path.startswith("overlays/")]
    # That of a pinned version has been checked.
    for overlay in sorted({path.rpartition("/")[0] for path in paths if not cluster.pinned}):
        file = f"{overlay}/kustomization.yaml"
        wanted = {"resources": [path.rpartition("/")[2] for path in paths]}
        if (found := yaml.safe_load((source.folder / file).read_text())) != wanted:
            problem = f"is {found}: say {wanted}, as Flux applies these in this order"
            yield Finding(file, "resources", problem)


# Kubernetes' own API groups; everything else is defined by somebody's CustomResourceDefinition.
_BUILT_IN: Final = re.compile(
    r"[a-z]*|([a-z]+|rbac\.authorization|flowcontrol\.apiserver)\.k8s\.io"
)
_MIGRATED: Final = "the migrated database"
_GIVEN: Final = {f"the namespace {name}" for name in ("default", "kube-public", "kube-system")}
BROUGHT: Final = "facestack.dev/brought"
"""An annotation of a cluster's facts: the API groups that it has from elsewhere."""


def order(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that namespaces, kinds and the database are there before what needs them."""
    made = {name: set(_made(one)) for name, one in cluster.kustomizations.items()}
    annotation = mapping(cluster.config, "metadata.annotations").get(BROUGHT, "")
    brought = re.split(r"[,\s]+", annotation)
    for name, kustomization in cluster.kustomizations.items():
        # Within one Kustomization Flux applies namespaces and definitions first. Bootstrap applies
        # Flux itself before the root.
        first = {"flux-controllers"} & made.keys() if kustomization is cluster.root else ()
        there = _GIVEN.union(*(made[each] for each in {*cluster.before(name), *first}))
        there |= made[name] - {_MIGRATED}
        for applied in kustomization.objects:
            group, kind, namespace, _ = applied.key
            needed = {"metadata.namespace": f"the namespace {namespace}"} if namespace else {}
            if not _BUILT_IN.fullmatch(group) and group not in brought:
                needed["apiVersion, kind"] = f"{applied.document['apiVersion']} {kind}"
            labels = mapping(applied.document, "spec.template.metadata.labels")
            if kind == "Deployment" and "access.facestack.dev/mariadb" in labels:
                needed["spec.template.metadata.labels"] = _MIGRATED
            for field, what in needed.items():
                if what not in there:
                    problem = f"nothing before {name} brings {what}: depend on what does"
                    yield Finding(applied.title, field, problem)


def _made(kustomization: Kustomization) -> Iterator[str]:
    """Yield what a Kustomization brings that others need."""
    for applied in kustomization.objects:
        _, kind, _, name = applied.key
        if kind == "Namespace":
            yield f"the namespace {name}"
        elif applied.title.startswith("Job/migrations"):
            yield _MIGRATED
        elif kind == "CustomResourceDefinition":
            spec = applied.document["spec"]
            for version in items(spec, "versions"):
                if version.get("served"):
                    yield f"{spec['group']}/{version['name']} {at(spec, 'names.kind')}"


def secrets(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check that every Secret is encrypted for this cluster, and decrypted where it is applied.

    That it is sops' is a rule for all manifests.
    """
    place = f"{cluster.folder}/secrets"
    for kustomization, applied in cluster.objects():
        if applied.key[1] != "Secret":
            continue
        for field in ("data", "stringData"):
            for key, value in mapping(applied.document, field).items():
                if not str(value).startswith("ENC["):
                    problem = f"is not encrypted: run 'make secrets CLUSTER={cluster.name}', and"
                    yield Finding(applied.title, f"{field}.{key}", f"{problem} change the secret")
        if kustomization.path != place or not applied.file.startswith(f"{place}/"):
            problem = f"put it into {place}, which alone is decrypted, with this cluster's key"
            yield Finding(applied.title, "kind", problem)


def schemas(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check every object against its schema, without what Flux takes away as it decrypts."""
    documents = [
        {k: v for k, v in one.document.items() if k != "sops" or "decryption" not in layer.spec}
        for layer, one in cluster.objects()
    ]
    return tools.kubeconform("\n---\n".join(map(json.dumps, documents)))


def manifests(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Check the rules for manifests, and Pod Security, over all that is applied."""
    documents = cluster.manifests
    yield from (*check_manifests(documents), *tools.pod_security(documents))


def opinion(cluster: Cluster, _source: Source) -> Iterator[Finding]:
    """Ask kube-score about the pipeline; what is so on purpose is so in all of an overlay."""
    text = yaml.dump_all(cluster.manifests.pipeline.documents, Dumper=yaml.CSafeDumper)
    return tools.kube_score(text, cluster.facts.get("overlay", cluster.name))


STAGES: Final[tuple[tuple[Check, ...], ...]] = (
    (identities, circles, versions, facts, secrets, schemas),
    (layers, manifests),
    (order, opinion),
)
"""The checks. After a stage with findings comes none: its findings would follow from them."""


def check(cluster: Cluster, source: Source) -> Iterator[Finding]:
    """Yield whatever is wrong with a cluster, with the files that it is made from."""
    yield from dict.fromkeys(cluster.problems)
    files: dict[str, set[str]] = {}
    for _, applied in cluster.objects():
        files.setdefault(applied.title, set()).add(applied.file)
    for stage in STAGES if not cluster.problems else ():
        found = [finding for look in stage for finding in look(cluster, source)]
        for one in found:
            file = " or ".join(sorted(files.get(one.where.replace(" of ", "/"), ())))
            yield replace(one, where=f"{file}: {one.where}" if file else one.where)
        if found:
            return


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
    if whole:
        yield from _unused(tree, used)


def _unused(tree: Source, used: set[str]) -> Iterator[Row]:
    """Yield units that no cluster has, built alone, and the files that nothing uses."""
    # A unit that no cluster has is there to be taken.
    for path in sorted(tree.folder.glob("apps/*/kustomization.yaml")):
        unit = path.parent.relative_to(tree.folder).as_posix()
        if f"{unit}/kustomization.yaml" not in used:
            built = load_unit(tree, unit)
            yield unit, "built alone: no cluster has it", built.problems
            used |= built.files
    problem = "no cluster uses it: name it in a kustomization.yaml, or delete it"
    unused = [
        Finding(name, "file", problem)
        for name in sorted(tree.files() - used)
        if not any(fnmatch(name, pattern) for pattern in _NOT_FOR_FLUX)
    ]
    yield "files", f"{len(tree.files())} files", unused


def main() -> int:
    """Check what the arguments say; return 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(prog="make validate", description=__doc__)
    parser.add_argument("clusters", nargs="*", help="folders of flux/clusters (default: all)")
    parser.add_argument("--commit", metavar="REV", help="a commit, not the files as they are")
    arguments = parser.parse_args()
    opened = source.commit(arguments.commit) if arguments.commit else source.working_tree()
    with opened as tree:
        if unknown := set(arguments.clusters) - set(tree.clusters()):
            parser.error(f"there is no {min(unknown)}: choose from {', '.join(tree.clusters())}")
        names = sorted(arguments.clusters) or tree.clusters()
        result = 0
        for name, looked_at, findings in validate(tree, names):
            print(
                f"{name}: {looked_at}: {f'{len(findings)} wrong' if findings else 'ok'}", flush=True
            )
            for one in dict.fromkeys(findings):
                result = 1
                print(f"{name}: {one}")
        return result


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BuildError, ProgramError) as error:
        sys.exit(f"validate: {error}")
