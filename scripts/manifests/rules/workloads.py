"""What belongs together in the pipeline: probes and ports, images and sources, a pod and its end.

Ours, because tools on the shelf ask whether a probe or a policy is there, not whether it fits.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from scripts.manifests.model import (
    PART_LABEL,
    PART_OF,
    Container,
    Finding,
    Manifests,
    Workload,
    at,
    items,
    mapping,
    selects,
    title,
)
from scripts.manifests.rules.fields import said
from scripts.manifests.rules.network import backend, ways_in
from scripts.manifests.rules.settings import longest

PRIVATE_PORT: Final = "probes"
"""Where /metrics is, and of the receiver /docs; kubelets ask there what serves no HTTP itself."""

_DRAIN_SECONDS: Final = 5
_JOB_SECONDS: Final = 30
"""What is in flight when a pod's drain is over takes at most this long."""

_OWN_TAG: Final = re.compile(r"\d+\.\d+\.\d+-[0-9a-f]{12}")


def labels(manifests: Manifests) -> Iterator[Finding]:
    """Check that all bears the pipeline's name; a workload, its container and account its own."""
    for document in manifests.documents:
        if mapping(document, "metadata.labels").get(PART_LABEL) != PART_OF:
            yield Finding(title(document), f"metadata.labels[{PART_LABEL}]", f"set {PART_OF}")
    for workload in manifests.workloads:
        if workload.labels.get(PART_LABEL) != PART_OF:
            yield workload.finding("template.metadata.labels", f"set part-of: {PART_OF}")
        names = [container.name for container in workload.containers if not container.starts_only]
        if names != [workload.name]:
            advice = f"are {', '.join(names)}: there is one, called {workload.name}"
            yield workload.finding(f"{workload.field}.containers", advice)
        if (account := workload.pod.get("serviceAccountName")) != workload.name:
            advice = f"{said(account)}: set {workload.name}, an account of its own"
            yield workload.finding(f"{workload.field}.serviceAccountName", advice)


def images(manifests: Manifests) -> Iterator[Finding]:
    """Check that ours are of one build, which a Job's name tells, as it cannot be changed."""
    own = [(w, c) for w, c in manifests.containers if c.image.service]
    for workload, container in own:
        if not _OWN_TAG.fullmatch(container.image.tag):
            advice = f"has the tag {container.image.tag}: run 'make images'"
            yield workload.finding(f"{container.field}.image", advice)
        name = str(at(workload.document, "metadata.name"))
        wanted = f"{workload.name}-{container.image.tag.rpartition('-')[2]}"
        if workload.kind == "Job" and name != wanted:
            advice = f"is {name}: {wanted} is right, because a Job cannot be changed"
            yield workload.finding("metadata.name", advice)
    if len(tags := {container.image.tag for _, container in own}) > 1:
        advice = f"are of several builds, {', '.join(sorted(tags))}: run 'make images'"
        yield Finding("facestack images", "tag", advice)


def sources(manifests: Manifests) -> Iterator[Finding]:
    """Check that the admission policy, which has the list of sources, lets every image in."""
    bound = {at(b, "spec.policyName") for b in manifests.kind("ValidatingAdmissionPolicyBinding")}
    listed = [
        source
        for policy in manifests.kind("ValidatingAdmissionPolicy")
        if at(policy, "metadata.name") in bound
        for variable in items(policy, "spec.variables")
        if variable.get("name") == "sources"
        for source in re.findall(r"'([^']+)'", str(variable.get("expression")))
    ]
    for workload, container in manifests.containers:
        name = container.image.name
        if not any(name.startswith(s) if s.endswith("/") else name == s for s in listed):
            advice = f"{name} is none of the sources {', '.join(listed)}"
            yield workload.finding(f"{container.field}.image", advice)


