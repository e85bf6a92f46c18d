"""Who may talk to whom: policies allow what a setting or an annotation names, and nothing else.

Ours, because no tool on the shelf holds policies to what the pods are told: kube-score and checkov
only ask whether a policy selects a pod.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
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
from scripts.manifests.rules.settings import values_of
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

_PEERS: Final = {"Ingress": "from", "Egress": "to"}
_NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"


class Edge(NamedTuple):
    """A connection, with the port of the pod; 0 is any port."""

    source: str
    target: str
    port: int
    protocol: str = "TCP"


class _End(NamedTuple):
    """One end of a connection, with all that a policy can know it by."""

    name: str
    address: str = ""
    namespace: str | None = None
    labels: Mapping[str, Any] = MappingProxyType({})
    ports: Mapping[str, tuple[int, str]] = MappingProxyType({})


@cache
def _network(cidr: Any) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(cidr)
    except ValueError:
        return None


def _ends(manifests: Manifests, direction: str) -> list[_End]:
    """Return the pods, and behind them all ends that are no workloads."""
    excepted = [
        cidr
        for policy in manifests.kind("NetworkPolicy")
        for rule in items(policy, "spec.ingress")
        for peer in items(rule, "from")
        for cidr in at(peer, "ipBlock.except") or []
    ]
    # Where no fact says what the pods' network is, the policies do.
    known = (manifests.facts.get("pod_network"), *excepted, "10.244.0.0/16")
    pod = next(str(network[-1]) for cidr in known if (network := _network(cidr)))
    name_server = {"k8s-app": "kube-dns"}
    return [
        *(_End(w.name, pod, NAMESPACE, w.labels, w.ports) for w in manifests.workloads),
        _End(OUTSIDE, "203.0.113.10"),
        _End(PRIVATE, "172.18.0.10"),
        _End(PRIVATE, "192.168.0.10"),
        # It looks like the name server, and is in the wrong namespace.
        _End(OTHER, pod, "other", name_server),
        _End(SYSTEM, pod, "kube-system", {"k8s-app": "other"}),
        _End(DNS, pod, "kube-system", name_server),
        *([_End(IDENTITY, "169.254.170.23")] if direction == "Egress" else []),
    ]


def _is_peer(peer: Document, end: _End) -> bool:
    if block := peer.get("ipBlock"):
        named, *excepted = map(_network, (block.get("cidr"), *(block.get("except") or [])))
        if end.name == OUTSIDE and named and named.prefixlen and not named.is_link_local:
            return True
        address = ip_address(end.address)
        return address in (named or ()) and not any(address in (cidr or ()) for cidr in excepted)
    own = {"matchLabels": {_NAMESPACE_LABEL: NAMESPACE}}
    return (
        end.namespace is not None
        and selects(peer.get("namespaceSelector", own), {_NAMESPACE_LABEL: end.namespace})
        and selects(peer.get("podSelector", {}), end.labels)
    )


def _ports(rule: Document, target: _End) -> Iterator[tuple[int, str]]:
    """Yield the ports of the target, and their protocols, that a rule opens."""
    if not items(rule, "ports"):
        yield 0, "any protocol"
    for port in items(rule, "ports"):
        first: int | str = port.get("port", 0)
        protocol = port.get("protocol", "TCP")
        if isinstance(first, str):
            first, protocol = target.ports.get(first, (0, protocol))
        for number in range(first, port.get("endPort", first) + 1):
            yield number, protocol


def _restricts(policy: Document, direction: str) -> bool:
    """Tell whether a policy is about a direction; Kubernetes' default is what it has rules for."""
    default = ["Ingress", "Egress"] if at(policy, "spec.egress") else ["Ingress"]
    return direction in (at(policy, "spec.policyTypes") or default)


def allowed(manifests: Manifests, direction: str) -> set[Edge]:
    """Return every connection that the policies of one direction allow, whatever the other does."""
    ends = _ends(manifests, direction)
    policies = [p for p in manifests.kind("NetworkPolicy") if _restricts(p, direction)]
    found = set()
    for pod in ends[: len(manifests.workloads)]:
        mine = [p for p in policies if selects(at(p, "spec.podSelector"), pod.labels)]
        rules = [rule for policy in mine for rule in items(policy, f"spec.{direction.lower()}")]
        for rule in rules if mine else [{}]:
            peers = items(rule, _PEERS[direction])
            fitting = [end for end in ends if any(_is_peer(peer, end) for peer in peers)]
            for far in fitting if peers else [_End(ANYWHERE)]:
                source, target = (pod, far) if direction == "Egress" else (far, pod)
                found |= {Edge(source.name, target.name, *port) for port in _ports(rule, target)}
    return found


def edges(manifests: Manifests) -> set[Edge]:
    """Return the connections that the policies of both ends allow, but for those to DNS."""
    names = {workload.name for workload in manifests.workloads}
    out, in_ = allowed(manifests, "Egress"), allowed(manifests, "Ingress")
    leaving = {e for e in out if e.target not in names and e.target != DNS}
    return leaving | {e for e in in_ if e in out or e.source not in names}


