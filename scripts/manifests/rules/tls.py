"""Connections between our services and to their stores are encrypted, and names are checked."""

from collections.abc import Iterator
from typing import Final

from scripts.manifests.design import CERTIFIED
from scripts.manifests.model import Container, Finding, Manifests, Workload, mapping
from scripts.manifests.rules.secrets import CERTIFICATE_FILES, files_of, services_with_certificates
from scripts.manifests.rules.settings import environment, settings_of

_SERVERS: Final = {
    "mariadb": ("--ssl-cert=", "--ssl-key=", "--require-secure-transport=ON"),
    "object-store": ("--cert=", "--key="),
}
"""What makes servers that are not ours take nobody in plain text."""


def encrypted(manifests: Manifests) -> Iterator[Finding]:
    """Check that every client has the authority, and every server a certificate of its own."""
    for workload in manifests.workloads:
        for container in workload.containers:
            if not container.starts_only:
                yield from _client(manifests, workload, container)
                yield from _server(manifests, workload, container)


def _client(manifests: Manifests, workload: Workload, container: Container) -> Iterator[Finding]:
    given = environment(manifests, container.spec)
    is_mariadb = given.get("DATABASE_URL", "").startswith("mysql")
    endpoint = given.get("S3_ENDPOINT")
    for name, needed in (("DATABASE_CA_FILE", is_mariadb), ("S3_CA_FILE", endpoint)):
        if needed and name not in given:
            advice = "is missing: set it, or all is in plain text or of somebody who is not asked"
            yield workload.finding(f"{container.field}.env[{name}]", advice)
    if endpoint and not endpoint.startswith("https://"):
        advice = f"is {endpoint}: set an address that starts with https://"
        yield workload.finding(f"{container.field}.env[S3_ENDPOINT]", advice)


def _server(manifests: Manifests, workload: Workload, container: Container) -> Iterator[Finding]:
    args = [str(word) for word in container.spec.get("args") or []]
    for needed in _SERVERS.get(workload.name, ()):
        if not any(word.startswith(needed) for word in args):
            yield workload.finding(f"{container.field}.args", f"lacks {needed}: add it")
    whole = settings_of(workload.name)
    if whole is None or "tls_folder" not in whole.model_fields:
        return
    folder = environment(manifests, container.spec).get("TLS_FOLDER")
    there = files_of(manifests, workload, container)
    own = {(f"tls-{workload.name}", name) for name in CERTIFICATE_FILES}
    if not own <= {there.get(f"{folder}/{name}") for name in CERTIFICATE_FILES}:
        advice = f"must be the folder of the Secret tls-{workload.name}"
        yield workload.finding(f"{container.field}.env[TLS_FOLDER]", advice)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if "grpc" in mapping(container.spec, probe):
            advice = "the kubelet has no certificate: use httpGet"
            yield workload.finding(f"{container.field}.{probe}.grpc", advice)


def issued(manifests: Manifests) -> Iterator[Finding]:
    """Check that both Jobs issue the same certificates: what one makes, the other has to renew."""
    issuing = {
        workload.title: services_with_certificates(workload, container)
        for workload in manifests.workloads
        for container in workload.containers
        if workload.name == "certificates"
    }
    for title, services in issuing.items():
        if unknown := sorted(set(services) - set(CERTIFIED)):
            yield Finding(title, "args", f"may not issue certificates for {', '.join(unknown)}")
        for other, its in issuing.items():
            for service in sorted(set(its) - set(services)):
                yield Finding(title, "args", f"lacks {service}, which {other} has: add it")