# How long a probe may fail until it acts, at least and at most.
_SECONDS: Final = {
    # Starting includes a new database's first start, or loading the models on a busy machine.
    "startupProbe": (60, 420),
    # Readiness takes a pod out of its Service soon.
    "readinessProbe": (2, 15),
    # Liveness never restarts a pod that is only busy.
    "livenessProbe": (60, 600),
}
_PATHS: Final = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}


def probes(manifests: Manifests) -> Iterator[Finding]:
    """Check that a container that stays has three probes, which ask a port that it has."""
    for workload in manifests.serving:
        for container in workload.containers:
            for name in () if container.starts_only else _SECONDS:
                yield from _probe(workload, container, name)


def _probe(workload: Workload, container: Container, name: str) -> Iterator[Finding]:
    probe = mapping(container.spec, name)
    field = f"{container.field}.{name}"
    how = next(iter(probe.keys() & {"exec", "grpc", "httpGet", "tcpSocket"}), None)
    if how is None:
        yield workload.finding(field, "is missing: set httpGet, tcpSocket or exec")
        return
    low, high = _SECONDS[name]
    seconds = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    if not low <= seconds <= high:
        advice = f"periodSeconds x failureThreshold is {seconds} s: set {low} to {high} s"
        yield workload.finding(field, advice)
    own = container.image.service is not None
    least = 5 if name == "livenessProbe" else 2 if own or how == "exec" else 1
    if (timeout := probe.get("timeoutSeconds", 1)) < least:
        yield workload.finding(f"{field}.timeoutSeconds", f"is {timeout}: set {least} or more")
    port, path = at(probe, f"{how}.port"), at(probe, f"{how}.path")
    if how != "exec" and port not in {*workload.ports, *(n for n, _ in workload.ports.values())}:
        problem = f"{said(port)}: the container has {', '.join(workload.ports)}"
        yield workload.finding(f"{field}.{how}.port", problem)
    if own and (how, path) != ("httpGet", _PATHS[name]):
        advice = f"{how} {said(path)}: set httpGet {_PATHS[name]}, without a certificate"
        yield workload.finding(f"{field}.{how}.path", advice)


def services(manifests: Manifests) -> Iterator[Finding]:
    """Check that a Service leads to ports that its pods have, under their names and numbers.

    Load balancers that ask the pods themselves know no other number; gRPC clients balance by
    themselves, and a StatefulSet's pods have names, so those Services give the pods' addresses.
    """
    for service in manifests.kind("Service"):
        workload = backend(manifests, service)
        if workload is None:
            advice = "must select the pods of one workload"
            yield Finding(title(service), "spec.selector", advice)
            continue
        for port in items(service, "spec.ports"):
            target = str(port.get("targetPort"))
            field = f"spec.ports[{port.get('name')}]"
            if target == PRIVATE_PORT:
                problem = "leads clients to metrics and descriptions: take it away"
                yield Finding(title(service), field, problem)
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
    """Check that a CronJob does what its Job does, and that stores share a node if any do."""
    first = {workload.name: workload for workload in manifests.workloads if workload.kind == "Job"}
    daily = {
        workload.name: workload for workload in manifests.workloads if workload.kind == "CronJob"
    }
    for name in sorted(first.keys() & daily.keys()):
        if first[name].template != daily[name].template:
            advice = f"must be the template of the Job {name}"
            yield daily[name].finding("spec.jobTemplate.spec.template", advice)
    for name, workload in first.items():
        args = [w for container in workload.containers for w in container.words]
        if "services.credentials.issuing" in args and name not in daily:
            yield workload.finding("kind", "add a CronJob: nobody renews what this issues")
    path = "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution"
    stores = [workload for workload in manifests.workloads if workload.kind == "StatefulSet"]
    for store in stores if any("affinity" in store.pod for store in stores) else []:
        matched = [
            [w.name for w in manifests.workloads if selects(term.get("labelSelector"), w.labels)]
            for term in items(store.pod, path)
            if term.get("topologyKey") == "kubernetes.io/hostname"
        ]
        if matched != [[w.name for w in stores]]:
            advice = "set one term, for kubernetes.io/hostname, that matches all StatefulSets"
            yield store.finding(f"{store.field}.{path}", advice)


