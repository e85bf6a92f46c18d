"""What belongs together in the pipeline: probes and ports, images and sources, a pod and its end.

Ours, because tools on the shelf ask whether a probe or a policy is there, not whether it fits.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from scripts.manifests.model import Finding, Manifests, at, items, mapping, title
from scripts.manifests.rules.fields import said
from scripts.manifests.rules.network import backend, ways_in
from scripts.manifests.rules.settings import longest, values_of

_OWN_TAG: Final = re.compile(r"\d+\.\d+\.\d+-[0-9a-f]{12}")
_JOB_SECONDS: Final = 30
"""What is in flight when a pod's drain is over takes at most this long."""


def images(manifests: Manifests) -> Iterator[Finding]:
    """Check that ours are of one build, which a Job's name tells, as it cannot be changed."""
    own = [(w, c, c.image.tag) for w, c in manifests.containers if c.image.service]
    for workload, container, tag in own:
        if not _OWN_TAG.fullmatch(tag):
            advice = f"has the tag {tag}: run 'make images'"
            yield workload.finding(f"{container.field}.image", advice)
        name = at(workload.document, "metadata.name")
        wanted = f"{workload.name}-{tag.rpartition('-')[2]}"
        if workload.kind == "Job" and name != wanted:
            advice = f"is {name}: {wanted} is right, because a Job cannot be changed"
            yield workload.finding("metadata.name", advice)
    if len(tags := sorted({tag for *_, tag in own})) > 1:
        advice = f"are of several builds, {', '.join(tags)}: run 'make images'"
        yield Finding("facestack images", "tag", advice)


def sources(manifests: Manifests) -> Iterator[Finding]:
    """Check that the admission policy, which has the list of sources, lets every image in."""
    listed = [
        source
        for binding in manifests.kind("ValidatingAdmissionPolicyBinding")
        for policy in manifests.kind("ValidatingAdmissionPolicy")
        if at(policy, "metadata.name") == at(binding, "spec.policyName")
        for variable in items(policy, "spec.variables")
        if variable.get("name") == "sources"
        for source in re.findall(r"'([^']+)'", str(variable.get("expression")))
    ]
    for workload, container in manifests.containers:
        name = container.image.name
        if not any(name.startswith(s) if s.endswith("/") else name == s for s in listed):
            advice = f"{name} is none of the sources {', '.join(listed)}"
            yield workload.finding(f"{container.field}.image", advice)


def probes(manifests: Manifests) -> Iterator[Finding]:
    """Check that probes ask a port that the pod has."""
    for workload, container in manifests.containers:
        known = {*workload.ports, *(number for number, _ in workload.ports.values())}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for how, asked in mapping(container.spec, probe).items():
                if isinstance(asked, dict) and how != "exec" and asked.get("port") not in known:
                    problem = f"{said(asked.get('port'))}: the pod has {', '.join(workload.ports)}"
                    yield workload.finding(f"{container.field}.{probe}.{how}.port", problem)


def services(manifests: Manifests) -> Iterator[Finding]:
    """Check that a Service leads to ports that its pods have, under their names and numbers.

    Load balancers that ask the pods themselves know no other number; gRPC clients balance by
    themselves, and a StatefulSet's pods have names, so those Services give the pods' addresses.
    """
    for service in manifests.kind("Service"):
        workload = backend(manifests, service)
        if workload is None:
            yield Finding(title(service), "spec.selector", "must select the pods of one workload")
            continue
        for port in items(service, "spec.ports"):
            target = str(port.get("targetPort"))
            field = f"spec.ports[{port.get('name')}]"
            number, _ = workload.ports.get(target, (port.get("port"), ""))
            if (port.get("name"), port.get("port")) != (target, number):
                advice = f"call it {target} and give it the number {number}"
                yield Finding(title(service), field, advice)
        headless = workload.kind == "StatefulSet" or "grpc" in workload.ports
        address = at(service, "spec.clusterIP")
        if address != ("None" if headless else None):
            advice = "set None" if headless else "take it away"
            yield Finding(title(service), "spec.clusterIP", f"{said(address)}: {advice}")


def together(manifests: Manifests) -> Iterator[Finding]:
    """Check that a CronJob does what its Job does, and that what is issued is renewed by one."""
    daily = {w.name: w for w in manifests.workloads if w.kind == "CronJob"}
    for workload in manifests.workloads:
        again = daily.get(workload.name)
        if workload.kind == "Job" and again and again.template != workload.template:
            advice = f"must be the template of the Job {workload.name}"
            yield again.finding("spec.jobTemplate.spec.template", advice)
        words = [word for container in workload.containers for word in container.words]
        if not again and "services.credentials.issuing" in words:
            yield workload.finding("kind", "add a CronJob: nobody renews what this issues")


def grace(manifests: Manifests) -> Iterator[Finding]:
    """Check that a pod is killed only after the pre-stop sleep, the drain and the longest job.

    A load balancer lets go of a pod only after a while, in which the pod serves as ever.
    """
    until = 0
    for ingress in manifests.kind("Ingress"):
        idle = _attribute(ingress, "idle_timeout.timeout_seconds")
        delay = _attribute(ingress, "deregistration_delay.timeout_seconds")
        until = max(until, delay)
        if not _JOB_SECONDS <= idle < longest(manifests) or delay < _JOB_SECONDS:
            advice = f"idle_timeout {idle}, deregistration_delay {delay}: both {_JOB_SECONDS} or"
            advice += f" more, and the first below KEEP_ALIVE_SECONDS {longest(manifests):g}"
            yield Finding(title(ingress), "metadata.annotations", advice)
    drains = values_of(manifests, "DRAIN_SECONDS")
    open_ = {name for name, *_ in ways_in(manifests)}
    for workload, container in manifests.containers:
        sleep = at(container.spec, "lifecycle.preStop.sleep.seconds")
        if workload.kind != "Deployment" or type(sleep) is not int:
            continue
        if workload.name in open_ and sleep < until:
            advice = f"is {sleep}: set {until} or more, until the load balancer lets go of it"
            yield workload.finding(f"{container.field}.lifecycle.preStop.sleep.seconds", advice)
        least = sleep + int(drains.get(workload.name, 0)) + _JOB_SECONDS + 1
        seconds = workload.pod.get("terminationGracePeriodSeconds", 30)
        if type(seconds) is not int or not least <= seconds <= 300:  # noqa: PLR2004
            advice = f"is {seconds}: set {least} to 300, above pre-stop, drain and longest job"
            yield workload.finding(f"{workload.field}.terminationGracePeriodSeconds", advice)


def _attribute(ingress: Any, name: str) -> int:
    """Return a number in the attributes of the load balancer or of its target groups; 0 without."""
    text = "\n".join(map(str, mapping(ingress, "metadata.annotations").values()))
    found = re.search(rf"(?:^|,){re.escape(name)}=(\d+)(?:,|$)", text, re.MULTILINE)
    return int(found[1]) if found else 0
