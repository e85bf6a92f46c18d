"""Who may talk to whom: what the NetworkPolicies allow is what the design says."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final, TypeAlias

from scripts.manifests.design import (
    API_SERVER,
    API_SERVER_PORTS,
    CLIENTS,
    DATABASE,
    DISCOVERED,
    DNS,
    EDGES,
    IDENTITY,
    KUBEADM_PORT,
    LOAD_BALANCER,
    MANAGED,
    NAMESPACE,
    OTHER,
    OUTSIDE,
    POD_NETWORK,
    PRIVATE,
    PROVIDER_EDGE,
    SYSTEM,
)
from scripts.manifests.model import (
    Document,
    Finding,
    Manifests,
    Workload,
    at,
    items,
    selects,
    title,
)
from scripts.manifests.rules.services import backend
from scripts.manifests.rules.settings import environment, values_of
from services.common.hosts import AllowedHosts

Edge: TypeAlias = tuple[str, str, int, str]  # from, to, port of the pod, protocol

_ADDRESS: Final = re.compile(r"(?<![\w.$)-])([a-z][a-z0-9-]*):(\d+)\b")
_ANY_PORT: Final = (0, "any protocol")


@dataclass(frozen=True)
class _End:
    """One end of a connection, with all that a policy can know it by."""

    name: str
    address: str
    namespace: str | None = None
    labels: Mapping[str, Any] | None = None
    ports: Mapping[str, tuple[int, str]] | None = None


_POD_ADDRESS: Final = str(ip_network(POD_NETWORK)[300])
_EXTERNAL: Final = (
    _End(OUTSIDE, "203.0.113.10"),
    _End(PRIVATE, "172.18.0.10"),
    _End(PRIVATE, "192.168.0.10"),
    # It looks like the name server, and is in the wrong namespace.
    _End(OTHER, _POD_ADDRESS, "other", {"k8s-app": "kube-dns"}),
    _End(SYSTEM, _POD_ADDRESS, "kube-system", {"k8s-app": "other"}),
    _End(DNS, _POD_ADDRESS, "kube-system", {"k8s-app": "kube-dns"}),
)


@cache
def _network(cidr: Any) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(cidr)
    except ValueError:
        return None


def _is_in(end: _End, cidr: Any) -> bool:
    network = _network(cidr)
    return network is not None and ip_address(end.address) in network


def _ends(policies: list[Document], direction: str) -> Iterator[_End]:
    """Yield all ends that are no workloads; a subnet that a policy names is a cloud's."""
    yield from _EXTERNAL
    outgoing = direction == "Egress"
    if outgoing:
        yield _End(IDENTITY, "169.254.170.23")
    for policy in policies:
        for rule in items(policy, f"spec.{direction.lower()}"):
            for peer in items(rule, "to" if outgoing else "from"):
                network = _network(at(peer, "ipBlock.cidr"))
                if network and network.prefixlen and not network.is_link_local:
                    yield _End(DATABASE if outgoing else LOAD_BALANCER, str(network[-1]))


def _is_peer(peer: Document, end: _End) -> bool:
    if block := peer.get("ipBlock"):
        excepted = block.get("except") or []
        return _is_in(end, block.get("cidr")) and not any(_is_in(end, cidr) for cidr in excepted)
    if end.namespace is None or end.labels is None:
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": end.namespace}
        if not selects(peer["namespaceSelector"], labels):
            return False
    elif end.namespace != NAMESPACE:
        return False
    return "podSelector" not in peer or selects(peer["podSelector"], end.labels)


def _ports(rule: Document, target: _End) -> Iterator[tuple[int, str]]:
    """Yield the ports of the target, and their protocols, that a rule opens."""
    if "ports" not in rule:
        yield _ANY_PORT
    for port in items(rule, "ports"):
        number = port.get("port")
        if isinstance(number, int):
            for opened in range(number, port.get("endPort", number) + 1):
                yield opened, port.get("protocol", "TCP")
        else:
            yield (target.ports or {}).get(str(number), _ANY_PORT)


def _types(policy: Document) -> list[str]:
    """Return the directions that a policy restricts; Kubernetes' default where it is silent."""
    written = at(policy, "spec.policyTypes")
    if isinstance(written, list):
        return [str(name) for name in written]
    return ["Ingress", "Egress"] if at(policy, "spec.egress") else ["Ingress"]


def _rules(policies: list[Document], end: _End, direction: str) -> list[Document] | None:
    """Return the rules for a pod in one direction; None when nothing restricts it."""
    if end.namespace != NAMESPACE:
        return None
    mine = [
        policy
        for policy in policies
        if selects(at(policy, "spec.podSelector"), end.labels or {}) and direction in _types(policy)
    ]
    return [rule for p in mine for rule in items(p, f"spec.{direction.lower()}")] if mine else None


