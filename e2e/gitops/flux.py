"""Flux on the cluster: what it says of itself, and how everything of ours is swept away."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from e2e.cluster import Cluster, ClusterError, phase
from e2e.waiting import wait_until

NAMESPACE: Final = "--namespace=flux-system"
ENTRY: Final = "e2e"
"""What the tests' cluster is called, in their own repository only."""

ENTRY_FOLDER: Final = f"flux/clusters/{ENTRY}"
"""The folder that it follows."""

LAYERS: Final = ("flux-controllers", "face-setup", "face-secrets", "face-stores", "face-services")
"""In the order in which they are applied."""

_KUSTOMIZATIONS: Final = "kustomizations.kustomize.toolkit.fluxcd.io"
_SOURCES: Final = "gitrepositories.source.toolkit.fluxcd.io"
_OURS: Final = (
    "app.kubernetes.io/part-of in (facestack, flux)",
    "kustomize.toolkit.fluxcd.io/namespace=flux-system",
)
_GONE_SECONDS: Final = 120
_HANDLED_SECONDS: Final = 120


@dataclass(frozen=True)
class State:
    """What a Kustomization says of itself."""

    ready: str
    reason: str
    message: str
    applied: str
    attempted: str
    handled: str

    def __str__(self) -> str:
        return f"Ready={self.ready} {self.reason}: {self.message[:300]} ({self.applied})"


class Flux:
    """The Flux of the cluster, which is only watched."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def states(self) -> dict[str, State]:
        """Return the state of every Kustomization by its name."""
        return {
            item["metadata"]["name"]: _state(item)
            for item in self._cluster.get(_KUSTOMIZATIONS, NAMESPACE)["items"]
        }

    def source(self) -> State:
        """Return the state of the git repository."""
        return _state(self._cluster.get(_SOURCES, NAMESPACE, "facestack"))

    def wait_ready(
        self, revision: str, seconds: float, names: Collection[str] = ()
    ) -> dict[str, State]:
        """Return when Kustomizations, by default all, are ready with the revision applied."""

        def ready() -> dict[str, State]:
            states = self.states()
            waiting = {
                name: str(state)
                for name, state in states.items()
                if (not names or name in names)
                and (state.ready != "True" or state.applied != revision)
            }
            assert states.keys() >= set(names)
            assert not waiting, waiting
            return states

        return wait_until(ready, seconds, f"{', '.join(names) or 'all'} to be at {revision}")

    def wait_failed(self, name: str, revision: str, seconds: float) -> str:
        """Return what a Kustomization says when it has failed to apply the revision."""

        def failed() -> str:
            state = self.states()[name]
            assert state.applied != revision, "it was applied"
            assert state.attempted == revision, str(state)
            assert state.ready == "False", str(state)
            return state.message

        return wait_until(failed, seconds, f"{name} to fail at {revision}")

    def reconcile(self, name: str) -> None:
        """Have a Kustomization apply what it has, and return when it has done so."""
        request = f"{time.time_ns()}"
        annotation = f"reconcile.fluxcd.io/requestedAt={request}"
        self._cluster.kubectl(
            "annotate", _KUSTOMIZATIONS, NAMESPACE, name, annotation, "--overwrite"
        )
        wait_until(
            lambda: self.states()[name].handled == request,
            _HANDLED_SECONDS,
            f"{name} to be applied",
        )

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Have Flux look at no new commit while the block runs."""
        before = self._refusals()
        self._suspend("true")
        try:
            # A look that has begun goes on; the one after it finds that it may not.
            wait_until(lambda: self._refusals() > before, _HANDLED_SECONDS, "Flux to be suspended")
            yield
        finally:
            self._suspend("false")

    def _refusals(self) -> int:
        """Return how often source-controller has not looked because it is suspended."""
        logs = ("logs", NAMESPACE, "deployment/source-controller", "--tail=-1")
        said = self._cluster.kubectl(*logs).stdout
        return said.count("reconciliation is suspended for this object")

    def _suspend(self, value: str) -> None:
        patch = f'--patch={{"spec": {{"suspend": {value}}}}}'
        self._cluster.kubectl("patch", _SOURCES, NAMESPACE, "facestack", "--type=merge", patch)


def _state(item: dict[str, Any]) -> State:
    status = item.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    ready = conditions.get("Ready", {})
    # Until it has looked at what it is now, it speaks of what it was. The status says that it has
    # only when all went well.
    looked = {status.get("observedGeneration"), ready.get("observedGeneration")}
    fresh = item["metadata"]["generation"] in looked
    return State(
        ready.get("status", "Unknown") if fresh else "Unknown",
        ready.get("reason", ""),
        ready.get("message", "nothing yet"),
        status.get("lastAppliedRevision", ""),
        status.get("lastAttemptedRevision", ""),
        status.get("lastHandledReconcileAt", ""),
    )


