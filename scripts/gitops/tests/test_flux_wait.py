"""What flux-wait takes for ready, against a real API server that the test writes to like Flux."""

import os
import subprocess
from collections.abc import Iterator
from typing import IO, Any, Final

import pytest

from scripts.gitops.flux import NAMESPACE
from scripts.gitops.tests.api_server import note, running
from scripts.programs import ROOT, Kubectl

REVISION: Final = "main@sha1:5b1c1e3bd2f0f5e7a4d86b6c0e3f3d1c0a9b8e7f"
DEFINITIONS: Final = [
    ROOT / "flux" / "controllers" / name / "crds.yaml"
    for name in ("source-controller", "kustomize-controller")
]
FOLLOWED: Final = f"""\
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {{name: facestack, namespace: {NAMESPACE}}}
spec: {{url: "https://git.example.com/facestack.git", interval: 1m}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {{name: facestack, namespace: {NAMESPACE}}}
spec:
  path: ./flux/clusters/kind
  interval: 1h
  prune: true
  sourceRef: {{kind: GitRepository, name: facestack}}
"""
COMMIT: Final = "8d6bd1b8a1f3c4d5e6f708192a3b4c5d6e7f8091"
PINNED: Final = f"""\
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {{name: version, namespace: {NAMESPACE}}}
spec: {{url: "https://git.example.com/facestack.git", interval: 1h, ref: {{commit: {COMMIT}}}}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {{name: face-services, namespace: {NAMESPACE}}}
spec:
  path: ./overlays/kind/services
  interval: 1h
  prune: true
  sourceRef: {{kind: GitRepository, name: version}}
"""
SOURCE: Final = ("gitrepository", "facestack")
ROOT_LAYER: Final = ("kustomization", "facestack")
SEEN: Final[dict[str, Any]] = {"observedGeneration": 1}
_SECONDS: Final = 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """An API server that knows a GitRepository and a Kustomization, which nobody works on."""
    with running(tmp_path_factory.mktemp("cluster")) as found:
        found.get("create", "namespace", NAMESPACE)
        found.get("create", *(f"--filename={file}" for file in DEFINITIONS))
        found.get("wait", "--for=condition=Established", "crds", "--all", "--timeout=60s")
        found.get("create", "--filename=-", given=FOLLOWED)
        empty = condition("git repository is empty", status="False")
        note(found, *SOURCE, **SEEN, conditions=[empty], lastHandledReconcileAt="before")
        yield found


@pytest.fixture
def said(cluster: Kubectl, kubectl: str) -> Iterator[IO[str]]:
    """What flux-wait says while it runs."""
    with subprocess.Popen(
        [ROOT / "scripts" / "flux-wait"],
        env={**os.environ, "KUBECTL": kubectl, "TIMEOUT": str(_SECONDS)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def condition(message: str, status: str = "True") -> dict[str, str]:
    return {
        "type": "Ready",
        "status": status,
        "reason": "Succeeded",
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def artifact(revision: str) -> dict[str, str]:
    return {
        "revision": revision,
        "digest": f"sha256:{64 * '0'}",
        "lastUpdateTime": "2026-01-01T00:00:00Z",
        "path": "facestack.tar.gz",
        "url": "http://source-controller/facestack.tar.gz",
    }


def hear(said: IO[str], *expected: str) -> None:
    """Read on until all of it was said."""
    missing = set(expected)
    while missing:
        line = said.readline()
        assert line, missing
        missing.discard(line.split(maxsplit=2)[2].strip())


def test_ready_is_what_has_a_revision_too_and_not_only_the_condition(
    cluster: Kubectl, said: IO[str]
) -> None:
    assert said.readline() == "== waiting until all is ready\n"
    source, layer = "GitRepository/facestack       ", "Kustomization/facestack       "
    hear(said, f"{source}   git repository is empty", f"{layer}   not looked at yet")

    mark = r"--output=jsonpath={.metadata.annotations.reconcile\.fluxcd\.io/requestedAt}"
    asked = cluster.get("get", *SOURCE, f"--namespace={NAMESPACE}", mark)
    assert asked

    # Flux's controllers write the conditions first, and with a second request all else.
    stored = [condition("stored artifact")]
    note(cluster, *SOURCE, conditions=stored, lastHandledReconcileAt=asked)
    hear(said, f"{source}   at <none>, not at <none> yet")

    note(cluster, *SOURCE, artifact=artifact(REVISION))
    hear(said, f"{source}   ready")

    note(cluster, *ROOT_LAYER, **SEEN, conditions=[condition(f"Applied revision: {REVISION}")])
    hear(said, f"{layer}   at <none>, not at {REVISION} yet")

    note(cluster, *ROOT_LAYER, lastAppliedRevision=REVISION)
    hear(said, f"{layer}   ready")
    assert said.readline() == f"== all is ready at {REVISION}\n"
    assert said.read() == ""


def test_what_follows_a_pinned_version_is_ready_at_that_commit(
    cluster: Kubectl, said: IO[str]
) -> None:
    assert said.readline() == "== waiting until all is ready\n"
    hear(said, "GitRepository/facestack          stored artifact")
    cluster.get("create", "--filename=-", given=PINNED)
    former = [condition("what was pinned before")]
    layer, version = ("kustomization", "face-services"), ("gitrepository", "version")
    note(cluster, *layer, **SEEN, conditions=former, lastAppliedRevision=REVISION)
    old, pinned = f"sha1:{40 * '0'}", f"sha1:{COMMIT}"
    note(cluster, *version, **SEEN, conditions=former, artifact=artifact(old))
    note(cluster, *SOURCE, lastHandledReconcileAt="again")
    hear(
        said,
        f"GitRepository/version            at {old}, not at {pinned} yet",
        f"Kustomization/face-services      at {REVISION}, not at {pinned} yet",
        "GitRepository/facestack          ready",
    )
    note(cluster, *version, artifact=artifact(pinned))
    hear(said, "GitRepository/version            ready")
    note(cluster, *layer, lastAppliedRevision=pinned)
    hear(said, "Kustomization/face-services      ready")
    assert said.readline() == f"== all is ready at {REVISION}, pinned to {COMMIT}\n"
    assert said.read() == ""
