"""The tools of others would say so if something were wrong."""

from collections.abc import Callable

import pytest
import yaml

from scripts import programs
from scripts.manifests import tools
from scripts.manifests.model import Manifests


def replaced(manifest: str, old: str, new: str) -> str:
    assert old in manifest
    return manifest.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("minReadySeconds: 5", "minReadySecond: 5", "'minReadySecond' not allowed"),
        ("runAsUser: 10001", "runAsUser: root", "got string, want integer"),
        ("apiVersion: apps/v1", "apiVersion: apps/v2", "could not find schema"),
        ("kind: Deployment", "kind: Deploymnet", "could not find schema"),
        ("kind: Deployment", "kind: deployment", "value must be 'Deployment'"),
        ("      serviceAccountName: ", "      serviceAccountNames: ", "not allowed"),
        ("containerPort: 8000", 'containerPort: "8000"', "got string, want integer"),
    ],
)
def test_kubeconform_refuses(
    rendered: dict[str, str], tool: Callable[[str], str], old: str, new: str, said: str
) -> None:
    tool("kubeconform")
    findings = list(tools.kubeconform(replaced(rendered["kind"], old, new)))
    assert len(findings) == 1
    assert said in findings[0].problem


def test_kubeconform_knows_the_custom_resources(
    rendered: dict[str, str], tool: Callable[[str], str]
) -> None:
    tool("kubeconform")
    manifest = replaced(rendered["aws"], "refreshInterval:", "refreshIntervals:")
    assert [finding.field for finding in tools.kubeconform(manifest)] == ["spec"]


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("            memory: 1664Mi\n", "", "container-resources"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "container-security"),
    ],
)
def test_kube_score_refuses(
    rendered: dict[str, str], tool: Callable[[str], str], old: str, new: str, check: str
) -> None:
    tool("kube-score")
    left = list(tools.kube_score(replaced(rendered["kind"], old, new), "kind"))
    assert len(left) == 1
    assert left[0].field.startswith(check)


def test_pod_security_refuses_what_a_namespace_does_not_let_in(
    rendered: dict[str, str], tool: Callable[[str], str]
) -> None:
    tool("flux-build")
    manifest = replaced(rendered["kind"], "runAsNonRoot: true", "runAsNonRoot: false")
    [finding] = tools.pod_security(Manifests(yaml.safe_load_all(manifest)))
    assert "runAsNonRoot=false (Pod Security restricted)" in finding.problem
    open_ = replaced(manifest, "/enforce: restricted", "/enforce: baseline")
    assert list(tools.pod_security(Manifests(yaml.safe_load_all(open_)))) == []


def test_a_missing_program_is_told_with_what_installs_it() -> None:
    with pytest.raises(programs.ProgramError, match="not installed: run 'scripts/manifest-tools'"):
        programs.binary("no-such-program")