def leave(cluster: Cluster) -> None:
    """Take away what these tests, interrupted, have left; refuse where somebody else's Flux is."""
    # The git server is there before Flux and longer than it.
    mark = "--selector=facestack.dev/e2e"
    if cluster.get("namespaces", mark)["items"]:
        wipe(cluster)
        cluster.kubectl("delete", "namespaces", mark)
    elif cluster.kubectl("get", "namespace", "flux-system", "--ignore-not-found").stdout:
        fact = ("get", "configmap", "cluster", NAMESPACE, "--ignore-not-found")
        entry = cluster.kubectl(*fact, "-o", "jsonpath={.data.cluster}").stdout
        what = f"flux/clusters/{entry}" if entry else "something"
        raise ClusterError(
            f"Flux keeps this cluster equal to {what} of a git"
            " repository, and tests would be at war with it: use another cluster"
        )


def wipe(cluster: Cluster) -> None:
    """Delete everything of ours, with its volumes, whatever state it is in."""
    with phase("emptying the cluster"):
        _stop(cluster)
        for selector in _OURS:
            # With one whose server is gone no namespace ends.
            cluster.kubectl("delete", "apiservices", f"--selector={selector}")
        names = _namespaces(cluster)
        if names:
            cluster.kubectl("delete", "namespace", *names, "--wait=false")
            for name in names:
                # Nobody waits for what they would still do.
                cluster.kubectl("delete", "pods", f"--namespace={name}", "--all", "--now")
        for selector in _OURS:
            # Until the last API that was served by a pod is forgotten, not all can be named.
            kinds = ",".join(wait_until(lambda: _kinds(cluster), _GONE_SECONDS, "every API"))
            cluster.kubectl(
                "delete", kinds, "--all-namespaces", f"--selector={selector}", "--ignore-not-found"
            )

        def gone() -> bool:
            assert not (left := leftovers(cluster)), left
            assert not (left := _namespaces(cluster)), left
            return True

        wait_until(gone, _GONE_SECONDS, "everything of ours to be gone")


def leftovers(cluster: Cluster) -> list[str]:
    """Return what is of ours on the cluster: objects, volumes, and all in our namespaces."""
    found = set()
    kinds = ",".join(_kinds(cluster))
    for selector in _OURS:
        for item in cluster.get(kinds, "--all-namespaces", f"--selector={selector}")["items"]:
            found.add(_name(item))
    for name in _namespaces(cluster):
        for item in cluster.get(kinds, f"--namespace={name}")["items"]:
            # What is in no namespace is listed for each; a namespace is born with these two.
            born = item["metadata"]["name"] in {"default", "kube-root-ca.crt"}
            if "namespace" in item["metadata"] and not born:
                found.add(_name(item))
    ours = set(_namespaces(cluster)) | {"face"}
    for volume in cluster.get("persistentvolumes")["items"]:
        if volume["spec"].get("claimRef", {}).get("namespace") in ours:
            found.add(_name(volume))
    return sorted(found)


def _name(item: dict[str, Any]) -> str:
    namespace = item["metadata"].get("namespace")
    name = f"{item['kind']} {item['metadata']['name']}"
    return f"{name} in {namespace}" if namespace else name


def _namespaces(cluster: Cluster) -> list[str]:
    """Return the namespaces that are ours, also those on their way out."""
    names = {"flux-system"}
    for selector in _OURS:
        listed = cluster.get("namespaces", f"--selector={selector}")["items"]
        names |= {item["metadata"]["name"] for item in listed}
    there = {item["metadata"]["name"] for item in cluster.get("namespaces")["items"]}
    return sorted(names & there)


def _kinds(cluster: Cluster) -> list[str]:
    """Return every kind of object that can be listed and deleted."""
    listed = cluster.kubectl("api-resources", "--verbs=list,delete", "-o", "name").stdout.split()
    # Events, and what others make of pods and nodes, are nobody's.
    return [
        name for name in listed if not name.startswith("events") and "metrics.k8s.io" not in name
    ]


def _stop(cluster: Cluster) -> None:
    """Keep Flux from putting back what is deleted, and free its objects from waiting for it."""
    listed = cluster.kubectl("get", "crd", "-o", "name").stdout.split()
    kinds = [name.partition("/")[2] for name in listed if name.endswith(".toolkit.fluxcd.io")]
    cluster.kubectl("delete", "deployments", "--all", NAMESPACE, "--ignore-not-found")
    cluster.kubectl("delete", "pods", "--all", NAMESPACE, "--now")
    for kind in kinds:
        for item in cluster.get(kind, NAMESPACE)["items"]:
            cluster.kubectl(
                "patch", kind, NAMESPACE, item["metadata"]["name"], "--type=merge",
                '--patch={"metadata": {"finalizers": null}}',
            )  # fmt: skip
