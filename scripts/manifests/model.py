"""What the checks look at: rendered documents, the workloads among them, and findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

Document: TypeAlias = dict[str, Any]

NAMESPACE: Final = "face"
"""Where the pipeline is; the rules of the pipeline are about nothing else."""

WORKLOAD_KINDS: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
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
    marks = (mapping(document, "metadata.labels"), mapping(document, "metadata.annotations"))
    return any(str(found.get(f"{FLUX_API}/{name}")).lower() in values for found in marks)


class Container:
    """A container of a workload, and where it stands in it."""

    def __init__(self, workload: Workload, kind: str, spec: Document) -> None:
        self.workload = workload
        self.spec = spec
        self.field = f"{workload.field}.{kind}[{spec.get('name')}]"
        self.stays = kind == "containers" and workload.kind not in {"Job", "CronJob"}
        """Whether it is there all the time."""

    @cached_property
    def environment(self) -> dict[str, str]:
        """Return the variables that have a value, with those in it that a ``$(NAME)`` means."""
        found: dict[str, str] = {}
        for variable in items(self.spec, "env"):
            if (value := variable.get("value")) is not None:
                found[str(variable.get("name"))] = REFERENCE.sub(
                    lambda reference: found.get(reference[1], reference[0]), str(value)
                )
        return found

    @property
    def words(self) -> list[str]:
        """Return the words of its command line."""
        return [str(w) for field in ("command", "args") for w in self.spec.get(field) or []]

    @cached_property
    def image(self) -> tuple[str, str]:
        """Return its image's name and tag, which may be empty; a digest is left out."""
        written = str(self.spec.get("image")).partition("@")[0]
        name, _, tag = written.rpartition(":")
        # Without a tag the colon is that of a registry's port, if there is one.
        return (name, tag) if name and "/" not in tag else (written, "")

    @property
    def service(self) -> str | None:
        """Return the folder of services/ that its image is made of; None when it is not ours."""
        folder = self.image[0].rpartition("/")[2].replace("-", "_")
        return folder if (_SERVICES / folder / "__main__.py").is_file() else None

    def finding(self, field: str, problem: str) -> Finding:
        """Return a finding about a field of this container."""
        return self.workload.finding(f"{self.field}.{field}", problem)


_SERVICES: Final = Path(__file__).parents[2] / "services"
REFERENCE: Final = re.compile(r"(?<!\$)\$\((\w+)\)")
"""What Kubernetes puts another variable in the place of."""


class Workload:
    """A document that makes pods."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.title = title(document)
        self.namespace = at(document, "metadata.namespace")
        self.kind = str(document.get("kind"))
        way = "spec.jobTemplate.spec.template" if self.kind == "CronJob" else "spec.template"
        self.field = f"{way}.spec"
        self.template = mapping(document, way)
        self.labels = mapping(self.template, "metadata.labels")
        self.pod = mapping(self.template, "spec")

    @cached_property
    def name(self) -> str:
        """Return the workload's name; a Job's own name carries a tag, so its label says it."""
        own = at(self.document, "metadata.name") if self.kind != "Job" else None
        return str(own or self.labels.get("app.kubernetes.io/name"))

    @cached_property
    def containers(self) -> list[Container]:
        """Return all containers, those that only prepare the pod included."""
        kinds = ("initContainers", "containers")
        return [Container(self, kind, spec) for kind in kinds for spec in items(self.pod, kind)]

    @cached_property
    def ports(self) -> dict[str, int]:
        """Return the numbers of the containers' ports by name."""
        ports = [port for container in self.containers for port in items(container.spec, "ports")]
        return {str(port.get("name")): port.get("containerPort", 0) for port in ports}

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

    def kind(self, *kinds: str) -> Iterator[Document]:
        """Yield the documents of these kinds, one kind after another."""
        for kind in kinds:
            yield from (document for document in self.documents if document.get("kind") == kind)

    def find(self, kind: str, name: Any, namespace: Any = None) -> Document | None:
        """Return one document by kind and name; and by namespace, where both have one."""
        for found in self.kind(kind):
            both = {namespace, at(found, "metadata.namespace")} - {None}
            if at(found, "metadata.name") == name and len(both) < 2:  # noqa: PLR2004
                return found
        return None

    @cached_property
    def pipeline(self) -> Manifests:
        """Return what is in the pipeline's namespace, and what of the pipeline is in none."""
        return Manifests(filter(_is_of_pipeline, self.documents), self.facts)

    @cached_property
    def workloads(self) -> list[Workload]:
        """Return everything that makes pods."""
        return [Workload(document) for document in self.kind(*WORKLOAD_KINDS)]

    @cached_property
    def containers(self) -> list[Container]:
        """Return every container of every workload."""
        return [container for workload in self.workloads for container in workload.containers]

    def selected(self, document: Document) -> list[Workload]:
        """Return whose pods, in its own namespace, a workload or a Service selects by labels."""
        selector = mapping(document, "spec.selector")
        labels = (mapping(selector, "matchLabels") or selector).items()
        namespace = at(document, "metadata.namespace")
        inside = [workload for workload in self.workloads if workload.namespace == namespace]
        return [workload for workload in inside if labels and labels <= workload.labels.items()]


def _is_of_pipeline(document: Document) -> bool:
    if namespace := at(document, "metadata.namespace"):
        return bool(namespace == NAMESPACE)
    part_of = mapping(document, "metadata.labels").get("app.kubernetes.io/part-of")
    return part_of == "facestack" or title(document) == f"Namespace/{NAMESPACE}"
