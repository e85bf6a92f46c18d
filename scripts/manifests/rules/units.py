"""Rules for the units in apps/, whatever their namespace: policies, rights, what pods take."""

import itertools
from collections.abc import Iterator
from typing import Any, Final

from scripts.manifests.design import (
    GIVEN_ROLES,
    NAMESPACE,
    UNIT_CLUSTER_RIGHTS,
    UNIT_IMAGES,
)
from scripts.manifests.model import (
    FLUX_API,
    Document,
    Finding,
    Manifests,
    Rule,
    at,
    items,
    mapping,
    title,
)
from scripts.manifests.rules import pods, rollout, services
from scripts.manifests.rules.access import restricted
from scripts.manifests.rules.fields import Must, broken, exactly, said

_CLUSTER_WIDE: Final = frozenset(
    {
        "APIService",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Namespace",
        "PriorityClass",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
)
_SHARED: Final = frozenset({NAMESPACE, "flux-system"})
"""Namespaces that others make and where units may put objects."""

_PRUNE: Final = f"{FLUX_API}/prune"
_NAMESPACE: Final = (
    Must(
        "metadata.annotations",
        lambda found: (found or {}).get(_PRUNE) == "disabled",
        f"set {_PRUNE}: disabled, because all that is in it would go too",
    ),
)
_POD: Final = (
    Must("automountServiceAccountToken", exactly(False), "set false; mount a token where needed"),
    Must("enableServiceLinks", exactly(False), "set false: addresses come as settings"),
)
_CONTAINER: Final = (
    Must("securityContext.readOnlyRootFilesystem", exactly(True), "set true"),
    Must("imagePullPolicy", exactly("IfNotPresent"), "set IfNotPresent: a tag never moves"),
)
_READING: Final = frozenset({"get", "list", "watch"})
_POWERS: Final = frozenset({"bind", "escalate", "impersonate"})
# Who may change these is not held by them.
_LIMITS: Final = frozenset(
    {
        ("", "limitranges"),
        ("", "namespaces"),
        ("", "nodes"),
        ("", "persistentvolumes"),
        ("", "resourcequotas"),
        ("", "serviceaccounts"),
        ("", "serviceaccounts/token"),
        ("", "services/status"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
        ("discovery.k8s.io", "endpointslices"),
        ("", "endpoints"),
        ("networking.k8s.io", "ingresses"),
        ("networking.k8s.io", "networkpolicies"),
        ("policy", "poddisruptionbudgets"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "rolebindings"),
        ("rbac.authorization.k8s.io", "roles"),
    }
)


def places(manifests: Manifests) -> Iterator[Finding]:
    """Check that a unit's objects stand in a namespace of its own or in a shared one."""
    own = {at(document, "metadata.name") for document in manifests.kind("Namespace")}
    for document in manifests.documents:
        found = at(document, "metadata.namespace")
        kind = document.get("kind")
        given = kind == "RoleBinding" and _given(document)
        if kind not in _CLUSTER_WIDE and found not in own | _SHARED and not given:
            known = ", ".join(sorted(own | _SHARED))
            yield Finding(title(document), "metadata.namespace", f"{said(found)}: use {known}")


def namespaces(manifests: Manifests) -> Iterator[Finding]:
    """Check that a unit's namespace stays, is restricted and denies what no policy allows."""
    for document in manifests.kind("Namespace"):
        yield from restricted(document)
        yield from broken(title(document), document, "", _NAMESPACE)
        name = at(document, "metadata.name")
        closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        if not any(
            at(policy, "metadata.namespace") == name and policy.get("spec") == closed
            for policy in manifests.kind("NetworkPolicy")
        ):
            advice = f"none denies all of {name}: add one with {closed}"
            yield Finding("NetworkPolicy/default-deny", "spec", advice)


def images(manifests: Manifests) -> Iterator[Finding]:
    """Check that every image is on the list, at the version that stands there."""
    for workload in manifests.workloads:
        for container in workload.containers:
            image = str(container.spec.get("image"))
            name, _, tag = image.partition("@")[0].rpartition(":")
            if name not in UNIT_IMAGES:
                known = ", ".join(sorted(UNIT_IMAGES))
                advice = f"is {image}: add it with its version to UNIT_IMAGES, or use {known}"
                yield workload.finding(f"{container.field}.image", advice)
            elif tag != UNIT_IMAGES[name]:
                right = f"{name}:{UNIT_IMAGES[name]}"
                yield workload.finding(f"{container.field}.image", f"is {image}: use {right}")


def hardening(manifests: Manifests) -> Iterator[Finding]:
    """Check what goes beyond Pod Security restricted."""
    for workload in manifests.workloads:
        yield from broken(workload.title, workload.pod, "spec.template.spec.", _POD)
        for container in workload.containers:
            yield from broken(workload.title, container.spec, f"{container.field}.", _CONTAINER)


def budgets(manifests: Manifests) -> Iterator[Finding]:
    """Check that replicas have a budget, and that one pod alone does not hold up a drain."""
    for finding in rollout.disruption_budgets(manifests):
        if finding.where.startswith("PodDisruptionBudget"):
            yield finding
    names = {at(budget, "metadata.name") for budget in manifests.kind("PodDisruptionBudget")}
    for workload in manifests.serving:
        many = at(workload.document, "spec.replicas") != 1
        if many != (workload.name in names):
            advice = "has replicas and no budget: add it" if many else "of one pod: take it away"
            yield Finding(f"PodDisruptionBudget/{workload.name}", "metadata.name", advice)


def secrets(manifests: Manifests) -> Iterator[Finding]:
    """Check that no unit brings a Secret: those are encrypted and belong to a cluster."""
    for document in manifests.kind("Secret"):
        yield Finding(title(document), "kind", "put it into the cluster's secrets, encrypted")


def rights(manifests: Manifests) -> Iterator[Finding]:
    """Check that no role gives away what its holder could become more with."""
    for role in manifests.kind("Role", "ClusterRole"):
        for group, resource, verb in _granted(role):
            what = f"the right to {verb} {resource}.{group}".rstrip(".")
            if "*" in (group, resource, verb):
                yield Finding(title(role), "rules", f"{what}: name what is meant, not all")
            elif verb in _POWERS:
                yield Finding(title(role), "rules", f"{what} is every right: take it away")
            elif (group, resource) in _LIMITS and verb not in _READING:
                yield Finding(title(role), "rules", f"{what} lifts its own limits: take it away")


def cluster_rights(manifests: Manifests) -> Iterator[Finding]:
    """Check that rights in all namespaces are those on the list, and bound by the list."""
    for role in manifests.kind("ClusterRole"):
        name = str(at(role, "metadata.name"))
        for right in sorted(set(_granted(role)) - UNIT_CLUSTER_RIGHTS.get(name, frozenset())):
            what = f"{right[2]} {right[1]}.{right[0]}".rstrip(".")
            yield Finding(title(role), "rules", f"{what}: take it away, or use a Role")
    for binding in manifests.kind("ClusterRoleBinding", "RoleBinding"):
        where = title(binding)
        bound = manifests.find(str(at(binding, "roleRef.kind")), at(binding, "roleRef.name"))
        if bound is None and not _given(binding):
            advice = f"{said(at(binding, 'roleRef.name'))}: no role of this unit, nor on the list"
            yield Finding(where, "roleRef", advice)
        if binding.get("kind") == "RoleBinding" and bound and bound.get("kind") != "Role":
            yield Finding(where, "roleRef", "bind a Role of the namespace")
        for subject in items(binding, "subjects"):
            if subject.get("kind") != "ServiceAccount" or not any(
                at(account, "metadata.name") == subject.get("name")
                and at(account, "metadata.namespace") == subject.get("namespace")
                for account in manifests.kind("ServiceAccount")
            ):
                advice = f"{subject.get('name')} is no ServiceAccount of this unit"
                yield Finding(where, "subjects", advice)


def _given(binding: Document) -> bool:
    """Tell whether the list lets the subjects have a role that Kubernetes brings."""
    subjects = {str(subject.get("name")) for subject in items(binding, "subjects")}
    namespace = at(binding, "metadata.namespace")
    wanted = (namespace, at(binding, "roleRef.kind"), at(binding, "roleRef.name"))
    return bool(subjects) and all(wanted in GIVEN_ROLES.get(name, ()) for name in subjects)


def _granted(role: Document) -> Iterator[tuple[str, str, str]]:
    """Yield group, kind and verb of everything that a role allows."""
    for rule in items(role, "rules"):
        yield from itertools.product(
            rule.get("apiGroups") or [""], rule.get("resources") or [], rule.get("verbs") or []
        )


def accounts(manifests: Manifests) -> Iterator[Finding]:
    """Check that no ServiceAccount gives its token to pods that do not ask for it."""
    table = (Must("automountServiceAccountToken", exactly(False), "set false"),)
    for account in manifests.kind("ServiceAccount"):
        yield from broken(title(account), account, "", table)
    for workload in manifests.workloads:
        name = workload.pod.get("serviceAccountName")
        if manifests.find("ServiceAccount", name) is None:
            field = "spec.template.spec.serviceAccountName"
            yield workload.finding(field, f"{said(name)}: no ServiceAccount is called so")


def service_kinds(manifests: Manifests) -> Iterator[Finding]:
    """Check that no unit opens a port of the nodes or a load balancer by the way."""
    for service in manifests.kind("Service"):
        kind: Any = at(service, "spec.type") or "ClusterIP"
        if kind != "ClusterIP" or at(service, "spec.externalIPs"):
            yield Finding(title(service), "spec.type", f"is {kind}: use ClusterIP")


def scaling(manifests: Manifests) -> Iterator[Finding]:
    """Check that an autoscaler's bounds are numbers in order, and that it scales down calmly."""
    for scaler in manifests.kind("HorizontalPodAutoscaler"):
        spec = mapping(scaler, "spec")
        low, high = spec.get("minReplicas"), spec.get("maxReplicas")
        if type(low) is not int or type(high) is not int or not 2 <= low <= high:  # noqa: PLR2004
            advice = f"are {low!r} and {high!r}: set whole numbers, 2 or more, the first not above"
            yield Finding(title(scaler), "spec.minReplicas, maxReplicas", advice)
        calm = at(scaler, "spec.behavior.scaleDown.stabilizationWindowSeconds")
        if type(calm) is not int or calm < _CALM_SECONDS:
            field = "spec.behavior.scaleDown.stabilizationWindowSeconds"
            yield Finding(title(scaler), field, f"{said(calm)}: set {_CALM_SECONDS} or more")


_CALM_SECONDS: Final = 300

UNIT_RULES: Final[tuple[Rule, ...]] = (
    places,
    namespaces,
    images,
    hardening,
    accounts,
    budgets,
    secrets,
    rights,
    cluster_rights,
    service_kinds,
    scaling,
    pods.pod_security,
    pods.resources,
    pods.probes,
    pods.volumes,
    rollout.deployments,
    rollout.stateful_sets,
    services.selectors,
)


def check_unit(manifests: Manifests) -> Iterator[Finding]:
    """Yield whatever in a unit breaks a rule."""
    for rule in UNIT_RULES:
        yield from rule(manifests)