def allowed(manifests: Manifests, direction: str) -> set[Edge]:
    """Return every connection that the policies of one direction allow, whatever the other does."""
    policies = list(manifests.kind("NetworkPolicy"))
    pods = [_End(w.name, _POD_ADDRESS, NAMESPACE, w.labels, w.ports) for w in manifests.workloads]
    ends = [*pods, *_ends(policies, direction)]
    peers = "to" if direction == "Egress" else "from"
    found = set()
    for pod in pods:
        rules = _rules(policies, pod, direction)
        for rule in [{}] if rules is None else rules:
            listed = items(rule, peers)
            for far in ends:
                if listed and not any(_is_peer(peer, far) for peer in listed):
                    continue
                source, target = (pod, far) if direction == "Egress" else (far, pod)
                found |= {(source.name, target.name, *port) for port in _ports(rule, target)}
    return found


def designed(manifests: Manifests, direction: str) -> set[Edge]:
    """Return the design's connections that start (Egress) or end (Ingress) at our pods."""
    names = {workload.name for workload in manifests.workloads}
    balanced = any(manifests.kind("Ingress"))
    has_provider = values_of(manifests, "OIDC_ISSUER").get("frontend") is not None
    edges = set()
    for source, target, port in EDGES | ({PROVIDER_EDGE} if has_provider else set()):
        sources = {source} & names
        if source == CLIENTS:
            sources = {LOAD_BALANCER} if balanced else {OUTSIDE, PRIVATE}
        targets = ((target, port),) if target in {*names, OUTSIDE} else MANAGED.get(target, ())
        edges |= {(source, *end, "TCP") for source in sources for end in targets}
    if direction == "Egress":
        policies = list(manifests.kind("NetworkPolicy"))
        ends = names | {end.name for end in _ends(policies, direction)}
        for name in API_SERVER.keys() & names:
            own = API_SERVER[name] if MANAGED.keys() - names else KUBEADM_PORT
            ports = {API_SERVER[name], _behind(policies, name, own)}
            edges |= {(name, end, port, "TCP") for end in ends for port in ports}
    edges |= {(name, DNS, 53, protocol) for name in names for protocol in ("TCP", "UDP")}
    return {edge for edge in edges if edge[0 if direction == "Egress" else 1] in names}


def _behind(policies: list[Document], name: str, usual: int) -> int:
    """Return where a policy takes the API server to listen, which facts of the cluster confirm."""
    opened = {
        port.get("port")
        for policy in policies
        if at(policy, "metadata.name") == name
        for rule in items(policy, "spec.egress")
        for port in items(rule, "ports")
    }
    found = (API_SERVER_PORTS & opened) - {API_SERVER[name]}
    return next(iter(found)) if len(found) == 1 else usual


def edges(manifests: Manifests) -> Iterator[Finding]:
    """Check that the policies allow the design's connections, and no other, in each direction."""
    for direction in ("Ingress", "Egress"):
        may, should = allowed(manifests, direction), designed(manifests, direction)
        for wrong, advice in (
            (may - should, "is allowed, and the design has it not: forbid it"),
            (should - may, "is in the design, and no policy allows it: allow it"),
        ):
            # One line for all the far ends of a port.
            far_ends: dict[tuple[str, str], list[str]] = {}
            for source, target, port, protocol in sorted(wrong):
                near, far = (source, target) if direction == "Egress" else (target, source)
                where = (near, f"{port or 'any port'}/{protocol}")
                far_ends.setdefault(where, []).append(far)
            for (near, what), many in far_ends.items():
                ends = [near, ", ".join(many)]
                edge = " -> ".join(ends if direction == "Egress" else reversed(ends))
                field = f"spec.{direction.lower()}"
                yield Finding(f"NetworkPolicy of {near}", field, f"{edge} {what} {advice}")


