"""What must be so of all that Flux applies to a cluster."""

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import yaml

from scripts.gitops.flux import (
    NAMESPACE,
    Builder,
    Cluster,
    Kustomization,
    Object,
)
from scripts.gitops.source import CHOICES, DOCUMENTATION, Source
from scripts.manifests import tools
from scripts.manifests.design import NAMESPACE as PIPELINE
from scripts.manifests.design import SINGLE
from scripts.manifests.model import Document, Finding, Manifests, at, items, mapping
from scripts.manifests.rules import check as check_pipeline
from scripts.manifests.rules import flux
from scripts.manifests.rules.units import check_unit

CREDENTIALS: Final = "facestack.dev/credentials"
_SECRETS: Final = "secrets"


@dataclass(frozen=True)
class Context:
    """What a check looks at."""

    cluster: Cluster
    builder: Builder

    @property
    def layers(self) -> list[Kustomization]:
        """Return the Kustomizations that share the overlay among them."""
        return [k for k in self.cluster.kustomizations.values() if k.path.startswith("overlays/")]

    @property
    def units(self) -> list[Kustomization]:
        """Return the Kustomizations of what runs beside the pipeline."""
        return [k for k in self.cluster.kustomizations.values() if k.path.startswith("apps/")]

    @cached_property
    def scaled(self) -> set[tuple[Any, Any]]:
        """Return kind and name of each workload whose number is an autoscaler's affair."""
        target = "spec.scaleTargetRef"
        return {
            (at(applied.document, f"{target}.kind"), at(applied.document, f"{target}.name"))
            for unit in self.units
            for applied in unit.objects
            if applied.document.get("kind") == "HorizontalPodAutoscaler"
        }


Check: TypeAlias = Callable[[Context], Iterator[Finding]]


def finding(applied: Object, field: str, problem: str) -> Finding:
    """Return a finding about an object, which names its file."""
    return Finding(f"{applied.file}: {applied.title}", field, problem)


def identities(context: Context) -> Iterator[Finding]:
    """Check that no two Kustomizations apply the same object: each would undo the other's."""
    seen: dict[tuple[str, ...], Kustomization] = {}
    for kustomization, applied in context.cluster.objects():
        other = seen.setdefault(applied.key, kustomization)
        if other is not kustomization:
            problem = f"{other.name} and {kustomization.name} both apply it: take it out of one"
            yield finding(applied, "metadata.name", problem)


def dependencies(context: Context) -> Iterator[Finding]:
    """Check that what a Kustomization waits for exists, and does not wait for it in turn."""
    known = context.cluster.kustomizations
    told: set[str] = set()
    for kustomization in known.values():
        for name in kustomization.waits_for:
            if name not in known:
                problem = f"waits for {name}, which flux/{context.cluster.name} does not bring"
                yield finding(kustomization.made_from, "spec.dependsOn", problem)
        if circle := _circle(context.cluster, kustomization):
            if not told & set(circle):
                problem = f"is a circle: {' -> '.join(circle)}"
                yield finding(kustomization.made_from, "spec.dependsOn", problem)
            told |= set(circle)
        elif not kustomization.waits_for and kustomization.name not in _FIRST:
            problem = f"is missing: only {' and '.join(_FIRST)} wait for nothing"
            yield finding(kustomization.made_from, "spec.dependsOn", problem)


_FIRST: Final = ("facestack", "controllers")


def _circle(cluster: Cluster, start: Kustomization) -> list[str]:
    """Return the names on the way from a Kustomization back to itself, if there is one."""
    ways = [[start.name]]
    while ways:
        way = ways.pop(0)
        for name in cluster.kustomizations[way[-1]].waits_for:
            if name == start.name:
                return [*way, name]
            if name in cluster.kustomizations and name not in way:
                ways.append([*way, name])
    return []


_COMMON: Final = {
    "interval": "1h",
    "retryInterval": "2m",
    "timeout": "5m",
    "prune": True,
    "sourceRef": {"kind": "GitRepository", "name": "facestack"},
}


def common_fields(context: Context) -> Iterator[Finding]:
    """Check that every Kustomization has what all have in common, and none is suspended."""
    for kustomization in context.cluster.kustomizations.values():
        # The root would wait for itself, and a fact of the next push must not hold up that push.
        is_root = kustomization is context.cluster.root
        facts = None if is_root else [{"kind": "ConfigMap", "name": "cluster"}]
        wanted = {**_COMMON, "wait": not is_root, "postBuild.substituteFrom": facts}
        for field, value in wanted.items():
            found = at(kustomization.spec, field)
            if found != value:
                problem = f"is {found!r}: {value!r} is right, which the root gives to all others"
                yield finding(kustomization.made_from, f"spec.{field}", problem)
        if kustomization.spec.get("suspend"):
            problem = "take it away: a push would change nothing, and nobody would know"
            yield finding(kustomization.made_from, "spec.suspend", problem)


