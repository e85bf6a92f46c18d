"""What the checks look at: rendered documents, the workloads among them, and findings."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

Document: TypeAlias = dict[str, Any]

WORKLOAD_KINDS: Final = ("Deployment", "StatefulSet", "Job", "CronJob")
SERVING_KINDS: Final = ("Deployment", "StatefulSet")
NAME_LABEL: Final = "app.kubernetes.io/name"
FLUX_API: Final = "kustomize.toolkit.fluxcd.io"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: in which object, in which field, and what to do."""

    where: str
    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: {self.problem}"


def at(node: Any, path: str) -> Any:
    """Return what stands at a dotted path; None where something on the way is missing."""
    for name in path.split("."):
        if not isinstance(node, dict):
            return None
        node = node.get(name)
    return node


def mapping(node: Any, path: str) -> Mapping[str, Any]:
    """Return the mapping at a dotted path; an empty one when there is none."""
    found = at(node, path)
    return found if isinstance(found, dict) else {}


def items(node: Any, path: str) -> list[Document]:
    """Return the list of mappings at a dotted path; an empty one when there is none."""
    found = at(node, path)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def title(document: Document) -> str:
    """Return how a message calls a document."""
    return f"{document.get('kind')}/{at(document, 'metadata.name')}"


def marked(document: Document, name: str, *values: str) -> bool:
    """Tell whether Flux takes a document as marked: by a label or an annotation, in any case."""
    found = [
        mapping(document, f"metadata.{kind}").get(f"{FLUX_API}/{name}")
        for kind in ("labels", "annotations")
    ]
    return any(str(value).lower() in values for value in found)


def selects(selector: Any, labels: Mapping[str, Any]) -> bool:
    """Tell whether a label selector matches the labels; an empty one matches all."""
    if not isinstance(selector, dict):
        return False
    if any(labels.get(key) != value for key, value in mapping(selector, "matchLabels").items()):
        return False
    return all(_fits(rule, labels) for rule in items(selector, "matchExpressions"))


def _fits(rule: Document, labels: Mapping[str, Any]) -> bool:
    value, values = labels.get(str(rule.get("key"))), rule.get("values") or []
    match rule.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False


@dataclass(frozen=True)
class Container:
    """A container of a workload and where it stands in it."""

    spec: Document
    field: str
    starts_only: bool

    @property
    def name(self) -> str:
        """Return its name."""
        return str(self.spec.get("name"))


class Workload:
    """A document that makes pods."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.title = title(document)
        self.kind = str(document.get("kind"))
        way = "spec.jobTemplate.spec.template" if self.kind == "CronJob" else "spec.template"
        self.template: Mapping[str, Any] = mapping(document, way)
        self.labels = mapping(self.template, "metadata.labels")
        self.pod: Mapping[str, Any] = mapping(self.template, "spec")

    @cached_property
    def name(self) -> str:
        """Return the workload's name; a Job's own name carries a tag, so its label says it."""
        own = at(self.document, "metadata.name") if self.kind != "Job" else None
        return str(own or self.labels.get(NAME_LABEL))

    @cached_property
    def containers(self) -> list[Container]:
        """Return all containers, those that only prepare the pod included."""
        return [
            Container(spec, f"spec.template.spec.{kind}[{spec.get('name')}]", kind != "containers")
            for kind in ("initContainers", "containers")
            for spec in items(self.pod, kind)
        ]

    @cached_property
    def ports(self) -> dict[str, tuple[int, str]]:
        """Return number and protocol of the containers' ports by name."""
        return {
            str(port.get("name")): (port.get("containerPort", 0), port.get("protocol", "TCP"))
            for container in self.containers
            for port in items(container.spec, "ports")
        }

    def finding(self, field: str, problem: str) -> Finding:
        """Return a finding about this workload."""
        return Finding(self.title, field, problem)


class Manifests:
    """The documents of one overlay, with the ways that checks look into them."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.documents = list(documents)
        self._by_kind: dict[str, list[Document]] = {}
        for document in self.documents:
            self._by_kind.setdefault(str(document.get("kind")), []).append(document)

    def kind(self, *kinds: str) -> Iterator[Document]:
        """Yield the documents of these kinds."""
        for kind in kinds:
            yield from self._by_kind.get(kind, [])

    def find(self, kind: str, name: Any) -> Document | None:
        """Return one document by kind and name."""
        return next((d for d in self.kind(kind) if at(d, "metadata.name") == name), None)

    @cached_property
    def workloads(self) -> list[Workload]:
        """Return everything that makes pods."""
        return [Workload(document) for document in self.kind(*WORKLOAD_KINDS)]

    @cached_property
    def serving(self) -> list[Workload]:
        """Return the workloads whose pods stay."""
        return [workload for workload in self.workloads if workload.kind in SERVING_KINDS]


Rule: TypeAlias = Callable[[Manifests], Iterator[Finding]]
