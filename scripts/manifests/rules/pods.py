"""What every pod has: limits, probes, volumes, and nothing that Pod Security refuses."""

import re
from collections.abc import Iterator
from typing import Any, Final

from scripts.manifests import pod_security as standard
from scripts.manifests import schemas
from scripts.manifests.design import (
    FOLDERS,
    FOLDERS_OF,
    PORTS,
    PRIORITIES,
    SMALLEST_ID,
)
from scripts.manifests.model import Container, Finding, Manifests, Workload, at, items, mapping
from scripts.manifests.rules.fields import Must, between, broken, exactly, said
from scripts.manifests.rules.images import is_own

_LARGEST_ID: Final = 2**31 - 1
_POD: Final = (
    Must("enableServiceLinks", exactly(False), "set false: addresses come as settings"),
    Must("securityContext.runAsUser", between(SMALLEST_ID, _LARGEST_ID), f"set {SMALLEST_ID}"),
    Must("securityContext.runAsGroup", between(SMALLEST_ID, _LARGEST_ID), f"set {SMALLEST_ID}"),
    Must("securityContext.fsGroup", between(SMALLEST_ID, _LARGEST_ID), f"set {SMALLEST_ID}"),
    Must(
        "securityContext.fsGroupChangePolicy",
        exactly("OnRootMismatch"),
        "set OnRootMismatch: a volume full of files takes minutes otherwise",
    ),
)
_CONTAINER: Final = (
    Must("securityContext.readOnlyRootFilesystem", exactly(True), "set true"),
    Must("imagePullPolicy", exactly("IfNotPresent"), "set IfNotPresent: a tag never moves"),
)


def pod_security(manifests: Manifests) -> Iterator[Finding]:
    """Check that no pod breaks Pod Security restricted."""
    for workload in manifests.workloads:
        metadata = at(workload.template, "metadata")
        pod = standard.Pod(metadata, workload.pod, schemas.MINOR)
        for control, field, advice in standard.violations(pod, standard.RESTRICTED):
            place = f"spec.template.spec.{field}"
            yield workload.finding(place, f"{advice} (Pod Security restricted, {control})")


def hardening(manifests: Manifests) -> Iterator[Finding]:
    """Check what goes beyond Pod Security: user ids, a root that is not written to, and more."""
    for workload in manifests.workloads:
        yield from broken(workload.title, workload.pod, "spec.template.spec.", _POD)
        priority = PRIORITIES[workload.kind]
        found = workload.pod.get("priorityClassName")
        if found != priority or not manifests.find("PriorityClass", priority):
            advice = f"{said(found)}: use the PriorityClass {priority}"
            yield workload.finding("spec.template.spec.priorityClassName", advice)
        for container in workload.containers:
            yield from broken(workload.title, container.spec, f"{container.field}.", _CONTAINER)
        names = [container.name for container in workload.containers if not container.starts_only]
        if names != [workload.name]:
            advice = f"are {', '.join(names)}: there is one, called {workload.name}"
            yield workload.finding("spec.template.spec.containers", advice)
        numbers = {name: number for name, (number, _) in workload.ports.items()}
        if numbers != (wanted := PORTS.get(workload.name, {})):
            yield workload.finding("spec.template.spec.containers.ports", f"set {wanted}")
    values = [
        at(manifests.find("PriorityClass", PRIORITIES[kind]), "value") or 0
        for kind in ("Deployment", "StatefulSet")
    ]
    if not 0 < values[0] < values[1]:
        advice = f"{values}: stores come before services, both before what has no priority"
        yield Finding("PriorityClass", "value", advice)


