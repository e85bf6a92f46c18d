"""Connections between our services and to their stores are encrypted, and names are checked."""

from collections.abc import Iterator
from typing import Final

from scripts.manifests.model import Container, Finding, Manifests, Workload, items, mapping
from scripts.manifests.rules.secrets import CERTIFICATE_FILES, files_of, sources
from scripts.manifests.rules.settings import environment, settings_of

_SERVERS: Final = {
    "mariadb": ("--ssl-cert=", "--ssl-key=", "--require-secure-transport=ON"),
    "object-store": ("--cert=", "--key="),
}
"""What makes servers that are not ours take nobody in plain text."""
_OWN: Final = frozenset({"tls.crt", "tls.key"})
"""What they read of their Secret; our own read all of it."""


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


def keys(manifests: Manifests) -> Iterator[Finding]:
    """Check that a key is mounted by whom it belongs to, and by nobody else."""
    for workload in manifests.workloads:
        for volume in items(workload.pod, "volumes"):
            for name, files, _ in sources(volume):
                owner = name.removeprefix("tls-")
                if owner == name:
                    continue
                wanted = _OWN if owner in _SERVERS else frozenset[str]()
                if owner != workload.name:
                    wanted = frozenset({"ca.crt"})
                if files != {key: key for key in wanted}:
                    advice = f"of Secret {name} mount {', '.join(sorted(wanted)) or 'all'}"
                    yield workload.finding(f"spec.template.spec.volumes[{volume['name']}]", advice)