def facts(context: Context) -> Iterator[Finding]:
    """Check that every fact is used; that every variable is a fact is Flux's own strict mode."""
    cluster = context.cluster
    used = cluster.used_facts | set(_replaced(context))
    for name in sorted(cluster.facts.keys() - used):
        where = f"flux/{cluster.name}/cluster.yaml: ConfigMap/cluster"
        yield Finding(where, f"data.{name}", "nothing on this cluster uses it: take it away")


def _replaced(context: Context) -> Iterator[str]:
    """Yield the facts that kustomize itself puts where they belong."""
    source = context.builder.source
    for name in sorted(source.used(f"flux/{context.cluster.name}")):
        if name.endswith("kustomization.yaml"):
            content = yaml.load((source.folder / name).read_text(), yaml.CSafeLoader)
            for replacement in items(content, "replacements"):
                origin = mapping(replacement, "source")
                if (origin.get("kind"), origin.get("name")) == ("ConfigMap", "cluster"):
                    yield str(origin.get("fieldPath")).removeprefix("data.")


def api_server(context: Context) -> Iterator[Finding]:
    """Check that policies for the API server open the port at which this cluster's listens."""
    port = context.cluster.facts.get("api_server_port")
    for _, applied in context.cluster.objects():
        name = at(applied.document, "metadata.name")
        if applied.document.get("kind") == "NetworkPolicy" and name in _ASKING:
            rules = items(applied.document, "spec.egress")
            opened = {str(each.get("port")) for rule in rules for each in items(rule, "ports")}
            if port not in opened:
                problem = f"does not open {port}, the fact api_server_port: open it"
                yield finding(applied, "spec.egress.ports", problem)


_ASKING: Final = {"api-server", "certificates", "credentials", "metrics-server"}
"""The policies of those who ask the API server."""


def layers(context: Context) -> Iterator[Finding]:
    """Check that the layers together apply the overlay: all of it, once, and nothing else."""
    shares: dict[str, list[Kustomization]] = {}
    for layer in context.layers:
        shares.setdefault(layer.path, []).append(layer)
    for path, sharing in shares.items():
        whole = {
            applied.key: applied for applied in context.builder.plain(path, context.cluster.facts)
        }
        parts = {applied.key: applied for layer in sharing for applied in layer.objects}
        secrets = f"flux/{context.cluster.name}/{_SECRETS}/"
        names = ", ".join(layer.name for layer in sharing)
        for key, applied in whole.items():
            if key not in parts:
                problem = f"no layer applies it: {names} leave it out by their label selectors"
                yield finding(applied, "metadata.labels", problem)
            elif parts[key].document != (wanted := _in_a_layer(applied.document, context)):
                for field in _differences(parts[key].document, wanted):
                    problem = f"a layer makes it other than {path} has it: change it there"
                    yield finding(applied, field, problem)
        for key, applied in parts.items():
            if key not in whole and not applied.file.startswith(secrets):
                yield finding(
                    applied, "metadata.name", f"a layer applies it, and {path} has it not"
                )


def _in_a_layer(document: Document, context: Context) -> Document:
    """Return an object of the overlay with what layers add to it on purpose."""
    wanted: Document = deepcopy(document)
    cluster_facts = context.cluster.facts
    kind, name = wanted.get("kind"), at(wanted, "metadata.name")
    if (kind, name) in context.scaled:
        wanted["spec"].pop("replicas", None)
    for claim in items(wanted, "spec.volumeClaimTemplates"):
        claim["spec"]["storageClassName"] = cluster_facts.get("storage_class")
    if kind == "Job":
        # Flux would make one that is gone again, and run it once more.
        wanted["spec"].pop("ttlSecondsAfterFinished", None)
    is_service = kind == "Deployment" and name not in SINGLE
    if is_service or (kind == "Job" and str(name).startswith(_MIGRATIONS)):
        metadata = wanted["spec"]["template"].setdefault("metadata", {})
        stamp = {CREDENTIALS: cluster_facts.get("credentials")}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **stamp}
    return wanted