_UNITS: Final = {"m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(value: Any) -> float | None:
    """Return the number that a Kubernetes quantity stands for; None when it is none."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)(m|k|M|G|Ki|Mi|Gi)?", str(value)):
        return float(found[1]) * _UNITS.get(found[2], 1)
    return None


def resources(manifests: Manifests) -> Iterator[Finding]:
    """Check that every container requests and limits cpu, memory and ephemeral storage."""
    for workload in manifests.workloads:
        for container in workload.containers:
            for resource in ("cpu", "memory", "ephemeral-storage"):
                size = {}
                for what in ("requests", "limits"):
                    field = f"resources.{what}.{resource}"
                    value = at(container.spec, field)
                    size[what] = quantity(value)
                    if not size[what]:
                        problem = f"{said(value)}: set how much it needs, for example 100m or 64Mi"
                        yield workload.finding(f"{container.field}.{field}", problem)
                if (size["requests"] or 0) > (size["limits"] or 0) > 0:
                    field = f"{container.field}.resources.requests.{resource}"
                    yield workload.finding(field, "is more than the limit: lower it")


def probes(manifests: Manifests) -> Iterator[Finding]:
    """Check that a container that stays has three probes, which ask a port that it has."""
    for workload in manifests.serving:
        for container in workload.containers:
            if not container.starts_only:
                for name in _LONGEST:
                    yield from _probe(workload, container, name)
                    asked = mapping(container.spec, f"{name}.httpGet")
                    wanted = "HTTPS" if asked.get("port") == "https" else None
                    if (scheme := asked.get("scheme")) != wanted:
                        advice = f"{said(scheme)}: set {wanted or 'nothing, which is HTTP'}"
                        yield workload.finding(f"{container.field}.{name}.httpGet.scheme", advice)


# How long a probe may fail until it acts, at least and at most.
_LONGEST: Final = {
    # Starting includes a new database's first start, or loading the models on a busy machine.
    "startupProbe": (60, 420),
    # Readiness takes a pod out of its Service soon.
    "readinessProbe": (2, 15),
    # Liveness never restarts a pod that is only busy.
    "livenessProbe": (60, 600),
}
_SOON: Final = 5
_PATHS: Final = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
_GRPC_SERVICES: Final = {"startupProbe": "liveness", "livenessProbe": "liveness"}


def _probe(workload: Workload, container: Container, name: str) -> Iterator[Finding]:
    probe = mapping(container.spec, name)
    field = f"{container.field}.{name}"
    how = sorted(probe.keys() & {"exec", "grpc", "httpGet", "tcpSocket"})
    if len(how) != 1:
        yield workload.finding(field, "is missing: set httpGet, grpc, tcpSocket or exec")
        return
    own = is_own(container.spec)
    seconds = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    low, high = _LONGEST[name]
    if own and name == "readinessProbe":
        high = _SOON
    if not low <= seconds <= high:
        advice = f"periodSeconds x failureThreshold is {seconds} s: set {low} to {high} s"
        yield workload.finding(field, advice)
    least = 5 if name == "livenessProbe" else 2 if own or how == ["exec"] else 1
    if (timeout := probe.get("timeoutSeconds", 1)) < least:
        yield workload.finding(f"{field}.timeoutSeconds", f"is {timeout}: set {least} or more")
    if how == ["exec"]:
        if not at(probe, "exec.command"):
            yield workload.finding(f"{field}.exec.command", "is missing: set it")
        return
    port = at(probe, f"{how[0]}.port")
    known = {number for number, _ in workload.ports.values()}
    if port not in known and port not in workload.ports:
        problem = f"{said(port)}: the container has {', '.join(map(str, workload.ports))}"
        yield workload.finding(f"{field}.{how[0]}.port", problem)
    path = str(at(probe, "httpGet.path"))
    if how == ["httpGet"] and (path[0] != "/" or (own and path != _PATHS[name])):
        advice = f"is {path}: " + (f"{_PATHS[name]} answers this" if own else "set /something")
        yield workload.finding(f"{field}.httpGet.path", advice)
    service = at(probe, "grpc.service")
    if how == ["grpc"] and service != _GRPC_SERVICES.get(name):
        wanted = _GRPC_SERVICES.get(name, "nothing")
        yield workload.finding(f"{field}.grpc.service", f"{said(service)}: set {wanted}")


def volumes(manifests: Manifests) -> Iterator[Finding]:
    """Check that what is mounted exists, and the other way round, and that all has a size."""
    for workload in manifests.workloads:
        claims = {at(c, "metadata.name") for c in items(workload.document, _CLAIMS)}
        named = claims | {volume.get("name") for volume in items(workload.pod, "volumes")}
        mounted, filled = set(), set()
        for container in workload.containers:
            names = {mount.get("name") for mount in items(container.spec, "volumeMounts")}
            mounted |= names
            filled |= set() if container.starts_only else names
            for name in sorted(map(str, names - named)):
                field = f"{container.field}.volumeMounts[{name}].name"
                yield workload.finding(field, f"no volume is called {name}")
        for name in sorted(map(str, claims - filled)):
            yield workload.finding(f"{_CLAIMS}[{name}]", "no container mounts it")
        for volume in items(workload.pod, "volumes"):
            yield from _volume(workload, volume, mounted)


def folders(manifests: Manifests) -> Iterator[Finding]:
    """Check that volumes are mounted where the programs look for them."""
    for workload in manifests.workloads:
        for container in workload.containers:
            for mount in items(container.spec, "volumeMounts"):
                name, path = str(mount.get("name")), mount.get("mountPath")
                wanted = FOLDERS_OF.get((workload.name, name), FOLDERS.get(name))
                if wanted not in (None, path):
                    field = f"{container.field}.volumeMounts[{name}].mountPath"
                    yield workload.finding(field, f"{said(path)}: set {wanted}")


def claims(manifests: Manifests) -> Iterator[Finding]:
    """Check that stores say how large their volumes are, and of which class if there is one."""
    declared = manifests.kind("StorageClass")
    classes = [at(document, "metadata.name") for document in declared] or [None]
    for workload in manifests.workloads:
        for claim in items(workload.document, _CLAIMS):
            field = f"{_CLAIMS}[{at(claim, 'metadata.name')}].spec"
            found = at(claim, "spec.storageClassName")
            if found not in classes:
                advice = f"{said(found)}: there is {classes[0]}"
                yield workload.finding(f"{field}.storageClassName", advice)
            size = at(claim, "spec.resources.requests.storage")
            if not quantity(size) or at(claim, "spec.accessModes") != ["ReadWriteOnce"]:
                yield workload.finding(field, "set accessModes [ReadWriteOnce] and a size")


_CLAIMS: Final = "spec.volumeClaimTemplates"
_SECRET_MODE: Final = 0o440


def _volume(workload: Workload, volume: Any, mounted: set[Any]) -> Iterator[Finding]:
    name = volume.get("name")
    field = f"spec.template.spec.volumes[{name}]"
    if name not in mounted:
        yield workload.finding(field, "no container mounts it")
    if len(volume.keys() - {"name"}) != 1:
        yield workload.finding(field, "says not what kind it is: set emptyDir, secret or another")
    if "emptyDir" in volume and not quantity(at(volume, "emptyDir.sizeLimit")):
        yield workload.finding(f"{field}.emptyDir.sizeLimit", "is missing: set one")
    for kind in ("secret", "projected"):
        mode = at(volume, f"{kind}.defaultMode")
        if kind in volume and mode != _SECRET_MODE:
            found = said(mode if mode is None else f"0{mode:o}")
            yield workload.finding(f"{field}.{kind}.defaultMode", f"{found}: set 0440")
