"""What all that Flux applies is held to, whoever wrote it: a short list, in every namespace.

Pod Security's own evaluator and kubeconform are asked besides (``tools.py``). A right over the
whole cluster, or a namespace that lets more in than Pod Security restricted, has its reason there.
"""

from collections.abc import Iterator
from typing import Any, Final

from scripts.manifests.model import (
    FLUX_API,
    Document,
    Finding,
    Manifests,
    at,
    items,
    mapping,
    marked,
    selects,
    title,
)
from scripts.manifests.rules.fields import said

WHY: Final = "facestack.dev/why"
"""Annotation of an object: why it has rights over the cluster, or rights to more rights."""
WHY_NOT_RESTRICTED: Final = "facestack.dev/why-not-restricted"
"""Annotation of a namespace: why its pods may be more than Pod Security restricted lets them."""

_ENFORCE: Final = "pod-security.kubernetes.io/enforce"
_POWERS: Final = frozenset({"*", "bind", "escalate", "impersonate"})
_CLUSTER_WIDE: Final = frozenset(
    {
        "APIService",
        "CSIDriver",
        "ClusterImagePolicy",
        "ClusterIssuer",
        "ClusterRole",
        "ClusterRoleBinding",
        "ClusterSecretStore",
        "CustomResourceDefinition",
        "GatewayClass",
        "IngressClass",
        "IngressClassParams",
        "MutatingWebhookConfiguration",
        "Namespace",
        "PersistentVolume",
        "PriorityClass",
        "RuntimeClass",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
    }
)


def namespaces(manifests: Manifests) -> Iterator[Finding]:
    """Check that namespaces stay, say what they let in, and deny what no policy allows."""
    for document in manifests.kind("Namespace"):
        name, where = at(document, "metadata.name"), title(document)
        level = mapping(document, "metadata.labels").get(_ENFORCE)
        why = mapping(document, "metadata.annotations").get(WHY_NOT_RESTRICTED)
        if level != "restricted" and not (level and why):
            advice = (
                f"{said(level)}: set restricted, or say why not: annotation {WHY_NOT_RESTRICTED}"
            )
            yield Finding(where, f"metadata.labels[{_ENFORCE}]", advice)
        if not marked(document, "prune", "disabled"):
            advice = f"set {FLUX_API}/prune: disabled: all that is in it would go too"
            yield Finding(where, "metadata.labels", advice)
        closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        if not any(
            at(policy, "metadata.namespace") == name and policy.get("spec") == closed
            for policy in manifests.kind("NetworkPolicy")
        ):
            yield Finding(where, "NetworkPolicy", f"none denies all in it: add one with {closed}")
    known = {at(document, "metadata.name") for document in manifests.kind("Namespace")}
    for document in manifests.documents:
        namespace = at(document, "metadata.namespace")
        if document.get("kind") not in _CLUSTER_WIDE and namespace not in known | {"kube-system"}:
            advice = f"{said(namespace)}: use {', '.join(sorted(map(str, known)))}, or add it"
            yield Finding(title(document), "metadata.namespace", advice)


def containers(manifests: Manifests) -> Iterator[Finding]:
    """Check that images have exact tags, and containers requests and limits."""
    for document in manifests.kind("Pod", "ReplicaSet", "ReplicationController"):
        advice = "nobody replaces it without a gap: make it a Deployment, or a Job"
        yield Finding(title(document), "kind", advice)
    for workload in manifests.workloads:
        for container in workload.containers:
            if not container.image.is_exact:
                advice = f"is {container.spec.get('image')}: give the exact version, or a digest"
                yield workload.finding(f"{container.field}.image", advice)
            for field in (
                f"{part}.{what}" for part in ("requests", "limits") for what in ("cpu", "memory")
            ):
                if at(container.spec, f"resources.{field}") is None:
                    advice = "is missing: set how much it needs, for example 100m or 64Mi"
                    yield workload.finding(f"{container.field}.resources.{field}", advice)


def secrets(manifests: Manifests) -> Iterator[Finding]:
    """Check that no secret stands in git but encrypted."""
    for document in manifests.kind("Secret"):
        if not at(document, "sops.mac"):
            advice = "take it away, or put it, encrypted, into a cluster's secrets: 'make secrets'"
            yield Finding(title(document), "kind", advice)


