"""Every unit in apps/ keeps the rules for units, and a fault in one is told with what to do."""

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import yaml

from scripts.gitops.checks import check, unused_files
from scripts.gitops.flux import Builder, load
from scripts.gitops.source import Source, working_tree
from scripts.gitops.substitution import substitute
from scripts.manifests import exceptions, tools
from scripts.manifests.design import UNIT_IMAGES
from scripts.manifests.model import Finding, Manifests, Rule
from scripts.manifests.rendering import ROOT, parse, render
from scripts.manifests.rules.units import UNIT_RULES, check_unit

UNITS: Final = sorted(
    path.parent.parent for path in ROOT.glob("apps/*/manifests/kustomization.yaml")
)
NAMES: Final = [folder.name for folder in UNITS]
FACTS: Final = {
    "api_server_port": "6443",
    "kubelet_insecure_tls": "true",
    "receiver_min_replicas": "2",
    "receiver_max_replicas": "4",
}


@pytest.fixture(scope="module")
def units(kubectl: str) -> dict[str, str]:
    """Every unit's manifests, rendered with facts of a cluster, by the unit's name."""
    return {
        folder.name: substitute(render(folder / "manifests", kubectl), FACTS) for folder in UNITS
    }


@pytest.mark.parametrize(
    "rule", UNIT_RULES, ids=lambda rule: f"{rule.__module__}.{rule.__name__}"[24:]
)
@pytest.mark.parametrize("name", NAMES)
def test_the_rules_are_kept(units: dict[str, str], name: str, rule: Rule) -> None:
    assert [str(finding) for finding in rule(Manifests(parse(units[name])))] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_document_fits_its_schema(
    units: dict[str, str], tool: Callable[[str], None], name: str
) -> None:
    tool("kubeconform")
    assert [str(finding) for finding in tools.kubeconform(units[name])] == []


@pytest.mark.parametrize(
    ("name", "run"), [("kube-score", tools.kube_score), ("checkov", tools.checkov)]
)
def test_other_tools_find_nothing_but_the_exceptions_and_need_each_of_them(
    units: dict[str, str],
    rendered: dict[str, str],
    tool: Callable[[str], None],
    name: str,
    run: Callable[[str], Iterator[Finding]],
) -> None:
    tool(name)
    # An autoscaler's target stands in the overlay, and the layer apps takes its replicas away.
    overlay = parse(rendered["kind"])
    for document in overlay:
        if (document["kind"], document["metadata"]["name"]) == ("Deployment", "receiver"):
            del document["spec"]["replicas"]
    findings = list(run("---\n".join([yaml.safe_dump_all(overlay), *units.values()])))
    among = (*exceptions.UNIT_EXEMPTIONS, *exceptions.EXEMPTIONS)
    assert [str(finding) for finding in exceptions.remaining(name, findings, among)] == []
    unused = exceptions.unused({name: findings}, exceptions.UNIT_EXEMPTIONS)
    assert [str(finding) for finding in unused] == []


