"""What belongs together: selectors, ports and probes, images and sources, a pod and its end.

Ours, because tools on the shelf ask whether a probe or a policy is there, not whether it fits.
"""

import re
from collections.abc import Iterator

from scripts.manifests.model import NAMESPACE, Finding, Manifests, at, items, mapping, title
from scripts.manifests.rules.fields import said
from scripts.manifests.rules.settings import values_of


def mounts(manifests: Manifests) -> Iterator[Finding]:
    """Check that what a container mounts is a volume, and every volume is mounted."""
    for workload in manifests.workloads:
        claims = items(workload.document, "spec.volumeClaimTemplates")
        named = (*items(workload.pod, "volumes"), *(mapping(one, "metadata") for one in claims))
        volumes = {str(volume.get("name")) for volume in named}
        every = (items(container.spec, "volumeMounts") for container in workload.containers)
        mounted = {str(mount.get("name")) for mounts in every for mount in mounts}
        for name in sorted(volumes ^ mounted):
            what = "no container mounts it" if name in volumes else "no volume is called so"
            yield workload.finding(f"{workload.field}.volumes[{name}]", what)


def selectors(manifests: Manifests) -> Iterator[Finding]:
    """Check that a workload selects its own pods, and a Service pods that have its ports.

    In the pipeline they are of one workload, and the ports have their names and numbers: load
    balancers that ask the pods themselves know no other.
    """
    for workload in manifests.workloads:
        selected = manifests.selected(workload.document)
        if at(workload.document, "spec.selector.matchExpressions"):
            continue  # others' may be about more than labels
        if workload.kind not in {"Job", "CronJob"} and selected != [workload]:
            names = ", ".join(sorted({other.name for other in selected})) or "nobody"
            yield workload.finding("spec.selector", f"selects the pods of {names}: select its own")
    for service in manifests.kind("Service"):
        selected = manifests.selected(service)
        known = {name: number for workload in selected for name, number in workload.ports.items()}
        is_ours = at(service, "metadata.namespace") == NAMESPACE
        none = not selected and at(service, "spec.selector")
        if none or (is_ours and len({workload.name for workload in selected}) != 1):
            yield Finding(title(service), "spec.selector", "must select the pods of one workload")
            continue
        for port in items(service, "spec.ports") if selected else ():
            name, target = port.get("name"), port.get("targetPort")
            if target not in known and (is_ours or isinstance(target, str)):
                advice = f"{said(target)}: the pods have {', '.join(known)}"
                yield Finding(title(service), f"spec.ports[{name}].targetPort", advice)
            elif is_ours and (name, port.get("port")) != (target, known[target]):
                advice = f"call it {target} and give it the number {known[target]}"
                yield Finding(title(service), f"spec.ports[{name}]", advice)


def probes(manifests: Manifests) -> Iterator[Finding]:
    """Check that probes ask a port that the pod has, at which our services answer them."""
    answering = values_of(manifests, "PROBE_PORT")
    for container in manifests.containers:
        ports, name = container.workload.ports, container.workload.name
        number = ports.get("probes")
        if number != answering.get(name, number):
            advice = f"{said(number)}: set {answering[name]}, which is PROBE_PORT"
            yield container.finding("ports[probes]", advice)
        known = {*ports, *ports.values()}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for how, asked in mapping(container.spec, probe).items():
                port = at(asked, "port")
                if isinstance(asked, dict) and how != "exec" and port not in known:
                    advice = f"{said(port)}: the pod has {', '.join(ports)}"
                    yield container.finding(f"{probe}.{how}.port", advice)


def images(manifests: Manifests) -> Iterator[Finding]:
    """Check that the list of sources has every image, and that ours are of one build.

    Which one, a Job's name tells, as it cannot be changed.
    """
    policies = manifests.kind("ValidatingAdmissionPolicy")
    variables = [one for policy in policies for one in items(policy, "spec.variables")]
    sources = [one.get("expression") for one in variables if one.get("name") == "sources"]
    listed = re.findall(r"'([^']+)'", " ".join(map(str, sources)))
    tags = set()
    for container in manifests.containers:
        workload, (image, tag) = container.workload, container.image
        if not any(image.startswith(s) if s.endswith("/") else image == s for s in listed):
            advice = f"{image} is none of the sources {', '.join(listed)}"
            yield container.finding("image", advice)
        if not container.service:
            continue
        tags.add(tag)
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
    jobs = {job.name: job.template for job in manifests.workloads if job.kind == "Job"}
    for workload in manifests.workloads:
        if workload.kind == "CronJob" and jobs.get(workload.name) not in (None, workload.template):
            advice = f"must be the template of the Job {workload.name}"
            yield workload.finding("spec.jobTemplate.spec.template", advice)
