"""Who may talk to whom: policies allow what a setting or an annotation names, and nothing else.

Ours, because no tool on the shelf holds policies to what the pods are told: kube-score and checkov
only ask whether a policy selects a pod.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final, NamedTuple

from scripts.manifests.model import (
    NAMESPACE,
    Document,
    Finding,
    Manifests,
    Workload,
    at,
    items,
    mapping,
    selects,
)
from services.common.hosts import AllowedHosts

ASKS: Final = "facestack.dev/asks"
"""Annotation of a workload: what it asks and no setting names, as ``nsqd:4150, outside:443``."""

# Ends of connections that are no workloads.
ANYWHERE: Final = "anywhere"  # a rule without peers
OUTSIDE: Final = "outside"  # public addresses, and subnets that a policy names
PRIVATE: Final = "a private network"  # that is not the pods'
OTHER: Final = "another namespace"
SYSTEM: Final = "another pod of kube-system"
DNS: Final = "DNS"
IDENTITY: Final = "agent of pod identities"


class Edge(NamedTuple):
    """A connection, with the port of the pod; 0 is any port."""

    source: str
    target: str
    port: int
    protocol: str = "TCP"


@dataclass(frozen=True)
class _End:
    """One end of a connection, with all that a policy can know it by."""

    name: str
    address: str | None = None
    namespace: str | None = None
    labels: Mapping[str, Any] | None = None
    ports: Mapping[str, tuple[int, str]] | None = None


_IDENTITY: Final = _End(IDENTITY, "169.254.170.23")
_FAR: Final = (
    _End(ANYWHERE),
    _End(OUTSIDE, "203.0.113.10"),
    _End(PRIVATE, "172.18.0.10"),
    _End(PRIVATE, "192.168.0.10"),
)


@cache
def _network(cidr: Any) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(cidr)
    except ValueError:
        return None


def _is_in(address: str | None, cidr: Any) -> bool:
    network = _network(cidr)
    return address is not None and network is not None and ip_address(address) in network


def _ends(manifests: Manifests, direction: str) -> Iterator[_End]:
    """Yield the pods, and all ends that are no workloads."""
    pods = _network(manifests.facts.get("pod_network", _excepted(manifests)))
    pod = str(pods[300]) if pods else None
    for workload in manifests.workloads:
        yield _End(workload.name, pod, NAMESPACE, workload.labels, workload.ports)
    yield from _FAR
    # It looks like the name server, and is in the wrong namespace.
    yield _End(OTHER, pod, "other", {"k8s-app": "kube-dns"})
    yield _End(SYSTEM, pod, "kube-system", {"k8s-app": "other"})
    yield _End(DNS, pod, "kube-system", {"k8s-app": "kube-dns"})
    if direction == "Egress":
        yield _IDENTITY
    for policy in manifests.kind("NetworkPolicy"):
        for rule in items(policy, f"spec.{direction.lower()}"):
            for peer in items(rule, _PEERS[direction]):
                network = _network(at(peer, "ipBlock.cidr"))
                if network and network.prefixlen and not network.is_link_local:
                    yield _End(OUTSIDE, str(network[-1]))


def _excepted(manifests: Manifests) -> str:
    """Return what policies take for the pods' network, where no fact says it."""
    blocks = [
        mapping(peer, "ipBlock")
        for policy in manifests.kind("NetworkPolicy")
        for rule in items(policy, "spec.ingress")
        for peer in items(rule, "from")
    ]
    written = [cidr for block in blocks for cidr in block.get("except") or [] if _network(cidr)]
    return str(next(iter(written), "10.244.0.0/16"))


_PEERS: Final = {"Ingress": "from", "Egress": "to"}


def _is_peer(peer: Document, end: _End) -> bool:
    if block := peer.get("ipBlock"):
        excepted = block.get("except") or []
        return _is_in(end.address, block.get("cidr")) and not any(
            _is_in(end.address, cidr) for cidr in excepted
        )
    if end.namespace is None or end.labels is None:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace}):
            return False
    elif end.namespace != NAMESPACE:
        return False
    return "podSelector" not in peer or selects(peer["podSelector"], end.labels)


