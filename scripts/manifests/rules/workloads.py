"""What belongs together: selectors, ports and probes, images and sources, a pod and its end.

Ours, because tools on the shelf ask whether a probe or a policy is there, not whether it fits.
"""

import re
from collections.abc import Iterator
from typing import Final

from scripts.manifests.model import NAMESPACE, Finding, Manifests, at, items, mapping, title
from scripts.manifests.rules.fields import said
from scripts.manifests.rules.settings import values_of

_OWN_TAG: Final = re.compile(r"\d+\.\d+\.\d+-[0-9a-f]{12}")


def mounts(manifests: Manifests) -> Iterator[Finding]:
    """Check that what a container mounts is a volume, and every volume is mounted."""
    for workload in manifests.workloads:
        claims = items(workload.document, "spec.volumeClaimTemplates")
        volumes = {str(volume.get("name")) for volume in items(workload.pod, "volumes")}
        volumes |= {str(at(claim, "metadata.name")) for claim in claims}
        every = (items(container.spec, "volumeMounts") for container in workload.containers)
        mounted = {str(mount.get("name")) for mounts in every for mount in mounts}
        for name in sorted(volumes ^ mounted):
            what = "no container mounts it" if name in volumes else "no volume is called so"
            yield workload.finding(f"{workload.field}.volumes[{name}]", what)


def selectors(manifests: Manifests) -> Iterator[Finding]:
    """Check that a workload selects its own pods, and a Service pods that have its ports.

    In the pipeline they are of one workload, and the ports have their names and numbers: load
    balancers that ask the pods themselves know no other. gRPC clients balance by themselves, and
    a StatefulSet's pods have names, so those Services give the pods' addresses.
    """
    for workload in manifests.workloads:
        selector = at(workload.document, "spec.selector")
        selected = manifests.selected(workload.document, selector)
        if workload.kind not in {"Job", "CronJob"} and selected != [workload]:
            names = ", ".join(sorted({other.name for other in selected})) or "nobody"
            yield workload.finding("spec.selector", f"selects the pods of {names}: select its own")
    for service in manifests.kind("Service"):
        selector = mapping(service, "spec.selector")
        mine = manifests.selected(service, {"matchLabels": selector}) if selector else []
        known = {name: number for workload in mine for name, number in workload.ports.items()}
        is_ours = at(service, "metadata.namespace") == NAMESPACE
        if (selector and not mine) or (is_ours and len({w.name for w in mine}) != 1):
            yield Finding(title(service), "spec.selector", "must select the pods of one workload")
            continue
        for port in items(service, "spec.ports") if mine else ():
            name, target = port.get("name"), port.get("targetPort")
            if target not in known and (is_ours or isinstance(target, str)):
                advice = f"{said(target)}: the pods have {', '.join(known)}"
                yield Finding(title(service), f"spec.ports[{name}].targetPort", advice)
            elif is_ours and (name, port.get("port")) != (target, known[target]):
                advice = f"call it {target} and give it the number {known[target]}"
                yield Finding(title(service), f"spec.ports[{name}]", advice)
        headless = "grpc" in known or "StatefulSet" in {workload.kind for workload in mine}
        address = at(service, "spec.clusterIP")
        if is_ours and address != ("None" if headless else None):
            advice = "set None" if headless else "take it away"
            yield Finding(title(service), "spec.clusterIP", f"{said(address)}: {advice}")


def probes(manifests: Manifests) -> Iterator[Finding]:
    """Check that probes ask a port that the pod has, at which our services answer them."""
    answering = values_of(manifests, "PROBE_PORT")
    for workload, container in manifests.containers:
        number = workload.ports.get("probes")
        if workload.name in answering and number != answering[workload.name]:
            advice = f"{said(number)}: set {answering[workload.name]}, which is PROBE_PORT"
            yield workload.finding(f"{container.field}.ports[probes]", advice)
        known = {*workload.ports, *workload.ports.values()}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for how, asked in mapping(container.spec, probe).items():
                if isinstance(asked, dict) and how != "exec" and asked.get("port") not in known:
                    problem = f"{said(asked.get('port'))}: the pod has {', '.join(workload.ports)}"
                    yield workload.finding(f"{container.field}.{probe}.{how}.port", problem)


def images(manifests: Manifests) -> Iterator[Finding]:
    """Check that the list of sources has every image, and that ours are of one build.

    Which one, a Job's name tells, as it cannot be changed.
    """
    listed = [
        source
        for policy in manifests.kind("ValidatingAdmissionPolicy")
        for variable in items(policy, "spec.variables")
        if variable.get("name") == "sources"
        for source in re.findall(r"'([^']+)'", str(variable.get("expression")))
    ]
    tags = set()
    for workload, container in manifests.containers:
        field, (image, tag) = f"{container.field}.image", container.image
        if not any(image.startswith(s) if s.endswith("/") else image == s for s in listed):
            advice = f"{image} is none of the sources {', '.join(listed)}"
            yield workload.finding(field, advice)
        if not container.service:
            continue
        tags.add(tag)
        if not _OWN_TAG.fullmatch(tag):
            yield workload.finding(field, f"has the tag {tag}: run 'make images'")
        name = at(workload.document, "metadata.name")
        wanted = f"{workload.name}-{tag.rpartition('-')[2]}"
        if workload.kind == "Job" and name != wanted:
            advice = f"is {name}: {wanted} is right, because a Job cannot be changed"
            yield workload.finding("metadata.name", advice)
    if len(tags) > 1:
        advice = f"are of several builds, {', '.join(sorted(tags))}: run 'make images'"
        yield Finding("facestack images", "tag", advice)


def together(manifests: Manifests) -> Iterator[Finding]:
    """Check that a CronJob does what its Job does."""
    jobs = {workload.name: workload for workload in manifests.workloads if workload.kind == "Job"}
    for workload in manifests.workloads:
        job = jobs.get(workload.name, workload)
        if workload.kind == "CronJob" and job.template != workload.template:
            advice = f"must be the template of the Job {workload.name}"
            yield workload.finding("spec.jobTemplate.spec.template", advice)