_ADDRESS: Final = re.compile(r"(?<![\w.$)-])([a-z](?:[a-z0-9.-]*[a-z0-9])?):(\d+)\b")
_URL: Final = re.compile(r"\b(https?)://([a-z][a-z0-9.-]*)(?=[/\s\"'?,]|$)", re.MULTILINE)
_INSIDE: Final = re.compile(rf"\.{NAMESPACE}(\.svc(\.cluster\.local)?)?$")


def named(manifests: Manifests, workload: Workload) -> set[tuple[str, int]]:
    """Return every host and port in a workload's settings, arguments and annotation."""
    asked = str(mapping(workload.document, "metadata.annotations").get(ASKS, ""))
    found = {(host.strip(), int(port)) for host, port in re.findall(r"([^,:]+):(\d+)", asked)}
    own: set[str] = set()
    for container in workload.containers:
        given = container.environment
        own |= set(given.get("ALLOWED_HOSTS", "").split(","))
        text = "\n".join([*given.values(), *container.words])
        found |= {(host, int(port)) for host, port in _ADDRESS.findall(text)}
        found |= {(host, 443 if way == "https" else 80) for way, host in _URL.findall(text)}
        if "s3://" in text and "https://" not in given.get("S3_ENDPOINT", ""):
            found |= {(OUTSIDE, 443)}
            found |= {(IDENTITY, 80)} if "S3_ACCESS_KEY_ID_FILE" not in given else set()
    # With a token it asks the API server, whose address is the cluster's affair.
    if has_token(workload):
        behind = int(manifests.facts.get("api_server_port", "6443"))
        found |= {(ANYWHERE, 443), (ANYWHERE, behind)}
    return {(_INSIDE.sub("", host), port) for host, port in found if host not in own}


def has_token(workload: Workload) -> bool:
    """Tell whether a workload can prove to the API server who it is."""
    return any(
        "serviceAccountToken" in source
        for volume in items(workload.pod, "volumes")
        for source in items(volume, "projected.sources")
    )


def backend(manifests: Manifests, service: Document | None) -> Workload | None:
    """Return the workload that a Service leads to; None when it is not exactly one."""
    selector = {"matchLabels": mapping(service, "spec.selector")}
    found = {w.name: w for w in manifests.selected(service, selector)} if service else {}
    return next(iter(found.values())) if len(found) == 1 else None


def _routes(manifests: Manifests) -> Iterator[tuple[Any, Any]]:
    """Yield host and Service of whatever comes through an Ingress."""
    for ingress in manifests.kind("Ingress"):
        for rule in items(ingress, "spec.rules"):
            for path in items(rule, "http.paths"):
                yield rule.get("host"), at(path, "backend.service.name")


def ways_in(manifests: Manifests) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Yield workload, port and sources of what clients outside the cluster reach."""
    behind = {service for _, service in _routes(manifests)}
    for service in manifests.kind("Service"):
        is_open = at(service, "spec.type") in {"NodePort", "LoadBalancer"}
        target = backend(manifests, service)
        if target and (is_open or at(service, "metadata.name") in behind):
            for port in items(service, "spec.ports"):
                sources = (OUTSIDE, PRIVATE) if is_open else (OUTSIDE,)
                yield target.name, port.get("port", 0), sources


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
            elif target := backend(manifests, service):
                wanted.add(Edge(workload.name, target.name, port))
    for name, port, sources in ways_in(manifests):
        wanted |= {Edge(source, name, port) for source in sources}
    return wanted, wrong


_FORBID: Final = "is allowed, and neither a setting nor an annotation names it: forbid it"
_LABEL: Final = "is named, and no policy allows it: label the client access.facestack.dev/SERVER"


def policies(manifests: Manifests) -> Iterator[Finding]:
    """Check that the policies allow, in each direction, what is named, and nothing else."""
    wanted, wrong = _wanted(manifests)
    yield from wrong
    names = {workload.name for workload in manifests.workloads}
    for direction, near, far in (("Ingress", 1, 0), ("Egress", 0, 1)):
        may = allowed(manifests, direction)
        should = {edge for edge in wanted if edge[near] in names}
        port_of_pod = itemgetter(near, 2, 3)
        for found, advice in ((may - should, _FORBID), (should - may, _LABEL)):
            # One line for all the far ends of a port.
            for (name, port, protocol), many in groupby(
                sorted(found, key=port_of_pod), port_of_pod
            ):
                others = ", ".join(sorted(str(edge[far]) for edge in many))
                ends = f"{others} -> {name}" if direction == "Ingress" else f"{name} -> {others}"
                problem = f"{ends} {port or 'any port'}/{protocol} {advice}"
                yield Finding(f"NetworkPolicy of {name}", f"spec.{direction.lower()}", problem)


def hosts(manifests: Manifests) -> Iterator[Finding]:
    """Check that who refuses other names answers to its own, and to those of the Ingress."""
    routes = list(_routes(manifests))
    for name, listed in values_of(manifests, "ALLOWED_HOSTS").items():
        for host in [name, *(host for host, service in routes if host and service == name)]:
            if AllowedHosts(listed).refusal([(b"host", host.encode())]):
                problem = f"{listed!r} lacks {host}, by which clients call it: add it"
                yield Finding(f"settings of {name}", "ALLOWED_HOSTS", problem)
