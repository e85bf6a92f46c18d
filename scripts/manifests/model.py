"""What the checks look at: rendered documents, the workloads among them, and findings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

Document: TypeAlias = dict[str, Any]

PART_OF: Final = "facestack"
NAMESPACE: Final = "face"
"""Where the pipeline is; the rules of the pipeline are about nothing else."""

WORKLOAD_KINDS: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
SERVING_KINDS: Final = ("Deployment", "StatefulSet", "DaemonSet")
NAME_LABEL: Final = "app.kubernetes.io/name"
PART_LABEL: Final = "app.kubernetes.io/part-of"
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

    @cached_property
    def environment(self) -> dict[str, str]:
        """Return the variables that have a value, with those in it that a ``$(NAME)`` means."""
        found: dict[str, str] = {}
        for variable in items(self.spec, "env"):
            if (value := variable.get("value")) is not None:
                found[str(variable.get("name"))] = _REFERENCE.sub(
                    lambda reference: found.get(reference[1], reference[0]), str(value)
                )
        return found

    @property
    def words(self) -> list[str]:
        """Return the words of its command line."""
        return [str(w) for field in ("command", "args") for w in self.spec.get(field) or []]

    @property
    def image(self) -> Image:
        """Return what it runs."""
        return Image.of(self.spec.get("image"))


_SERVICES: Final = Path(__file__).parents[2] / "services"
_REFERENCE: Final = re.compile(r"\$\((\w+)\)")


@dataclass(frozen=True)
class Image:
    """An image's name, whatever its registry, and its tag; a digest behind the tag is left out."""

    name: str
    tag: str
    is_exact: bool

    @classmethod
    def of(cls, written: Any) -> Image:
        """Read what a container has."""
        whole, _, digest = str(written).partition("@")
        name, _, tag = whole.rpartition(":") if ":" in whole.rpartition("/")[2] else (whole, "", "")
        return cls(name, tag, bool(digest) or tag not in {"", "latest"})

    @property
    def service(self) -> str | None:
        """Return the folder of services/ that it is made of; None when it is not ours."""
        folder = self.name.rpartition("/")[2].replace("-", "_")
        return folder if (_SERVICES / folder / "__main__.py").is_file() else None


class Workload:
    """A document that makes pods."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.title = title(document)
        self.namespace = at(document, "metadata.namespace")
        self.kind = str(document.get("kind"))
        way = "spec.jobTemplate.spec.template" if self.kind == "CronJob" else "spec.template"
        self.field = f"{way}.spec"
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
            Container(spec, f"{self.field}.{kind}[{spec.get('name')}]", kind != "containers")
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
    """The documents of an overlay or a cluster, with the ways that checks look into them.

    ``facts`` are what the cluster's ConfigMap says.
    """

    def __init__(
        self, documents: Iterable[Document], facts: Mapping[str, str] | None = None
    ) -> None:
        self.documents = list(documents)
        self.facts = facts or {}
        self._by_kind: dict[str, list[Document]] = {}
        for document in self.documents:
            self._by_kind.setdefault(str(document.get("kind")), []).append(document)

    def kind(self, *kinds: str) -> Iterator[Document]:
        """Yield the documents of these kinds."""
        for kind in kinds:
            yield from self._by_kind.get(kind, [])

    def find(self, kind: str, name: Any, namespace: Any = None) -> Document | None:
        """Return one document by kind and name, and by namespace where that is given."""
        for found in self.kind(kind):
            if at(found, "metadata.name") == name and (
                namespace is None or at(found, "metadata.namespace") == namespace
            ):
                return found
        return None

    @cached_property
    def pipeline(self) -> Manifests:
        """Return what is in the pipeline's namespace, and what of the pipeline is in none."""
        mine = [
            document
            for document in self.documents
            if at(document, "metadata.namespace") == NAMESPACE
            or (
                at(document, "metadata.namespace") is None
                and (
                    mapping(document, "metadata.labels").get(PART_LABEL) == PART_OF
                    or title(document) == f"Namespace/{NAMESPACE}"
                )
            )
        ]
        return Manifests(mine, self.facts)

    @cached_property
    def workloads(self) -> list[Workload]:
        """Return everything that makes pods."""
        return [Workload(document) for document in self.kind(*WORKLOAD_KINDS)]

    @cached_property
    def containers(self) -> list[tuple[Workload, Container]]:
        """Return every container with its workload."""
        return [(workload, c) for workload in self.workloads for c in workload.containers]

    @cached_property
    def serving(self) -> list[Workload]:
        """Return the workloads whose pods stay."""
        return [workload for workload in self.workloads if workload.kind in SERVING_KINDS]


Rule: TypeAlias = Callable[[Manifests], Iterator[Finding]]
