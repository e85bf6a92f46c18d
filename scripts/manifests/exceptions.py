"""What checkov and kube-score say and we do otherwise, each with its reason.

An exception that no finding needs is itself a finding, so this list never outgrows the manifests.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from scripts.manifests.model import Finding


@dataclass(frozen=True)
class Exemption:
    """A check of one tool that does not hold for the objects that a pattern matches."""

    tool: str
    check: str
    where: str
    reason: str


_PULLED: Final = (
    "a tag is never moved, and kind and minikube run images that no registry has: rules/images.py"
    " holds every image to an exact tag"
)
_IMAGES: Final = (
    Exemption("checkov", "CKV_K8S_15", ".*", _PULLED),
    Exemption("kube-score", "container-image-pull-policy", ".*", _PULLED),
    Exemption(
        "checkov",
        "CKV_K8S_43",
        ".*",
        "a digest is known only where a registry is in reach; an invented one would be worse",
    ),
)
EXEMPTIONS: Final = (
    *_IMAGES,
    Exemption(
        "checkov",
        "CKV_K8S_35",
        "StatefulSet/object-store",
        "versitygw reads its root key from the environment alone",
    ),
    Exemption(
        "kube-score",
        "deployment-has-host-podantiaffinity",
        "Deployment/.*",
        "topology spread does it, and counts the pods of one rollout only: rules/rollout.py",
    ),
    Exemption(
        "kube-score",
        "deployment-replicas",
        "Deployment/nsqlookupd",
        "it holds no data; while it restarts, nsqd and its readers keep their connections",
    ),
    Exemption(
        "kube-score",
        "service-type",
        "Service/(receiver|frontend)",
        "kind and minikube have no load balancer: a port of the nodes is the way in",
    ),
)
UNIT_EXEMPTIONS: Final = (
    *_IMAGES,
    Exemption(
        "kube-score",
        "deployment-replicas",
        "Deployment/metrics-server",
        "another replica asks every kubelet again; while none is there, autoscalers just wait",
    ),
    Exemption(
        "kube-score",
        "networkpolicy-targets-pod",
        "NetworkPolicy/(default-deny|dns|inside)",
        "a tenant's pods are not in git",
    ),
)


def covers(exemption: Exemption, tool: str, finding: Finding) -> bool:
    """Tell whether an exemption is about a tool's finding."""
    return (exemption.tool, exemption.check) == (tool, finding.field) and re.fullmatch(
        exemption.where, finding.where
    ) is not None


def remaining(
    tool: str, findings: Iterable[Finding], among: Iterable[Exemption] = EXEMPTIONS
) -> Iterator[Finding]:
    """Yield the findings that no exemption covers."""
    listed = tuple(among)
    for finding in findings:
        if not any(covers(exemption, tool, finding) for exemption in listed):
            yield finding


def unused(
    found: dict[str, list[Finding]], among: Iterable[Exemption] = EXEMPTIONS
) -> Iterator[Finding]:
    """Yield the exemptions that none of the tools' findings, over all overlays, needs."""
    for exemption in among:
        if exemption.tool in found and not any(
            covers(exemption, exemption.tool, finding) for finding in found[exemption.tool]
        ):
            where = f"exceptions.py: {exemption.tool} {exemption.check}"
            yield Finding(where, exemption.where, "no finding needs it: take it away")
