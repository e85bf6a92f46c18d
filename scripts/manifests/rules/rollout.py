"""How pods are replaced, spread, evicted and stopped without a lost request."""

import re
from collections.abc import Iterator
from typing import Final

from scripts.manifests.design import (
    DRAIN_SECONDS,
    GRACE_SECONDS,
    LONGEST_JOB_SECONDS,
    PRE_STOP_SECONDS,
    SINGLE,
    WAIT_SECONDS,
)
from scripts.manifests.model import (
    NAME_LABEL,
    Finding,
    Manifests,
    Workload,
    at,
    items,
    selects,
    title,
)
from scripts.manifests.rules.fields import Must, between, broken, exactly, said
from scripts.manifests.rules.images import is_own, split
from scripts.manifests.rules.settings import environment

_HISTORY: Final = Must(
    "spec.revisionHistoryLimit", between(2, 10), "set 2 to 10, to be able to undo"
)
_STEADY: Final = Must(
    "spec.minReadySeconds", between(5, 60), "set 5 to 60: a pod that dies at once is not ready"
)
_DEPLOYMENT: Final = (
    Must("spec.strategy.type", exactly("RollingUpdate"), "set RollingUpdate"),
    Must("spec.strategy.rollingUpdate.maxUnavailable", exactly(0), "set 0: never less than all"),
    Must("spec.strategy.rollingUpdate.maxSurge", exactly(1), "set 1: one new pod at a time"),
    Must(
        "spec.progressDeadlineSeconds",
        between(180, 599),
        "set 180 to 599, so that a bad rollout is told soon",
    ),
    _STEADY,
    _HISTORY,
)
_STATEFUL_SET: Final = (
    Must("spec.updateStrategy.type", exactly("RollingUpdate"), "set RollingUpdate"),
    _STEADY,
    _HISTORY,
)
_JOB: Final = (
    Must("spec.backoffLimit", between(3, 20), "set 3 to 20: what it needs may start later"),
    Must("spec.ttlSecondsAfterFinished", between(600, 7 * 86400), "set 600 s to a week"),
    Must("spec.template.spec.restartPolicy", exactly("Never"), "set Never: the logs stay"),
)


def _is_daily(schedule: object) -> bool:
    return re.fullmatch(r"\d+ \d+ \* \* \*", str(schedule)) is not None


def deployments(manifests: Manifests) -> Iterator[Finding]:
    """Check that a rollout never has less than all replicas, and a bad one stops by itself."""
    for document in manifests.kind("Deployment"):
        yield from broken(title(document), document, "", _DEPLOYMENT)


def stateful_sets(manifests: Manifests) -> Iterator[Finding]:
    """Check that stores are replaced in order, and each pod has a name in DNS."""
    for document in manifests.kind("StatefulSet"):
        yield from broken(title(document), document, "", _STATEFUL_SET)
        name = at(document, "spec.serviceName")
        service = manifests.find("Service", name)
        if service is None or at(service, "spec.clusterIP") != "None":
            advice = f"{said(name)}: name a headless Service (clusterIP: None)"
            yield Finding(title(document), "spec.serviceName", advice)


def jobs(manifests: Manifests) -> Iterator[Finding]:
    """Check that a Job is tried again, goes away, and is called after its image's tag."""
    for document in manifests.kind("Job"):
        yield from broken(title(document), document, "", _JOB)
    for workload in manifests.workloads:
        if workload.kind == "Job":
            *_, tag = split(next((c.spec.get("image") for c in workload.containers), ""))
            wanted = f"{workload.name}-{tag.rpartition('-')[2]}"
            if (found := at(workload.document, "metadata.name")) != wanted:
                advice = f"is {found}: {wanted} is right, because a Job cannot be changed"
                yield workload.finding("metadata.name", advice)
            for container in workload.containers:
                seconds = environment(manifests, container.spec).get("WAIT_SECONDS", "0")
                low, high = WAIT_SECONDS
                if not seconds.isdecimal() or not low <= int(seconds) <= high:
                    advice = f"is {seconds}: set {low} to {high}, to wait for what starts later"
                    yield workload.finding(f"{container.field}.env[WAIT_SECONDS]", advice)