def _ports(rule: Document, target: _End) -> Iterator[tuple[int, str]]:
    """Yield the ports of the target, and their protocols, that a rule opens."""
    if "ports" not in rule:
        yield 0, "any protocol"
    for port in items(rule, "ports"):
        number = port.get("port")
        if isinstance(number, int):
            for opened in range(number, port.get("endPort", number) + 1):
                yield opened, port.get("protocol", "TCP")
        else:
            yield (target.ports or {}).get(str(number), (0, "any protocol"))


def _types(policy: Document) -> list[str]:
    """Return the directions that a policy restricts; Kubernetes' default where it is silent."""
    written = at(policy, "spec.policyTypes")
    if isinstance(written, list):
        return [str(name) for name in written]
    return ["Ingress", "Egress"] if at(policy, "spec.egress") else ["Ingress"]


def allowed(manifests: Manifests, direction: str) -> set[Edge]:
    """Return every connection that the policies of one direction allow, whatever the other does."""
    ends = list(_ends(manifests, direction))
    policies = [p for p in manifests.kind("NetworkPolicy") if direction in _types(p)]
    found = set()
    for pod in ends[: len(manifests.workloads)]:
        mine = [p for p in policies if selects(at(p, "spec.podSelector"), pod.labels or {})]
        rules = [rule for policy in mine for rule in items(policy, f"spec.{direction.lower()}")]
        for rule in rules if mine else [{}]:
            peers = items(rule, _PEERS[direction])
            for far in ends if peers else _FAR[:1]:
                if not peers or any(_is_peer(peer, far) for peer in peers):
                    source, target = (pod, far) if direction == "Egress" else (far, pod)
                    found |= {Edge(source.name, target.name, *p) for p in _ports(rule, target)}
    return found


def edges(manifests: Manifests) -> set[Edge]:
    """Return the connections that the policies of both ends allow, but for those to DNS."""
    names = {workload.name for workload in manifests.workloads}
    out, in_ = allowed(manifests, "Egress"), allowed(manifests, "Ingress")
    leaving = {e for e in out if e.target not in names and e.target != DNS}
    return leaving | {e for e in in_ if e in out or e.source not in names}


_ADDRESS: Final = re.compile(r"(?<![\w.$)-])([a-z](?:[a-z0-9.-]*[a-z0-9])?):(\d+)\b")
_URL: Final = re.compile(r"\b(https?)://([a-z][a-z0-9.-]*)(?=[/\s\"'?,]|$)", re.MULTILINE)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def named(manifests: Manifests, workload: Workload) -> set[tuple[str, int]]:
    """Return every host and port in a workload's settings, arguments and annotation."""
    found: set[tuple[str, int]] = set()
    own: set[str] = set()
    for container in workload.containers:
        given = container.environment
        own |= {name for name in given.get("ALLOWED_HOSTS", "").split(",") if name}
        text = "\n".join([*given.values(), *container.words])
        found |= {(host, int(port)) for host, port in _ADDRESS.findall(text)}
        found |= {(host, _DEFAULT_PORTS[scheme]) for scheme, host in _URL.findall(text)}
        if "s3://" in text and "https://" not in given.get("S3_ENDPOINT", ""):
            found.add((OUTSIDE, 443))
            if "S3_ACCESS_KEY_ID_FILE" not in given:
                found.add((IDENTITY, 80))
    asked = str(mapping(workload.document, "metadata.annotations").get(ASKS, ""))
    found |= {(host.strip(), int(port)) for host, port in re.findall(r"([^,:]+):(\d+)", asked)}
    # With a token it asks the API server, whose address is the cluster's affair.
    if has_token(workload):
        behind = int(manifests.facts.get("api_server_port", "6443"))
        found |= {(ANYWHERE, 443), (ANYWHERE, behind)}
    inside = re.compile(rf"\.{NAMESPACE}(\.svc(\.cluster\.local)?)?$")
    return {(inside.sub("", host), port) for host, port in found if host not in own}


def has_token(workload: Workload) -> bool:
    """Tell whether a workload can prove to the API server who it is."""
    return any(
        "serviceAccountToken" in source
        for volume in items(workload.pod, "volumes")
        for source in items(volume, "projected.sources")
    )


def backend(manifests: Manifests, service: Document) -> Workload | None:
    """Return the workload that a Service leads to; None when it is not exactly one."""
    selector = {"matchLabels": mapping(service, "spec.selector")}
    found = {w.name: w for w in manifests.workloads if selects(selector, w.labels)}
    return next(iter(found.values())) if len(found) == 1 else None


