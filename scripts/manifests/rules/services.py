"""Services lead to the pods of one workload, and some lead clients in."""

from collections.abc import Iterator, Mapping
from typing import Any

from scripts.manifests.design import (
    EDGES,
    FOUND_BEFORE_READY,
    HEADLESS,
    NODE_PORTS,
    PRIVATE_PORT,
)
from scripts.manifests.model import (
    Document,
    Finding,
    Manifests,
    Workload,
    at,
    items,
    mapping,
    selects,
    title,
)
from scripts.manifests.rules.fields import said


def selectors(manifests: Manifests) -> Iterator[Finding]:
    """Check that a workload, and a Service, selects the pods of one workload."""
    for workload in manifests.serving:
        selector = at(workload.document, "spec.selector")
        yield from _selects_one(manifests, workload.document, "spec.selector", selector)
        if not selects(selector, workload.labels):
            yield workload.finding("spec.selector", "does not match its own pods' labels")
    for service in manifests.kind("Service"):
        selector = {"matchLabels": mapping(service, "spec.selector")}
        yield from _selects_one(manifests, service, "spec.selector", selector)


def _selects_one(
    manifests: Manifests, document: Document, field: str, selector: Any
) -> Iterator[Finding]:
    found = [w.name for w in manifests.workloads if selects(selector, w.labels)]
    if len(found) != 1:
        names = ", ".join(found) or "nobody"
        yield Finding(title(document), field, f"selects the pods of {names}: it must be one")


def backend(manifests: Manifests, service: Document) -> Workload | None:
    """Return the workload that a Service leads to; None when it is not exactly one."""
    selector = {"matchLabels": mapping(service, "spec.selector")}
    found = [w for w in manifests.workloads if selects(selector, w.labels)]
    return found[0] if len(found) == 1 else None


def ports(manifests: Manifests) -> Iterator[Finding]:
    """Check that a Service leads to ports that its pods have, called by name."""
    for service in manifests.kind("Service"):
        workload = backend(manifests, service)
        for port in items(service, "spec.ports") if workload else []:
            target = port.get("targetPort")
            field = f"spec.ports[{port.get('name')}]"
            if target == PRIVATE_PORT:
                problem = "leads clients to metrics and descriptions: take it away"
                yield Finding(title(service), field, problem)
            known = workload.ports if workload else {}
            if target not in known:
                problem = f"{said(target)}: the pods have the ports {', '.join(sorted(known))}"
                yield Finding(title(service), f"{field}.targetPort", problem)
                continue
            number, _ = known[target]
            if port.get("port") != number:
                problem = f"{said(port.get('port'))}: set {number}"
                yield Finding(title(service), f"{field}.port", problem)
            if port.get("name") != target:
                yield Finding(title(service), f"{field}.name", f"call it {target}, as the pods do")
    names = {workload.name for workload in manifests.workloads}
    for _, target_name, wanted in sorted(EDGES):
        service_ports = items(manifests.find("Service", target_name), "spec.ports")
        if target_name in names and wanted not in [port.get("port") for port in service_ports]:
            where = f"Service/{target_name}"
            yield Finding(where, "spec.ports", f"lacks the port {wanted}: clients ask for it")


def kinds(manifests: Manifests) -> Iterator[Finding]:
    """Check that a Service has an address of its own, or gives the pods' where that is needed."""
    for service in manifests.kind("Service"):
        name = at(service, "metadata.name")
        address = at(service, "spec.clusterIP")
        if address != ("None" if name in HEADLESS else None):
            advice = "set None" if name in HEADLESS else "take it away"
            yield Finding(title(service), "spec.clusterIP", f"{said(address)}: {advice}")
        early = at(service, "spec.publishNotReadyAddresses") or False
        if early != (name in FOUND_BEFORE_READY):
            field = "spec.publishNotReadyAddresses"
            yield Finding(title(service), field, f"{said(early)}: set {not early}")


def _ingress_backends(manifests: Manifests) -> Iterator[tuple[Document, str, Mapping[str, Any]]]:
    for ingress in manifests.kind("Ingress"):
        if default := mapping(ingress, "spec.defaultBackend.service"):
            yield ingress, "spec.defaultBackend", default
        for number, rule in enumerate(items(ingress, "spec.rules")):
            for path in items(rule, "http.paths"):
                field = f"spec.rules[{number}].http.paths[{path.get('path')}].backend"
                yield ingress, field, mapping(path, "backend.service")


def ways_in(manifests: Manifests) -> Iterator[Finding]:
    """Check that clients reach the API and the page, by a port of the nodes or a load balancer."""
    open_ = set()
    for ingress, field, target in _ingress_backends(manifests):
        service = manifests.find("Service", target.get("name"))
        ports = items(service, "spec.ports")
        port = mapping(target, "port")
        if not any(port in ({"name": p.get("name")}, {"number": p.get("port")}) for p in ports):
            problem = f"no Service is called {target.get('name')} and has the port {dict(port)}"
            yield Finding(title(ingress), field, problem)
        open_.add(target.get("name"))
    for service in manifests.kind("Service"):
        name = at(service, "metadata.name")
        node_ports = [p.get("nodePort") for p in items(service, "spec.ports")]
        kind = at(service, "spec.type") or "ClusterIP"
        if kind == "NodePort":
            open_.add(name)
            if node_ports != [NODE_PORTS.get(name)]:
                problem = f"{node_ports}: {NODE_PORTS.get(name)} is right"
                yield Finding(title(service), "spec.ports.nodePort", problem)
        elif kind != "ClusterIP" or any(node_ports):
            yield Finding(title(service), "spec.type", f"is {kind}: use ClusterIP or NodePort")
    for name in NODE_PORTS:
        if name not in open_:
            advice = "clients have no way in: set type NodePort or add an Ingress"
            yield Finding(f"Service/{name}", "spec.type", advice)
    for name in sorted(str(name) for name in open_ - NODE_PORTS.keys()):
        yield Finding(
            f"Service/{name}", "spec.type", "is open to clients: only the API and page are"
        )
