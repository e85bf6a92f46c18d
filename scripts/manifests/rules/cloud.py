"""What takes the place of workloads on AWS: load balancer, secrets, volumes."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from scripts.manifests.design import LONGEST_JOB_SECONDS, NAMESPACE, NODE_PORTS
from scripts.manifests.model import Document, Finding, Manifests, at, items, mapping, title
from scripts.manifests.rules.fields import Must, broken, exactly, said
from scripts.manifests.rules.settings import values_of

_PREFIX: Final = "alb.ingress.kubernetes.io/"


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


_ANNOTATIONS: Final = (
    Must("scheme", exactly("internet-facing"), "set internet-facing"),
    Must("inbound-cidrs", _matches(r"[\d.]+/[1-9]\d*"), "set the range of the clients"),
    Must("target-type", exactly("ip"), "set ip: requests go straight to the pods"),
    Must("listen-ports", exactly('[{"HTTP": 80}, {"HTTPS": 443}]'), "set HTTP 80 and HTTPS 443"),
    Must("ssl-redirect", exactly("443"), "set 443"),
    Must("ssl-policy", _matches("ELBSecurityPolicy-TLS13-.*"), "set a policy with TLS 1.3"),
    Must("healthcheck-path", exactly("/readyz"), "set /readyz"),
    Must("healthcheck-interval-seconds", _matches("[5-9]|10"), "set 5 to 10"),
    Must("healthcheck-timeout-seconds", _matches("[2-4]"), "set 2 to 4, below the interval"),
    Must("healthy-threshold-count", exactly("2"), "set 2"),
    Must("unhealthy-threshold-count", exactly("2"), "set 2"),
)
_STORAGE: Final = (
    Must("provisioner", exactly("ebs.csi.aws.com"), "set ebs.csi.aws.com"),
    Must("parameters.type", exactly("gp3"), "set gp3"),
    Must("parameters.encrypted", exactly("true"), 'set "true"'),
    Must("reclaimPolicy", _matches("Delete|Retain"), "set Delete or Retain"),
    Must("allowVolumeExpansion", exactly(True), "set true"),
    Must(
        "volumeBindingMode",
        exactly("WaitForFirstConsumer"),
        "set WaitForFirstConsumer: the volume must be in its pod's zone",
    ),
)


def _attribute(annotations: dict[str, Any], name: str) -> int | None:
    """Return a number in the attributes of the load balancer or of its target groups."""
    texts = [
        str(annotations.get(f"{kind}-attributes")) for kind in ("load-balancer", "target-group")
    ]
    found = re.search(rf"(?:^|,){re.escape(name)}=(\d+)(?:,|$)", "\n".join(texts), re.MULTILINE)
    return int(found[1]) if found else None


def load_balancer(manifests: Manifests) -> Iterator[Finding]:
    """Check that the load balancer asks the pods themselves, and lets go of them in time."""
    for ingress in manifests.kind("Ingress"):
        where = title(ingress)
        annotations = {
            name.removeprefix(_PREFIX): value
            for name, value in mapping(ingress, "metadata.annotations").items()
        }
        yield from broken(where, annotations, f"metadata.annotations.{_PREFIX}", _ANNOTATIONS)
        yield from _times(manifests, where, annotations)
        if at(ingress, "spec.ingressClassName") != "alb":
            yield Finding(where, "spec.ingressClassName", "set alb")
        hosts = [str(rule.get("host")) for rule in items(ingress, "spec.rules")]
        if len(set(hosts)) != len(NODE_PORTS) or not all("." in host for host in hosts):
            yield Finding(
                where, "spec.rules.host", f"are {hosts}: the API and the page have a name"
            )
        for rule in items(ingress, "spec.rules"):
            for path in items(rule, "http.paths"):
                if (path.get("path"), path.get("pathType")) != ("/", "Prefix"):
                    yield Finding(where, "spec.rules.http.paths", "set path / and pathType Prefix")
        gate = "elbv2.k8s.aws/pod-readiness-gate-inject"
        labels = mapping(manifests.find("Namespace", NAMESPACE), "metadata.labels")
        if labels.get(gate) != "enabled":
            advice = "set enabled: a pod is ready only when the load balancer has it"
            yield Finding(f"Namespace/{NAMESPACE}", f"metadata.labels.{gate}", advice)


def _times(manifests: Manifests, where: str, annotations: dict[str, Any]) -> Iterator[Finding]:
    idle = _attribute(annotations, "idle_timeout.timeout_seconds")
    keep_alive = min(values_of(manifests, "KEEP_ALIVE_SECONDS").values(), default=math.inf)
    if idle is None or not LONGEST_JOB_SECONDS <= idle < keep_alive:
        advice = f"{said(idle)}: set {LONGEST_JOB_SECONDS} to {keep_alive - 1:g}"
        field = f"metadata.annotations.{_PREFIX}load-balancer-attributes"
        yield Finding(where, field, f"idle_timeout.timeout_seconds {advice}")
    delay = _attribute(annotations, "deregistration_delay.timeout_seconds")
    field = f"metadata.annotations.{_PREFIX}target-group-attributes"
    if delay is None or delay < LONGEST_JOB_SECONDS:
        advice = f"{said(delay)}: set {LONGEST_JOB_SECONDS} or more"
        yield Finding(where, field, f"deregistration_delay.timeout_seconds {advice}")
        return
    for workload in manifests.serving:
        if workload.name in NODE_PORTS:
            for container in workload.containers:
                sleep = at(container.spec, "lifecycle.preStop.sleep.seconds")
                if not isinstance(sleep, int) or sleep < delay:
                    place = f"{container.field}.lifecycle.preStop.sleep.seconds"
                    problem = f"{said(sleep)}: set {delay}, while the load balancer lets go of it"
                    yield workload.finding(place, problem)


def external_secrets(manifests: Manifests) -> Iterator[Finding]:
    """Check that each external secret names a store that there is, and where its value is."""
    used = set()
    for secret in manifests.kind("ExternalSecret"):
        where = title(secret)
        store = (
            str(at(secret, "spec.secretStoreRef.kind")),
            str(at(secret, "spec.secretStoreRef.name")),
        )
        used.add(store)
        if not manifests.find(*store):
            yield Finding(where, "spec.secretStoreRef", f"there is no {'/'.join(store)}")
        table = (Must("spec.refreshInterval", _matches(r"[1-9]\d*[mh]"), "set, for example, 5m"),)
        yield from broken(where, secret, "", table)
        for entry in items(secret, "spec.data"):
            key = str(at(entry, "remoteRef.key"))
            if key != f"facestack/{at(secret, 'metadata.name')}":
                wanted = f"facestack/{at(secret, 'metadata.name')}"
                yield Finding(where, "spec.data.remoteRef.key", f"is {key}: set {wanted}")
            previous = str(entry.get("secretKey")).startswith("previous-")
            version = at(entry, "remoteRef.version")
            if version != ("AWSPREVIOUS" if previous else None):
                advice = "set AWSPREVIOUS for a previous password, and none for the current one"
                yield Finding(where, "spec.data.remoteRef.version", f"is {version}: {advice}")
    for store_document in manifests.kind("SecretStore", "ClusterSecretStore"):
        yield from _store(store_document, used)


def _store(store: Document, used: set[tuple[str, str]]) -> Iterator[Finding]:
    table = (
        Must("spec.provider.aws.service", exactly("SecretsManager"), "set SecretsManager"),
        Must("spec.provider.aws.region", _matches(r"[a-z]+-[a-z]+-\d"), "set the region"),
        Must("spec.provider.aws.auth", exactly(None), "take it away: the operator has an identity"),
    )
    yield from broken(title(store), store, "", table)
    if (str(store.get("kind")), str(at(store, "metadata.name"))) not in used:
        yield Finding(title(store), "metadata.name", "nobody uses it: take it away")


def storage(manifests: Manifests) -> Iterator[Finding]:
    """Check that volumes are encrypted gp3 volumes in their pod's zone, and can grow."""
    for document in manifests.kind("StorageClass"):
        yield from broken(title(document), document, "", _STORAGE)