_CRON_JOB: Final = (
    Must("spec.schedule", _is_daily, "set a minute and an hour: what is due is done within a day"),
    Must("spec.concurrencyPolicy", exactly("Forbid"), "set Forbid: one at a time"),
    Must("spec.startingDeadlineSeconds", between(3600, 86400), "set 3600 to 86400, to make up"),
    Must("spec.successfulJobsHistoryLimit", between(1, 3), "set 1 to 3: the last one's logs"),
    Must("spec.failedJobsHistoryLimit", between(1, 5), "set 1 to 5: the logs stay"),
    Must("spec.jobTemplate.spec.backoffLimit", between(3, 20), "set 3 to 20, as of a Job"),
)


def cron_jobs(manifests: Manifests) -> Iterator[Finding]:
    """Check that what is done daily is what a Job has done at first."""
    first = {workload.name: workload for workload in manifests.workloads if workload.kind == "Job"}
    issuing = first.get("certificates")
    if issuing and not manifests.find("CronJob", issuing.name):
        yield issuing.finding("kind", "add a CronJob: nobody renews what this issues")
    for workload in manifests.workloads:
        if workload.kind == "CronJob":
            yield from broken(workload.title, workload.document, "", _CRON_JOB)
            if at(workload.document, "spec.jobTemplate.metadata.labels") != workload.labels:
                advice = "set the labels of its pods, so that its Jobs are found, too"
                yield workload.finding("spec.jobTemplate.metadata.labels", advice)
            job = first.get(workload.name)
            if job is None or job.template != workload.template:
                advice = f"must be the template of the Job {workload.name}"
                yield workload.finding("spec.jobTemplate.spec.template", advice)


def replicas(manifests: Manifests) -> Iterator[Finding]:
    """Check that what serves has replicas, stores are single, or an autoscaler decides."""
    scaled = {}
    for scaler in manifests.kind("HorizontalPodAutoscaler", "ScaledObject"):
        target = at(scaler, "spec.scaleTargetRef.name")
        scaled[target] = scaler
        kind = at(scaler, "spec.scaleTargetRef.kind") or "Deployment"
        if not manifests.find(kind, target):
            yield Finding(title(scaler), "spec.scaleTargetRef", f"no {kind} is called {target}")
    for workload in manifests.serving:
        count = at(workload.document, "spec.replicas")
        if workload.name in scaled:
            if count is not None:
                who = title(scaled[workload.name])
                yield workload.finding("spec.replicas", f"take it away: {who} sets it")
        elif workload.name in SINGLE:
            if count != 1:
                yield workload.finding("spec.replicas", f"{said(count)}: set 1, it is no cluster")
        elif type(count) is not int or count < 2:  # noqa: PLR2004 - one may go, one serves
            yield workload.finding("spec.replicas", f"{said(count)}: set 2 or more")


_SPREAD: Final = (
    Must("maxSkew", exactly(1), "set 1"),
    Must(
        "whenUnsatisfiable",
        exactly("ScheduleAnyway"),
        "set ScheduleAnyway: a small cluster must be able to run it",
    ),
    Must("labelSelector.matchLabels", bool, "set the labels of its own pods"),
    Must(
        "matchLabelKeys",
        lambda keys: keys is not None and {NAME_LABEL, "pod-template-hash"} <= set(keys),
        f"set {NAME_LABEL} and pod-template-hash: else it counts others' pods, or old ones",
    ),
)


def spread(manifests: Manifests) -> Iterator[Finding]:
    """Check that replicas stand on different nodes, in a cloud in different zones too."""
    wanted = {"kubernetes.io/hostname"}
    if any(manifests.kind("Ingress")):
        wanted.add("topology.kubernetes.io/zone")
    for workload in manifests.workloads:
        if workload.kind != "Deployment":
            continue
        field = "spec.template.spec.topologySpreadConstraints"
        places = items(workload.pod, "topologySpreadConstraints")
        if {place.get("topologyKey") for place in places} != wanted:
            advice = f"set one for each topologyKey of {', '.join(sorted(wanted))}"
            yield workload.finding(field, advice)
        for place in places:
            one = f"{field}[{place.get('topologyKey')}]."
            yield from broken(workload.title, place, one, _SPREAD)
            if not selects(place.get("labelSelector"), workload.labels):
                yield workload.finding(f"{one}labelSelector", "does not match its own pods")


