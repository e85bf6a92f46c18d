"""Settings come from ConfigMaps that are there."""

import re
from collections.abc import Iterator
from typing import Any, Final

from scripts.manifests.model import Finding, Manifests, Workload, at, items, mapping, title

_GENERATED: Final = re.compile(r".+-[0-9a-z]{10}")
ROOT_CERTIFICATE: Final = "kube-root-ca.crt"
"""A ConfigMap that Kubernetes puts into every namespace."""


def _config_map_references(workload: Workload) -> Iterator[tuple[str, str, Any]]:
    """Yield field, name and key (None: all) of every ConfigMap that a workload uses."""
    for container in workload.containers:
        for source in items(container.spec, "envFrom"):
            if name := at(source, "configMapRef.name"):
                yield f"{container.field}.envFrom", name, None
        for variable in items(container.spec, "env"):
            if reference := at(variable, "valueFrom.configMapKeyRef"):
                field = f"{container.field}.env[{variable.get('name')}]"
                yield field, reference.get("name"), reference.get("key")
    for volume in items(workload.pod, "volumes"):
        sources = items(volume, "projected.sources")
        for source in [volume, *sources]:
            if found := at(source, "configMap"):
                field = f"spec.template.spec.volumes[{volume.get('name')}]"
                keys = [item.get("key") for item in items(found, "items")] or [None]
                for key in keys:
                    yield field, found.get("name"), key


def config_maps(manifests: Manifests) -> Iterator[Finding]:
    """Check that every ConfigMap that is used exists, has the key, carries a hash, and is used."""
    used = set()
    for workload in manifests.workloads:
        for field, name, key in _config_map_references(workload):
            if name == ROOT_CERTIFICATE:
                continue
            used.add(name)
            found = manifests.find("ConfigMap", name)
            if found is None:
                yield workload.finding(field, f"no ConfigMap is called {name}: generate it")
            elif key is not None and key not in mapping(found, "data"):
                yield workload.finding(field, f"the ConfigMap {name} has no {key}")
    for document in manifests.kind("ConfigMap"):
        name = at(document, "metadata.name")
        if name not in used:
            yield Finding(title(document), "metadata.name", "nobody uses it: take it away")
        if not _GENERATED.fullmatch(str(name)):
            advice = "generate it (configMapGenerator), so that a change makes new pods"
            yield Finding(title(document), "metadata.name", advice)