FAULTS: Final = {
    "floating image": (
        "metrics-server",
        "metrics-server/metrics-server:v0.9.0",
        "metrics-server/metrics-server:latest",
        "[metrics-server].image: is registry.k8s.io/metrics-server/metrics-server:latest: use",
    ),
    "unknown image": (
        "metrics-server",
        "registry.k8s.io/metrics-server/",
        "example.org/",
        "is example.org/metrics-server:v0.9.0: add it with its version to UNIT_IMAGES, or use",
    ),
    "as root": (
        "metrics-server",
        "runAsNonRoot: true",
        "runAsNonRoot: false",
        "set true (Pod Security restricted, runAsNonRoot)",
    ),
    "no limit": (
        "metrics-server",
        "            memory: 256Mi\n",
        "",
        "resources.limits.memory: is missing: set how much it needs",
    ),
    "no readiness probe": (
        "metrics-server",
        "readinessProbe:",
        "readinessProbes:",
        "readinessProbe: is missing: set httpGet, grpc, tcpSocket or exec",
    ),
    "token for every pod": (
        "playground",
        "automountServiceAccountToken: false",
        "automountServiceAccountToken: true",
        "ServiceAccount/default: automountServiceAccountToken: is True: set false",
    ),
    "replicas without a budget": (
        "metrics-server",
        "replicas: 1",
        "replicas: 2",
        "PodDisruptionBudget/metrics-server: metadata.name: has replicas and no budget: add it",
    ),
    "namespace that is pruned": (
        "playground",
        "kustomize.toolkit.fluxcd.io/prune: disabled",
        "another: annotation",
        "Namespace/playground: metadata.annotations: is {'another': 'annotation'}: set kustomize",
    ),
    "namespace that lets root in": (
        "playground",
        "pod-security.kubernetes.io/enforce: restricted",
        "pod-security.kubernetes.io/enforce: baseline",
        "pod-security.kubernetes.io/enforce: is 'baseline': set restricted",
    ),
    "policy that denies one pod alone": (
        "playground",
        "name: default-deny\n  namespace: playground\nspec:\n  podSelector: {}",
        "name: default-deny\n  namespace: playground\nspec:\n  podSelector: {matchLabels: {a: b}}",
        "NetworkPolicy/default-deny: spec: none denies all of playground: add one with",
    ),
    "somebody else's namespace": (
        "playground",
        "name: each\n  namespace: playground",
        "name: each\n  namespace: default",
        "LimitRange/each: metadata.namespace: is 'default': use face, flux-system, playground",
    ),
    "every right": (
        "playground",
        "  - deployments/scale\n",
        "  - '*'\n",
        "Role/deployer: rules: the right to create *.apps: name what is meant, not all",
    ),
    "right to more rights": (
        "playground",
        "- apiGroups:\n  - batch\n  resources:\n  - cronjobs",
        "- apiGroups:\n  - rbac.authorization.k8s.io\n  resources:\n  - rolebindings",
        "Role/deployer: rules: the right to create rolebindings.rbac.authorization.k8s.io lifts",
    ),
    "right to be somebody else": (
        "playground",
        "  verbs:\n  - create\n  - get\n",
        "  verbs:\n  - impersonate\n  - get\n",
        "is every right: take it away",
    ),
    "right to a token": (
        "playground",
        "  - pods/ephemeralcontainers\n",
        "  - serviceaccounts/token\n",
        "Role/deployer: rules: the right to patch serviceaccounts/token lifts its own limits",
    ),
    "role of the whole cluster": (
        "playground",
        "kind: Role\n  name: deployer",
        "kind: ClusterRole\n  name: cluster-admin",
        "RoleBinding/deployer: roleRef: is 'cluster-admin': no role of this unit, nor on the list",
    ),
    "more in all namespaces": (
        "metrics-server",
        "  - nodes/metrics\n",
        "  - secrets\n",
        "ClusterRole/system:metrics-server: rules: get secrets: take it away, or use a Role",
    ),
    "somebody else's account": (
        "metrics-server",
        "name: system:metrics-server\nsubjects:\n- kind: ServiceAccount\n  name: metrics-server",
        "name: system:metrics-server\nsubjects:\n- kind: ServiceAccount\n  name: another",
        "ClusterRoleBinding/system:metrics-server: subjects: another is no ServiceAccount of",
    ),
    "port of the nodes": (
        "metrics-server",
        "spec:\n  ports:\n  - appProtocol: https",
        "spec:\n  type: NodePort\n  ports:\n  - appProtocol: https",
        "Service/metrics-server: spec.type: is NodePort: use ClusterIP",
    ),
    "bounds the wrong way round": (
        "autoscaling",
        "minReplicas: 2",
        "minReplicas: 5",
        "spec.minReplicas, maxReplicas: are 5 and 4: set whole numbers, 2 or more, the first not",
    ),
    "hasty autoscaler": (
        "autoscaling",
        "stabilizationWindowSeconds: 300",
        "stabilizationWindowSeconds: 0",
        "spec.behavior.scaleDown.stabilizationWindowSeconds: is 0: set 300 or more",
    ),
    "plain secret": (
        "playground",
        "kind: LimitRange",
        "kind: Secret",
        "Secret/each: kind: put it into the cluster's secrets, encrypted",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told(units: dict[str, str], fault: str) -> None:
    unit, old, new, expected = FAULTS[fault]
    assert old in units[unit]
    broken = parse(units[unit].replace(old, new, 1))
    found = [str(finding) for finding in check_unit(Manifests(broken))]
    assert any(expected in text for text in found), found


def test_metrics_server_is_the_version_that_can_be_built_from_source() -> None:
    pins = (ROOT / "e2e/no-registry/tools/metrics-server/go.mod").read_text()
    found = re.search(r"^require sigs\.k8s\.io/metrics-server (\S+)$", pins, re.MULTILINE)
    assert found
    assert UNIT_IMAGES["registry.k8s.io/metrics-server/metrics-server"] == found[1]


def documents(text: str, kind: str) -> list[dict[str, Any]]:
    return [document for document in parse(text) if document["kind"] == kind]


def test_a_tenant_is_bounded_in_everything_that_nodes_have(units: dict[str, str]) -> None:
    (total,) = (
        document["spec"]["hard"]
        for document in documents(units["playground"], "ResourceQuota")
        if document["metadata"]["name"] == "total"
    )
    (each,) = documents(units["playground"], "LimitRange")
    container = each["spec"]["limits"][0]
    for resource in ("cpu", "memory", "ephemeral-storage"):
        assert f"requests.{resource}" in total
        assert f"limits.{resource}" in total
        for default in ("defaultRequest", "default", "max"):
            assert resource in container[default]


@pytest.fixture
def found() -> Iterator[Source]:
    """Give a copy of what Flux gets to see, to change."""
    with working_tree() as source:
        yield source


def add_tenant(found: Source, name: str) -> None:
    """Copy the playground under another name, as its README says."""
    folder = found.folder / "apps" / name
    shutil.copytree(found.folder / "apps/playground", folder)
    for file in folder.rglob("*.yaml"):
        file.write_text(file.read_text().replace("playground", name))


def add_line(found: Source, name: str) -> None:
    """Turn a unit on in one cluster."""
    entry = found.folder / "flux/kind/kustomization.yaml"
    line = "- ../../apps/playground\n"
    assert line in entry.read_text()
    entry.write_text(entry.read_text().replace(line, line + f"- ../../apps/{name}\n"))


def test_adding_a_unit_is_adding_a_folder_and_one_line(found: Source, kubectl: str) -> None:
    add_tenant(found, "team-a")
    add_line(found, "team-a")
    builder = Builder(found, kubectl)
    cluster = load(builder, "kind")
    assert cluster.problems == []
    unit, playground = (cluster.kustomizations[name] for name in ("team-a", "playground"))
    assert unit.spec == {**playground.spec, "path": "./apps/team-a/manifests"}
    assert {"interval", "prune", "sourceRef", "timeout", "wait"} <= unit.spec.keys()
    assert len(unit.objects) == len(playground.objects)
    assert not {one.key for one in unit.objects} & {one.key for one in playground.objects}
    assert list(check_unit(Manifests(one.document for one in unit.objects))) == []
    assert "playground" not in yaml.safe_dump_all(one.document for one in unit.objects)
    said = map(str, check(cluster, builder))
    assert [text for text in said if "team-a" in text] == []


def test_a_unit_without_its_line_is_told(found: Source, kubectl: str) -> None:
    add_tenant(found, "team-a")
    builder = Builder(found, kubectl)
    for name in found.entries():
        assert "team-a" not in load(builder, name).kustomizations
    left = {finding.where for finding in unused_files(found, builder.files)}
    assert left >= {f"apps/team-a/{name}.yaml" for name in ("kustomization", "sync")}


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_says_only_what_differs_from_the_root(name: str) -> None:
    sync, *_ = yaml.safe_load_all((ROOT / "apps" / name / "sync.yaml").read_text())
    assert sync["metadata"] == {"name": name, "namespace": "flux-system"}
    assert sync["spec"]["path"] == f"./apps/{name}/manifests"
    assert sync["spec"]["dependsOn"]
    assert not {"interval", "prune", "sourceRef", "wait"} & sync["spec"].keys()