def lost_nodes(manifests: Manifests) -> Iterator[Finding]:
    """Check that pods that keep no data leave a lost node soon, and not after 5 minutes."""
    for workload in manifests.workloads:
        for taint in ("not-ready", "unreachable"):
            wanted = {
                "key": f"node.kubernetes.io/{taint}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 30,
            }
            missing = wanted not in items(workload.pod, "tolerations")
            if workload.kind == "Deployment" and missing:
                yield workload.finding("spec.template.spec.tolerations", f"add {wanted}")


def stores_together(manifests: Manifests) -> Iterator[Finding]:
    """Check that stores share a node, if any must: a volume there is a folder of its node."""
    stores = [workload for workload in manifests.workloads if workload.kind == "StatefulSet"]
    path = "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution"
    if not any("affinity" in store.pod for store in stores):
        return
    for store in stores:
        terms = items(store.pod, path)
        key = terms[0].get("topologyKey") if len(terms) == 1 else None
        selector = terms[0].get("labelSelector") if terms else None
        matched = {w.name for w in manifests.workloads if selects(selector, w.labels)}
        if key != "kubernetes.io/hostname" or matched != {store.name for store in stores}:
            advice = "set one term, for kubernetes.io/hostname, that matches all StatefulSets"
            yield store.finding(f"spec.template.spec.{path}", advice)


def grace(manifests: Manifests) -> Iterator[Finding]:
    """Check that a pod is killed only after the pre-stop sleep, the drain and the longest job."""
    for workload in manifests.serving:
        seconds = workload.pod.get("terminationGracePeriodSeconds", 30)
        least = GRACE_SECONDS.get(workload.name, 30)
        for container in workload.containers:
            if container.starts_only or workload.kind != "Deployment":
                continue
            sleep = at(container.spec, "lifecycle.preStop.sleep.seconds")
            if type(sleep) is not int or sleep < PRE_STOP_SECONDS:
                advice = f"{said(sleep)}: set {PRE_STOP_SECONDS}, to be out of the Services first"
                yield workload.finding(f"{container.field}.lifecycle.preStop.sleep.seconds", advice)
                continue
            drain = environment(manifests, container.spec).get("DRAIN_SECONDS", "0")
            if not drain.isdecimal() or (is_own(container.spec) and int(drain) < DRAIN_SECONDS):
                advice = f"is {drain}: set DRAIN_SECONDS to {DRAIN_SECONDS}"
                yield workload.finding(f"{container.field}.env", advice)
                continue
            least = max(least, sleep + int(drain) + LONGEST_JOB_SECONDS + 1)
        if type(seconds) is not int or not least <= seconds <= 300:  # noqa: PLR2004
            advice = f"is {seconds}: set {least} to 300, above pre-stop, drain and longest job"
            yield workload.finding("spec.template.spec.terminationGracePeriodSeconds", advice)


def disruption_budgets(manifests: Manifests) -> Iterator[Finding]:
    """Check that each workload that stays has one budget, which lets a drain go on."""
    budgets = list(manifests.kind("PodDisruptionBudget"))
    for workload in manifests.serving:
        mine = [b for b in budgets if selects(at(b, "spec.selector"), workload.labels)]
        if len(mine) != 1:
            advice = f"{len(mine)} PodDisruptionBudgets select its pods: there must be one"
            yield workload.finding("spec.template.metadata.labels", advice)
    for budget in budgets:
        mine_too = [w for w in manifests.workloads if _selects(budget, w)]
        if len(mine_too) != 1:
            advice = f"selects the pods of {len(mine_too)} workloads: it must be one"
            yield Finding(title(budget), "spec.selector", advice)
        table = (
            Must("spec.minAvailable", exactly(None), "take it away: it may block a drain for ever"),
            Must("spec.maxUnavailable", exactly(1), "set 1"),
            Must(
                "spec.unhealthyPodEvictionPolicy",
                exactly("AlwaysAllow"),
                "set AlwaysAllow: pods that are not ready block a drain for ever otherwise",
            ),
        )
        yield from broken(title(budget), budget, "", table)


def _selects(budget: dict[str, object], workload: Workload) -> bool:
    return selects(at(budget, "spec.selector"), workload.labels)
