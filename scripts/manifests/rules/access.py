"""Names, namespace, and what may use the Kubernetes API."""

import itertools
from collections.abc import Iterator
from typing import Final

from scripts.manifests import schemas
from scripts.manifests.design import NAMESPACE, PART_OF, PORTS, RIGHTS
from scripts.manifests.model import (
    NAME_LABEL,
    Document,
    Finding,
    Manifests,
    at,
    items,
    mapping,
    title,
)
from scripts.manifests.rules.fields import Must, broken, exactly, said

_CLUSTER_WIDE: Final = frozenset(
    {
        "Namespace",
        "PriorityClass",
        "StorageClass",
        "IngressClass",
        "IngressClassParams",
        "ClusterSecretStore",
        "CustomResourceDefinition",
        "ClusterImagePolicy",
    }
)
# Kustomize takes these for namespaced ones; the API server drops the namespace.
_MISTAKEN: Final = frozenset({"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"})
_OF_A_WORKLOAD: Final = frozenset(
    {
        "ConfigMap",
        "CronJob",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Job",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    }
)


def identity(manifests: Manifests) -> Iterator[Finding]:
    """Check that every object has a kind, a name of its own, our namespace and our labels."""
    seen = set()
    names = {workload.name for workload in manifests.workloads} | PORTS.keys()
    for document in manifests.documents:
        where = title(document)
        for field in ("apiVersion", "kind", "metadata.name"):
            if not at(document, field):
                yield Finding(where, field, "is missing: set it")
        key = (document.get("apiVersion"), where, at(document, "metadata.namespace"))
        if key in seen:
            yield Finding(where, "metadata.name", "stands twice: take one away")
        seen.add(key)
        wanted = None if document.get("kind") in _CLUSTER_WIDE else NAMESPACE
        found = at(document, "metadata.namespace")
        if found != wanted and document.get("kind") not in _MISTAKEN:
            yield Finding(where, "metadata.namespace", f"{said(found)}: {wanted} is right")
        labels = mapping(document, "metadata.labels")
        if labels.get("app.kubernetes.io/part-of") != PART_OF:
            yield Finding(where, "metadata.labels", f"set app.kubernetes.io/part-of: {PART_OF}")
        if document.get("kind") in _OF_A_WORKLOAD and labels.get(NAME_LABEL) not in names:
            yield Finding(where, "metadata.labels", f"set {NAME_LABEL} to the workload's name")
    for workload in manifests.workloads:
        if workload.labels.get("app.kubernetes.io/part-of") != PART_OF:
            field = "spec.template.metadata.labels"
            yield workload.finding(field, f"set app.kubernetes.io/part-of: {PART_OF}")


def namespace(manifests: Manifests) -> Iterator[Finding]:
    """Check that the namespace refuses pods that break Pod Security restricted."""
    found = manifests.find("Namespace", NAMESPACE)
    if found is None:
        yield Finding(f"Namespace/{NAMESPACE}", "metadata.name", "is missing: make the namespace")
        return
    yield from restricted(found)


def restricted(document: Document) -> Iterator[Finding]:
    """Check that a namespace's labels make it refuse pods that break Pod Security restricted."""
    labels = mapping(document, "metadata.labels")
    version = f"v1.{schemas.MINOR}"
    for mode in ("enforce", "audit", "warn"):
        for label, wanted in ((mode, "restricted"), (f"{mode}-version", version)):
            value = labels.get(f"pod-security.kubernetes.io/{label}")
            if value != wanted:
                field = f"metadata.labels.pod-security.kubernetes.io/{label}"
                yield Finding(title(document), field, f"{said(value)}: set {wanted}")


def cluster_rights(manifests: Manifests) -> Iterator[Finding]:
    """Check that nothing has rights outside its namespace."""
    for document in manifests.kind("ClusterRole", "ClusterRoleBinding"):
        yield Finding(title(document), "kind", "use a Role: nothing here is cluster-wide")


def rights(manifests: Manifests) -> Iterator[Finding]:
    """Check that nobody may do more or less with the API than the design says."""
    granted = set()
    for binding in manifests.kind("RoleBinding"):
        where = title(binding)
        wanted = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role"}
        name = at(binding, "roleRef.name")
        role = manifests.find("Role", name)
        if role is None or at(binding, "roleRef") != {**wanted, "name": name}:
            yield Finding(where, "roleRef", f"refer to a Role that there is, with {wanted}")
        for subject in items(binding, "subjects"):
            account = subject.get("name")
            own = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
            if subject != own or not manifests.find("ServiceAccount", account):
                yield Finding(where, "subjects", f"{account} is no ServiceAccount of {NAMESPACE}")
            granted |= {(account, *right) for right in _granted(role)}
    for name, _, resource, verb in sorted(granted - RIGHTS):
        yield Finding(f"Role of {name}", "rules", f"take the right to {verb} {resource} away")
    present = {workload.name for workload in manifests.workloads}
    for name, _, resource, verb in sorted(RIGHTS - granted):
        if name in present:
            yield Finding(f"Role of {name}", "rules", f"lacks the right to {verb} {resource}")


def _granted(role: Document | None) -> Iterator[tuple[str, str, str]]:
    """Yield group, kind and verb of everything that a role allows."""
    for rule in items(role, "rules"):
        names = rule.get("resourceNames") or []
        kinds = rule.get("resources") or []
        kinds = [f"{kind}/{name}" for kind in kinds for name in names] if names else kinds
        yield from itertools.product(rule.get("apiGroups") or [], kinds, rule.get("verbs") or [])


def service_accounts(manifests: Manifests) -> Iterator[Finding]:
    """Check that each workload has a ServiceAccount of its own, and neither mounts a token."""
    table = (Must("automountServiceAccountToken", exactly(False), "set false"),)
    for workload in manifests.workloads:
        field = "spec.template.spec."
        own = Must("serviceAccountName", exactly(workload.name), f"set {workload.name}")
        yield from broken(workload.title, workload.pod, field, (*table, own))
        if manifests.find("ServiceAccount", workload.name) is None:
            advice = f"no ServiceAccount is called {workload.name}: add it"
            yield workload.finding(field + "serviceAccountName", advice)
    names = {workload.name for workload in manifests.workloads}
    for account in manifests.kind("ServiceAccount"):
        yield from broken(title(account), account, "", table)
        if at(account, "metadata.name") not in names:
            yield Finding(title(account), "metadata.name", "no workload uses it: take it away")


def admission(manifests: Manifests) -> Iterator[Finding]:
    """Check that the API server itself refuses what the admission policy does not allow."""
    bound = set()
    binding_table = (
        Must("spec.validationActions", exactly(["Deny"]), "set [Deny]"),
        Must(
            "spec.matchResources.namespaceSelector.matchLabels",
            exactly({"kubernetes.io/metadata.name": NAMESPACE}),
            f"select the namespace {NAMESPACE} and no other",
        ),
    )
    for binding in manifests.kind("ValidatingAdmissionPolicyBinding"):
        yield from broken(title(binding), binding, "", binding_table)
        bound.add(at(binding, "spec.policyName"))
    policy_table = (Must("spec.failurePolicy", exactly("Fail"), "set Fail"),)
    names = set()
    for policy in manifests.kind("ValidatingAdmissionPolicy"):
        names.add(at(policy, "metadata.name"))
        yield from broken(title(policy), policy, "", policy_table)
        for validation in items(policy, "spec.validations"):
            if not {"message", "messageExpression"} & validation.keys():
                yield Finding(title(policy), "spec.validations", "one has no message: add it")
    if not names:
        yield Finding("ValidatingAdmissionPolicy", "metadata.name", "there is none: add it")
    for name in sorted(map(str, names ^ bound)):
        where = f"ValidatingAdmissionPolicyBinding of {name}"
        yield Finding(where, "spec.policyName", "policy and binding do not go together")