def _wanted(manifests: Manifests) -> tuple[set[Edge], list[Finding]]:
    """Return the connections that settings and annotations name, and those that lead nowhere."""
    wanted, wrong = set(), []
    for workload in manifests.workloads:
        wanted |= {Edge(workload.name, DNS, 53, protocol) for protocol in ("TCP", "UDP")}
        for host, port in sorted(named(manifests, workload)):
            service = manifests.find("Service", host)
            if host in {ANYWHERE, OUTSIDE, IDENTITY}:
                wanted.add(Edge(workload.name, host, port))
            elif service is None and "." in host:
                wanted.add(Edge(workload.name, OUTSIDE, port))
            elif port not in [entry.get("port") for entry in items(service, "spec.ports")]:
                problem = f"names {host}:{port}: no Service has this name and port"
                wrong.append(workload.finding(f"{workload.field}.containers.env", problem))
            elif service and (target := backend(manifests, service)):
                wanted.add(Edge(workload.name, target.name, port))
    for name, port, sources in ways_in(manifests):
        wanted |= {Edge(source, name, port) for source in sources}
    return wanted, wrong


def ways_in(manifests: Manifests) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Yield workload, port and sources of what clients outside the cluster reach."""
    behind = {
        at(path, "backend.service.name")
        for ingress in manifests.kind("Ingress")
        for rule in items(ingress, "spec.rules")
        for path in items(rule, "http.paths")
    }
    for service in manifests.kind("Service"):
        target = backend(manifests, service)
        is_open = at(service, "spec.type") in {"NodePort", "LoadBalancer"}
        if target and (is_open or at(service, "metadata.name") in behind):
            for port in items(service, "spec.ports"):
                yield (
                    target.name,
                    port.get("port", 0),
                    (OUTSIDE, PRIVATE) if is_open else (OUTSIDE,),
                )


def policies(manifests: Manifests) -> Iterator[Finding]:
    """Check that the policies allow, in each direction, what is named, and nothing else."""
    wanted, wrong = _wanted(manifests)
    yield from wrong
    names = {workload.name for workload in manifests.workloads}
    for direction, near in (("Ingress", 1), ("Egress", 0)):
        may = allowed(manifests, direction)
        should = {edge for edge in wanted if edge[near] in names}
        for edges_, advice in (
            (
                may - should,
                "is allowed, and neither a setting nor an annotation names it: forbid it",
            ),
            (
                should - may,
                "is named, and no policy allows it: label the client access.facestack.dev/SERVER",
            ),
        ):
            # One line for all the far ends of a port.
            far: dict[tuple[str, str], list[str]] = {}
            for source, target, port, protocol in sorted(edges_):
                ends = (target, source) if near else (source, target)
                far.setdefault((ends[0], f"{port or 'any port'}/{protocol}"), []).append(ends[1])
            for (name, what), many in far.items():
                written = " -> ".join([name, ", ".join(many)][:: -1 if near else 1])
                field = f"spec.{direction.lower()}"
                yield Finding(f"NetworkPolicy of {name}", field, f"{written} {what} {advice}")


def hosts(manifests: Manifests) -> Iterator[Finding]:
    """Check that who refuses other names answers to those by which clients call it."""
    called = {
        (target.name, host)
        for workload in manifests.workloads
        for host, _ in named(manifests, workload)
        if (target := backend(manifests, manifests.find("Service", host) or {}))
    } | {
        (str(at(path, "backend.service.name")), str(rule.get("host")))
        for ingress in manifests.kind("Ingress")
        for rule in items(ingress, "spec.rules")
        for path in items(rule, "http.paths")
    }
    listed = {
        workload.name: container.environment["ALLOWED_HOSTS"]
        for workload in manifests.workloads
        for container in workload.containers
        if "ALLOWED_HOSTS" in container.environment
    }
    for name, host in sorted(called):
        if name in listed and AllowedHosts(listed[name]).refusal([(b"host", host.encode())]):
            problem = f"{listed[name]!r} lacks {host}, by which clients call it: add it"
            yield Finding(f"settings of {name}", "ALLOWED_HOSTS", problem)