def rights(manifests: Manifests) -> Iterator[Finding]:
    """Check that rights over the cluster, to all or to more rights, have their reason."""
    for document in manifests.kind("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
        role = mapping(document, "roleRef")
        given = bool(role) and not manifests.find(str(role.get("kind")), role.get("name"))
        names = [
            str(name)
            for rule in items(document, "rules")
            for field in ("apiGroups", "resources", "verbs")
            for name in rule.get(field) or []
        ]
        wide = str(document.get("kind")).startswith("Cluster") or role.get("kind") == "ClusterRole"
        reasons = {
            "is for the whole cluster": wide,
            f"binds {role.get('name')}, which nobody here makes": given,
            "is every right": bool(_POWERS & set(names)),
        }
        what = next((text for text, holds in reasons.items() if holds), None)
        if what and not mapping(document, "metadata.annotations").get(WHY):
            advice = f"{what}: take it away, or say why: annotation {WHY}"
            yield Finding(title(document), "rules" if names else "roleRef", advice)
        for subject in items(document, "subjects"):
            namespace = subject.get("namespace", at(document, "metadata.namespace"))
            own = subject.get("kind") == "ServiceAccount"
            if own and not manifests.find("ServiceAccount", subject.get("name"), namespace):
                advice = f"{subject.get('name')} is no ServiceAccount of {namespace}"
                yield Finding(title(document), "subjects", advice)


# Kind, path and what is named; a path into pods is of each workload.
_REFERENCES: Final = (
    ("pod", "serviceAccountName", "ServiceAccount"),
    ("pod", "priorityClassName", "PriorityClass"),
    ("pod", "volumes.configMap.name", "ConfigMap"),
    ("pod", "volumes.persistentVolumeClaim.claimName", "PersistentVolumeClaim"),
    ("HorizontalPodAutoscaler", "spec.scaleTargetRef.name", "Deployment"),
    ("PersistentVolumeClaim", "spec.storageClassName", "StorageClass"),
    ("ExternalSecret", "spec.secretStoreRef.name", "SecretStore"),
    ("ValidatingAdmissionPolicyBinding", "spec.policyName", "ValidatingAdmissionPolicy"),
    ("Ingress", "spec.rules.http.paths.backend.service.name", "Service"),
)


def references(manifests: Manifests) -> Iterator[Finding]:
    """Check that what is named is there; a storage class only where the manifests bring any."""
    for kind, path, target in _REFERENCES:
        for where, namespace, node in _named(manifests, kind):
            for name in _at_all(node, path.split(".")):
                known = (
                    name.startswith("system-")
                    or name == "default"
                    or (target == "StorageClass" and not any(manifests.kind(target)))
                )
                place = None if target in _CLUSTER_WIDE else namespace
                if not known and not manifests.find(target, name, place):
                    yield Finding(where, path, f"there is no {target}/{name}: add or correct it")


def mounts(manifests: Manifests) -> Iterator[Finding]:
    """Check that what a container mounts is a volume, and every volume is mounted."""
    for workload in manifests.workloads:
        volumes = {str(volume.get("name")) for volume in items(workload.pod, "volumes")}
        volumes |= {
            str(at(claim, "metadata.name"))
            for claim in items(workload.document, "spec.volumeClaimTemplates")
        }
        mounted = {
            str(mount.get("name"))
            for container in workload.containers
            for mount in items(container.spec, "volumeMounts")
        }
        for name in sorted(volumes ^ mounted):
            what = "no container mounts it" if name in volumes else "no volume is called so"
            yield workload.finding(f"{workload.field}.volumes[{name}]", what)


def _named(manifests: Manifests, kind: str) -> Iterator[tuple[str, Any, Document]]:
    if kind == "pod":
        for workload in manifests.workloads:
            yield workload.title, workload.namespace, dict(workload.pod)
    for document in manifests.kind(kind):
        yield title(document), at(document, "metadata.namespace"), document


def _at_all(node: Any, steps: list[str]) -> Iterator[str]:
    """Yield what stands at a path, in each entry of lists on the way, but for optional ones."""
    if isinstance(node, list):
        for entry in node:
            yield from _at_all(entry, steps)
    elif not steps:
        yield from () if node is None else (str(node),)
    elif isinstance(node, dict) and not node.get("optional"):
        yield from _at_all(node.get(steps[0]), steps[1:])


def services(manifests: Manifests) -> Iterator[Finding]:
    """Check that a workload selects its own pods, and a Service pods that have its ports."""
    for workload in manifests.serving:
        selector = at(workload.document, "spec.selector")
        selected = {
            other.name
            for other in manifests.workloads
            if other.namespace == workload.namespace and selects(selector, other.labels)
        }
        if selected != {workload.name}:
            advice = (
                f"selects the pods of {', '.join(sorted(selected)) or 'nobody'}: select its own"
            )
            yield workload.finding("spec.selector", advice)
    for service in manifests.kind("Service"):
        namespace, selector = at(service, "metadata.namespace"), mapping(service, "spec.selector")
        if not selector:
            continue
        mine = [
            workload
            for workload in manifests.workloads
            if workload.namespace == namespace
            and selects({"matchLabels": selector}, workload.labels)
        ]
        if not mine:
            yield Finding(title(service), "spec.selector", "selects nobody's pods: correct it")
        for port in items(service, "spec.ports") if mine else []:
            target = port.get("targetPort")
            if isinstance(target, str) and not any(target in workload.ports for workload in mine):
                known = ", ".join(name for workload in mine for name in workload.ports)
                field = f"spec.ports[{port.get('name')}].targetPort"
                yield Finding(title(service), field, f"is {target!r}: the pods have {known}")