def spread(manifests: Manifests) -> Iterator[Finding]:
    """Check that replicas are on different nodes, behind a load balancer in different zones too."""
    wanted = {"kubernetes.io/hostname"}
    wanted |= {"topology.kubernetes.io/zone"} if any(manifests.kind("Ingress")) else set()
    for workload in manifests.workloads:
        places = items(workload.pod, "topologySpreadConstraints")
        fitting = {
            place.get("topologyKey")
            for place in places
            if selects(place.get("labelSelector"), workload.labels)
        }
        alone = workload.kind != "Deployment" or at(workload.document, "spec.replicas") == 1
        if not alone and not len(places) == len(fitting) == len(wanted | fitting):
            advice = (
                f"set one, for its own pods, for each topologyKey of {', '.join(sorted(wanted))}"
            )
            yield workload.finding(f"{workload.field}.topologySpreadConstraints", advice)


def grace(manifests: Manifests) -> Iterator[Finding]:
    """Check that a pod is killed only after the pre-stop sleep, the drain and the longest job."""
    delays = [
        _attribute(i, "deregistration_delay.timeout_seconds") for i in manifests.kind("Ingress")
    ]
    open_ = {name for name, *_ in ways_in(manifests)}
    for workload in manifests.serving:
        if workload.kind != "Deployment":
            continue
        for container in workload.containers:
            sleep = at(container.spec, "lifecycle.preStop.sleep.seconds")
            # A load balancer lets go of a pod only after a while, in which the pod serves as ever.
            needed = max([_DRAIN_SECONDS, *(delays if workload.name in open_ else [])])
            if type(sleep) is not int or sleep < needed:
                advice = f"{said(sleep)}: set {needed} or more, to be out of the Services first"
                yield workload.finding(f"{container.field}.lifecycle.preStop.sleep.seconds", advice)
                continue
            drain = container.environment.get("DRAIN_SECONDS", "0")
            if container.image.service and not _number(drain) >= _DRAIN_SECONDS:
                advice = f"is {drain}: set DRAIN_SECONDS to {_DRAIN_SECONDS} or more"
                yield workload.finding(f"{container.field}.env", advice)
            seconds = workload.pod.get("terminationGracePeriodSeconds", 30)
            least = sleep + int(_number(drain)) + _JOB_SECONDS + 1
            if type(seconds) is not int or not least <= seconds <= 300:  # noqa: PLR2004
                advice = f"is {seconds}: set {least} to 300, above pre-stop, drain and longest job"
                yield workload.finding(f"{workload.field}.terminationGracePeriodSeconds", advice)
    for ingress in manifests.kind("Ingress"):
        idle = _attribute(ingress, "idle_timeout.timeout_seconds")
        delay = _attribute(ingress, "deregistration_delay.timeout_seconds")
        if not _JOB_SECONDS <= idle < longest(manifests) or delay < _JOB_SECONDS:
            advice = (
                f"idle_timeout {idle}, deregistration_delay {delay}: both {_JOB_SECONDS} or more,"
            )
            advice += f" and the first below KEEP_ALIVE_SECONDS {longest(manifests):g}"
            yield Finding(title(ingress), "metadata.annotations", advice)


def _number(written: str) -> float:
    return float(written) if written.replace(".", "", 1).isdecimal() else 0


def _attribute(ingress: Any, name: str) -> int:
    """Return a number in the attributes of the load balancer or of its target groups; 0 without."""
    text = "\n".join(map(str, mapping(ingress, "metadata.annotations").values()))
    found = re.search(rf"(?:^|,){re.escape(name)}=(\d+)(?:,|$)", text, re.MULTILINE)
    return int(found[1]) if found else 0