def _differences(found: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """Yield the paths at which two documents differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from _differences(found.get(key), wanted.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for index, (left, right) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(left, right, f"{path}[{index}]")
    elif found != wanted:
        yield path


# Kubernetes' own API groups; everything else is defined by somebody's CustomResourceDefinition.
_BUILT_IN: Final = re.compile(
    r"[a-z]*|(admissionregistration|apiextensions|apiregistration|authentication|authorization"
    r"|certificates|coordination|discovery|events|flowcontrol\.apiserver|networking|node"
    r"|rbac\.authorization|resource|scheduling|storage)\.k8s\.io"
)
_GIVEN_NAMESPACES: Final = frozenset(
    {"", "default", "kube-node-lease", "kube-public", "kube-system"}
)
BROUGHT: Final = {
    "overlays/aws": frozenset({"external-secrets.io", "elbv2.k8s.aws"}),
}
"""API groups that a cluster must have before: the overlay's README says so."""


def order(context: Context) -> Iterator[Finding]:
    """Check that namespaces and kinds are there before what needs them."""
    cluster = context.cluster
    made: dict[str, set[str]] = {}
    defined: dict[str, set[tuple[str, str, str]]] = {}
    for kustomization, applied in cluster.objects():
        spec = mapping(applied.document, "spec")
        if applied.document.get("kind") == "Namespace":
            made.setdefault(kustomization.name, set()).add(
                str(at(applied.document, "metadata.name"))
            )
        if applied.document.get("kind") == "CustomResourceDefinition":
            defined.setdefault(kustomization.name, set()).update(
                (str(spec.get("group")), str(version.get("name")), str(at(spec, "names.kind")))
                for version in items(spec, "versions")
                if version.get("served")
            )
    brought = set().union(*(BROUGHT.get(layer.path, frozenset()) for layer in context.layers))
    for kustomization, applied in cluster.objects():
        # Bootstrap applies the controllers before the root.
        first = {"controllers"} if kustomization is cluster.root else set()
        # Within one Kustomization Flux applies namespaces and definitions first.
        earlier = {kustomization.name} | first | cluster.before(kustomization.name)
        namespace = applied.key[2]
        namespaces = _GIVEN_NAMESPACES.union(*(made.get(name, set()) for name in earlier))
        if namespace not in namespaces:
            problem = f"nothing before {kustomization.name} makes the namespace {namespace}: add"
            yield finding(applied, "metadata.namespace", f"{problem} it to what this depends on")
        group, _, version = str(applied.document.get("apiVersion")).rpartition("/")
        kind = (group, version, str(applied.document.get("kind")))
        if _BUILT_IN.fullmatch(group) or group in brought:
            continue
        if not any(kind in defined.get(name, set()) for name in earlier):
            problem = f"nothing before {kustomization.name} installs {group}/{version} {kind[2]}"
            yield finding(applied, "apiVersion, kind", f"{problem}: depend on what does")


def secrets(context: Context) -> Iterator[Finding]:
    """Check that every Secret is encrypted for this cluster, and decrypted where it is applied."""
    for kustomization, applied in context.cluster.objects():
        if applied.document.get("kind") == "Secret":
            values = {
                f"{field}.{key}": value
                for field in ("data", "stringData")
                for key, value in mapping(applied.document, field).items()
            }
            for field, value in values.items():
                if not str(value).startswith("ENC["):
                    advice = f"run 'make secrets CLUSTER={context.cluster.name}'"
                    yield finding(
                        applied, field, f"is not encrypted: {advice}, and change the secret"
                    )
            if not at(applied.document, "sops.mac"):
                yield finding(applied, "sops", "is missing: only what sops has encrypted is in git")
            place = f"flux/{context.cluster.name}/{_SECRETS}/"
            if not applied.file.startswith(place):
                yield finding(
                    applied, "kind", f"put it into {place}, which this cluster's key is for"
                )
        if "sops" in applied.document and not at(kustomization.spec, "decryption.provider"):
            problem = f"{kustomization.name} does not decrypt it: set its spec.decryption"
            yield finding(applied, "sops", problem)


def marks(context: Context) -> Iterator[Finding]:
    """Check that Flux keeps what holds data, and makes anew what cannot be changed."""
    objects = [applied for _, applied in context.cluster.objects()]
    for rule in (flux.kept, flux.replaceable):
        yield from _with_files(rule, objects, context)


def migrations_first(context: Context) -> Iterator[Finding]:
    """Check that services are not rolled out before the migrations they need have run."""
    for layer in context.layers:
        earlier = context.cluster.before(layer.name)
        done = {
            applied.key[3]
            for name in earlier
            for applied in context.cluster.kustomizations[name].objects
            if applied.key[1] == "Job" and applied.key[3].startswith(_MIGRATIONS)
        }
        for applied in layer.objects:
            if applied.key[1] == "Deployment" and applied.key[3] in _MIGRATED and not done:
                problem = (
                    f"does not wait for the layer with the migrations: {applied.title} needs them"
                )
                yield finding(layer.made_from, "spec.dependsOn", problem)


_MIGRATIONS: Final = "migrations-"
_MIGRATED: Final = frozenset({"receiver", "image-processor", "redeemer", "people", "webhooks"})


def strictness(context: Context) -> Iterator[Finding]:
    """Check that Flux refuses a variable that is no fact, as these checks do."""
    for _, applied in context.cluster.objects():
        if applied.key[1:] == ("Deployment", NAMESPACE, "kustomize-controller"):
            for container in items(applied.document, "spec.template.spec.containers"):
                gates = ",".join(
                    str(argument).partition("=")[2]
                    for argument in container.get("args") or []
                    if str(argument).startswith("--feature-gates=")
                )
                if "StrictPostBuildSubstitutions=true" not in gates.split(","):
                    problem = "set --feature-gates=StrictPostBuildSubstitutions=true"
                    yield finding(applied, "spec.template.spec.containers[manager].args", problem)


def manifests(context: Context) -> Iterator[Finding]:
    """Check the rules of the pipeline over its layers, and those of units over each unit."""
    pipeline = [applied for layer in context.layers for applied in layer.objects]
    pipeline += [
        applied for unit in context.units for applied in unit.objects if applied.key[2] == PIPELINE
    ]
    yield from _with_files(check_pipeline, pipeline, context)
    for unit in context.units:
        yield from _with_files(check_unit, unit.objects, context)


def _with_files(
    rules: Callable[[Manifests], Iterator[Finding]], objects: list[Object], context: Context
) -> Iterator[Finding]:
    """Yield what rules find, with the file of each object in front."""
    files = {applied.title: applied.file for applied in objects}
    documents = [applied.document for applied in objects if applied.key[1] != "Secret"]
    for found in rules(Manifests(documents)):
        if not _is_meant(found, context):
            file = files.get(found.where.replace(" of ", "/"))
            where = f"{file}: {found.where}" if file else found.where
            yield Finding(where, found.field, found.problem)


def _is_meant(found: Finding, context: Context) -> bool:
    """Tell whether a rule for overlays finds what layers change on purpose."""
    storage_class = context.cluster.facts.get("storage_class")
    return (found.where.startswith("Job/") and found.field == "spec.ttlSecondsAfterFinished") or (
        found.field.endswith(".spec.storageClassName")
        and found.problem.startswith(f"is {storage_class!r}:")
    )


_valid: set[str] = set()


def schemas(context: Context) -> Iterator[Finding]:
    """Check every object against its schema; what has passed once is not asked about again."""
    new: dict[str, Object] = {}
    for _, applied in context.cluster.objects():
        # Flux takes away what sops adds.
        document = {key: value for key, value in applied.document.items() if key != "sops"}
        text = yaml.safe_dump(document)
        if text not in _valid:
            new[text] = applied
    wrong = set()
    for found in tools.kubeconform("---\n".join(new)) if new else ():
        wrong.add(found.where)
        files = sorted({applied.file for applied in new.values() if applied.title == found.where})
        where = f"{' or '.join(files)}: {found.where}"
        yield Finding(where, found.field or "fields", found.problem)
    _valid.update(text for text, applied in new.items() if applied.title not in wrong)


STAGES: Final[tuple[tuple[Check, ...], ...]] = (
    (
        identities,
        dependencies,
        common_fields,
        facts,
        api_server,
        secrets,
        marks,
        strictness,
        schemas,
    ),
    (layers, order, migrations_first),
    (manifests,),
)
"""The checks. After a stage with findings comes none: its findings would follow from them."""


def check(cluster: Cluster, builder: Builder) -> Iterator[Finding]:
    """Yield whatever is wrong with a cluster."""
    context = Context(cluster, builder)
    for stage in STAGES:
        found = [finding for look in stage for finding in look(context)]
        yield from found
        if found:
            return


def unused_files(source: Source, used: set[str]) -> Iterator[Finding]:
    """Yield the files in the trees that no cluster uses."""
    for name in sorted(source.files() - used):
        if name.rpartition("/")[2] not in DOCUMENTATION and not name.startswith(CHOICES):
            problem = "no cluster uses it: name it in a kustomization.yaml, or delete it"
            yield Finding(name, "file", problem)
