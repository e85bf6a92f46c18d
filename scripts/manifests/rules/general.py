"""What all that Flux applies is held to besides base/checks.yaml, in every namespace.

Pod Security's own evaluator and kubeconform are asked as well (``tools.py``).
"""

from collections.abc import Iterator

from scripts.manifests.model import (
    FLUX_API,
    SERVING_KINDS,
    Finding,
    Manifests,
    at,
    items,
    mapping,
    marked,
    title,
)


def namespaces(manifests: Manifests) -> Iterator[Finding]:
    """Check that namespaces stay, and deny what no policy allows."""
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policies = [one for one in manifests.kind("NetworkPolicy") if one.get("spec") == closed]
    denied = {at(policy, "metadata.namespace") for policy in policies}
    for document in manifests.kind("Namespace"):
        if not marked(document, "prune", "disabled"):
            advice = f"set {FLUX_API}/prune: disabled: all that is in it would go too"
            yield Finding(title(document), "metadata.labels", advice)
        if at(document, "metadata.name") not in denied:
            advice = f"none denies all in it: add one with {closed}"
            yield Finding(title(document), "NetworkPolicy", advice)


def mounts(manifests: Manifests) -> Iterator[Finding]:
    """Check that what a container mounts is a volume, and every volume is mounted."""
    for workload in manifests.workloads:
        volumes = {volume.get("name") for volume in items(workload.pod, "volumes")}
        claims = items(workload.document, "spec.volumeClaimTemplates")
        volumes |= {at(claim, "metadata.name") for claim in claims}
        mounted = {
            mount.get("name")
            for container in workload.containers
            for mount in items(container.spec, "volumeMounts")
        }
        for name in sorted(map(str, volumes ^ mounted)):
            what = "no container mounts it" if name in volumes else "no volume is called so"
            yield workload.finding(f"{workload.field}.volumes[{name}]", what)


def selectors(manifests: Manifests) -> Iterator[Finding]:
    """Check that a workload selects its own pods, and a Service pods that have its ports."""
    for workload in manifests.workloads:
        selected = manifests.selected(workload.document, at(workload.document, "spec.selector"))
        if workload.kind in SERVING_KINDS and selected != [workload]:
            names = ", ".join(sorted({other.name for other in selected})) or "nobody"
            yield workload.finding("spec.selector", f"selects the pods of {names}: select its own")
    for service in manifests.kind("Service"):
        selector = mapping(service, "spec.selector")
        mine = manifests.selected(service, {"matchLabels": selector}) if selector else []
        if selector and not mine:
            yield Finding(title(service), "spec.selector", "selects nobody's pods: correct it")
        known = [name for workload in mine for name in workload.ports]
        for port in items(service, "spec.ports") if mine else ():
            target = port.get("targetPort")
            if isinstance(target, str) and target not in known:
                field = f"spec.ports[{port.get('name')}].targetPort"
                advice = f"is {target!r}: the pods have {', '.join(known)}"
                yield Finding(title(service), field, advice)
