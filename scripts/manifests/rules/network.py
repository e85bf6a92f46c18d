"""Who may talk to whom: policies allow what a setting or an annotation names, and nothing else.

Ours, because no tool on the shelf holds policies to what the pods are told: kube-score only
asks whether a policy selects a pod.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
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
)
from scripts.manifests.rules.fields import checks
from scripts.manifests.rules.settings import values_of
from services.common.hosts import AllowedHosts

ASKS: Final = "facestack.dev/asks"
"""Annotation of a workload: what it asks and no setting names, as ``nsqd:4150, outside:443``."""

# Ends of connections that are no workloads, as base/checks.yaml calls them.
ANYWHERE: Final = "anywhere"  # a rule without peers
OUTSIDE: Final = "outside"  # public addresses, and subnets that a policy names
PRIVATE: Final = "a private network"  # that is not the pods'
DNS: Final = "DNS"
IDENTITY: Final = "agent of pod identities"

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


@cache
def _network(cidr: Any) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(cidr)
    except ValueError:
        return None


def _matches(selector: Any, labels: Mapping[str, Any]) -> bool:
    """Tell whether a selector matches labels; an empty one matches all.

    That of a policy has no ``matchExpressions``, says base/checks.yaml.
    """
    is_there = isinstance(selector, dict)
    return is_there and mapping(selector, "matchLabels").items() <= labels.items()


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
        and _matches(peer.get("namespaceSelector", own), {_NAMESPACE_LABEL: end.namespace})
        and _matches(peer.get("podSelector", {}), end.labels)
    )


def allowed(manifests: Manifests, direction: str) -> set[Edge]:
    """Return every connection that the policies of one direction allow, whatever the other does."""
    network = _network(manifests.facts.get("pod_network")) or ip_network("10.244.0.0/16")
    pod = str(network[-1])
    pods = [_End(w.name, pod, NAMESPACE, w.labels) for w in manifests.workloads]
    is_out = direction == "Egress"
    others = [_End(**{"address": pod, **line}) for line in checks()["others"]]
    ends = [*pods, *(end for end in others if is_out or end.name != IDENTITY)]
    policies = [
        (at(policy, "spec.podSelector"), items(policy, f"spec.{direction.lower()}"))
        for policy in manifests.kind("NetworkPolicy")
        if direction in (at(policy, "spec.policyTypes") or ())
    ]
    found = set()
    for near in pods:
        mine = [rules for selector, rules in policies if _matches(selector, near.labels)]
        for rule in (rule for rules in mine for rule in rules) if mine else [{}]:
            peers = items(rule, "to" if is_out else "from")
            fitting = [end for end in ends if any(_is_peer(peer, end) for peer in peers)]
            for far in fitting if peers else [_End(ANYWHERE)]:
                source, target = (near, far) if is_out else (far, near)
                for port in items(rule, "ports") or [{"protocol": "any protocol"}]:
                    how = (port.get("port", 0), port.get("protocol", "TCP"))
                    found.add(Edge(source.name, target.name, *how))
    return found


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
    if "serviceAccountToken" in str(items(workload.pod, "volumes")):
        behind = int(manifests.facts.get("api_server_port", "6443"))
        found |= {(ANYWHERE, 443), (ANYWHERE, behind)}
    return {(_INSIDE.sub("", host), port) for host, port in found if host not in own}


def _routes(manifests: Manifests) -> Iterator[tuple[Any, Any]]:
    """Yield the host and the Service of every path of an Ingress."""
    for ingress in manifests.kind("Ingress"):
        for rule in items(ingress, "spec.rules"):
            for path in items(rule, "http.paths"):
                yield rule.get("host"), at(path, "backend.service.name")


def edges(manifests: Manifests) -> tuple[set[Edge], list[Finding]]:
    """Return the connections that settings and annotations name, and those that lead nowhere.

    Policies allow just these, and besides what all need: to ask DNS.
    """
    found, wrong, behind = set(), [], {service for _, service in _routes(manifests)}
    servers: dict[Any, dict[Any, str | None]] = {}  # the workload by a Service's name and port
    for service in manifests.kind("Service"):
        name, selected = at(service, "metadata.name"), manifests.selected(service)
        target = selected[0].name if len(selected) == 1 else None
        servers[name] = {port.get("port"): target for port in items(service, "spec.ports")}
        # What clients outside the cluster reach.
        is_open = at(service, "spec.type") in {"NodePort", "LoadBalancer"}
        clients = (OUTSIDE, PRIVATE) if is_open else (OUTSIDE,) if name in behind else ()
        found |= {Edge(one, target, port) for one in clients for port in servers[name] if target}
    for workload in manifests.workloads:
        for host, port in sorted(named(manifests, workload)):
            if host in {ANYWHERE, OUTSIDE, IDENTITY}:
                found.add(Edge(workload.name, host, port))
            elif host not in servers and "." in host:
                found.add(Edge(workload.name, OUTSIDE, port))
            elif port not in servers.get(host, ()):
                problem = f"names {host}:{port}: no Service has this name and port"
                wrong.append(workload.finding(f"{workload.field}.containers.env", problem))
            elif target := servers[host][port]:
                found.add(Edge(workload.name, target, port))
    return found, wrong


_FORBID: Final = "is allowed, and neither a setting nor an annotation names it: forbid it"
_LABEL: Final = "is named, and no policy allows it: label the client access.facestack.dev/SERVER"


def policies(manifests: Manifests) -> Iterator[Finding]:
    """Check that the policies allow, in each direction, what is named, and nothing else."""
    wanted, wrong = edges(manifests)
    yield from wrong
    names = {workload.name for workload in manifests.workloads}
    wanted |= {Edge(name, DNS, 53, protocol) for name in names for protocol in ("TCP", "UDP")}
    for direction, near, far in (("Ingress", 1, 0), ("Egress", 0, 1)):
        may = allowed(manifests, direction)
        should = {edge for edge in wanted if edge[near] in names}
        for found, advice in ((may - should, _FORBID), (should - may, _LABEL)):
            # One line for all the far ends of a port.
            others = defaultdict(set)
            for edge in found:
                others[edge[near], edge.port, edge.protocol].add(str(edge[far]))
            for (name, port, protocol), many in sorted(others.items(), key=str):
                ends = (", ".join(sorted(many)), str(name))
                way = " -> ".join(ends if direction == "Ingress" else ends[::-1])
                problem = f"{way} {port or 'any port'}/{protocol} {advice}"
                yield Finding(f"NetworkPolicy of {name}", f"spec.{direction.lower()}", problem)


def hosts(manifests: Manifests) -> Iterator[Finding]:
    """Check that who refuses other names answers to its own, and to those of the Ingress."""
    routes = list(_routes(manifests))
    for name, listed in values_of(manifests, "ALLOWED_HOSTS").items():
        for host in [name, *(host for host, service in routes if host and service == name)]:
            if AllowedHosts(listed).refusal([(b"host", host.encode())]):
                problem = f"{listed!r} lacks {host}, by which clients call it: add it"
                yield Finding(f"settings of {name}", "ALLOWED_HOSTS", problem)