def policies(manifests: Manifests) -> Iterator[Finding]:
    """Check that each policy says its directions, and fits pods and ports that there are."""
    workloads = manifests.workloads
    for policy in manifests.kind("NetworkPolicy"):
        where = title(policy)
        selector = at(policy, "spec.podSelector")
        mine = [w for w in workloads if selects(selector, w.labels)]
        if not mine:
            yield Finding(where, "spec.podSelector", "selects no pod of ours")
        written = at(policy, "spec.policyTypes") or []
        denies = selector == {} and at(policy, "metadata.name") == "default-deny"
        for direction, peers in (("Ingress", "from"), ("Egress", "to")):
            field = f"spec.{direction.lower()}"
            if (direction in written) != (bool(at(policy, field)) or denies):
                advice = "add one or take it away" if direction in written else "add it"
                problem = f"{direction} and {field} do not go together: {advice}"
                yield Finding(where, "spec.policyTypes", problem)
            for rule in items(policy, field):
                yield from _strangers(where, f"{field}.{peers}", items(rule, peers), workloads)
                targets = mine if direction == "Ingress" else _own(rule, workloads)
                if targets:
                    yield from _unknown_ports(where, rule, field, targets)


def _own(rule: Document, workloads: list[Workload]) -> list[Workload]:
    """Return our workloads that a rule leads to."""
    selectors = [peer.get("podSelector") for peer in items(rule, "to") if len(peer) == 1]
    return [w for w in workloads if any(selects(selector, w.labels) for selector in selectors)]


def _strangers(
    where: str, field: str, peers: list[Document], workloads: list[Workload]
) -> Iterator[Finding]:
    """Yield the peers that match nobody: misspelt names."""
    for peer in peers:
        if not _is_somebody(peer, workloads):
            yield Finding(where, field, f"{peer} matches nobody: correct it")


def _is_somebody(peer: Document, workloads: list[Workload]) -> bool:
    if block := at(peer, "ipBlock"):
        cidrs = [block.get("cidr"), *(block.get("except") or [])]
        return all(_network(cidr) for cidr in cidrs)
    if "namespaceSelector" in peer:
        return True
    return any(selects(peer.get("podSelector"), workload.labels) for workload in workloads)


def _unknown_ports(
    where: str, rule: Document, field: str, targets: list[Workload]
) -> Iterator[Finding]:
    known = {number for workload in targets for number, _ in workload.ports.values()}
    for port in items(rule, "ports"):
        if isinstance(port.get("port"), int) and port["port"] not in known:
            numbers = ", ".join(map(str, sorted(known))) or "no port"
            yield Finding(where, f"{field}.ports", f"{port['port']}: the pods have {numbers}")


def addresses(manifests: Manifests) -> Iterator[Finding]:
    """Check that the addresses in settings are the design's edges and lead to a Service."""
    names = {workload.name for workload in manifests.workloads}
    for workload in manifests.workloads:
        named: set[tuple[str, str, int]] = set()
        for name, port in sorted(_addresses(manifests, workload)):
            service = manifests.find("Service", name)
            if port not in [entry.get("port") for entry in items(service, "spec.ports")]:
                problem = f"names {name}:{port}: no Service has this name and port"
                yield workload.finding("spec.template.spec.containers.env", problem)
            elif service:
                target = backend(manifests, service)
                named.add((workload.name, target.name if target else name, port))
        should = {e for e in EDGES if e[0] == workload.name and e[1] in names} - DISCOVERED
        for _, target_name, port in sorted(should - named):
            problem = f"no setting holds the address of {target_name} (port {port})"
            yield workload.finding("spec.template.spec.containers.env", problem)
        for _, target_name, port in sorted(named - should):
            problem = f"names {target_name} (port {port}), which the design does not"
            yield workload.finding("spec.template.spec.containers.env", problem)


def names(manifests: Manifests) -> Iterator[Finding]:
    """Check that who refuses other names answers to those by which clients call it."""
    called = {
        (target.name, host)
        for workload in manifests.workloads
        for host, _ in _addresses(manifests, workload)
        if (target := backend(manifests, manifests.find("Service", host) or {}))
    } | {
        (at(path, "backend.service.name"), str(rule.get("host")))
        for ingress in manifests.kind("Ingress")
        for rule in items(ingress, "spec.rules")
        for path in items(rule, "http.paths")
    }
    listed = values_of(manifests, "ALLOWED_HOSTS")
    for name, host in sorted(called):
        if name in listed and AllowedHosts(listed[name]).refusal([(b"host", host.encode())]):
            problem = f"{listed[name]!r} lacks {host}, by which clients call it: add it"
            yield Finding(f"settings of {name}", "ALLOWED_HOSTS", problem)


def _addresses(manifests: Manifests, workload: Workload) -> set[tuple[str, int]]:
    """Return every host and port in a workload's settings and arguments."""
    texts: list[str] = []
    for container in workload.containers:
        texts += environment(manifests, container.spec).values()
        for field in ("command", "args"):
            texts += [str(word) for word in container.spec.get(field) or []]
    return {(name, int(port)) for name, port in _ADDRESS.findall("\n".join(texts))}
