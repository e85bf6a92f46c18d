"""Two clusters of one repository: staging follows the branch, production what is promoted to it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from string import Template
from typing import Final

import pytest
import yaml

from e2e import kind
from e2e.cluster import NO_REGISTRY, ROOT, STATE, Cluster, phase, run
from e2e.gitops.delivery import Delivery
from e2e.gitops.flux import ENTRY
from e2e.gitops.git import ENVIRONMENT
from e2e.waiting import wait_until

STAGING: Final = ENTRY
PRODUCTION: Final = "production"
HERE: Final = "--namespace=hello"
FAILED_SECONDS: Final = 180
SYNC_SECONDS: Final = 180
_TOOLS: Final = ROOT / ".tools" / "bin"

LAYERS: Final = ("setup", "stores", "services")
EMPTY: Final = "resources: []\n"
HELLO: Final = Template("""\
apiVersion: v1
kind: Namespace
metadata: {name: hello}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello, namespace: hello}
spec:
  progressDeadlineSeconds: 15
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello, version: "$version"}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: main, image: "$image", command: $command}
""")
UNIT: Final = """\
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: hello, namespace: flux-system}
spec:
  path: ./overlays/hello/services
  dependsOn: [{name: flux-controllers}]
"""
OUTSIDE: Final = """\
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: git}
spec:
  type: NodePort
  selector: {app.kubernetes.io/name: git}
  ports: [{port: 22, targetPort: ssh}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: outside, namespace: git}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{ports: [{protocol: TCP, port: ssh}]}]
"""
GIT: Final = Template("""\
apiVersion: v1
kind: Namespace
metadata: {name: git}
---
apiVersion: v1
kind: Service
metadata: {name: git, namespace: git}
spec: {ports: [{name: ssh, port: 22}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: git, namespace: git, labels: {kubernetes.io/service-name: git}}
addressType: IPv4
endpoints: [{addresses: [$address]}]
ports: [{name: ssh, port: $port}]
""")


@pytest.fixture
def production(delivery: Delivery, request: pytest.FixtureRequest) -> Iterator[Delivery]:
    """Give another cluster, of one node, from which the git server of the first is reached."""
    config = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {"podSubnet": "10.244.0.0/16"},
    }
    file = STATE / "production.yaml"
    file.write_text(yaml.safe_dump(config))
    made = kind.kind_cluster(
        kind.node_image(), f"{kind.NAME}-production", STATE / "production-kubeconfig"
    )
    made.delete()  # what an interrupted run has left
    try:
        with phase("cluster of 1 node"):
            made.create(file)
            cluster = Cluster(made.kubeconfig_path)
            wait_until(cluster.nodes_ready, SYNC_SECONDS, "its node to be ready")
        controllers = delivery.repository.folder / "flux" / "controllers" / "core"
        cluster.load_missing(cluster.kubectl("kustomize", str(controllers)).stdout)
        delivery.cluster.kubectl("apply", "--filename=-", input=OUTSIDE)
        port = delivery.cluster.get("service", "outside", "--namespace=git")["spec"]["ports"][0]
        node = delivery.cluster.get("nodes")["items"][0]["status"]["addresses"]
        (address,) = (each["address"] for each in node if each["type"] == "InternalIP")
        git = GIT.substitute(address=address, port=port["nodePort"])
        cluster.kubectl("apply", "--filename=-", input=git)
        yield Delivery(cluster, delivery.server, delivery.repository)
    finally:
        delivery.cluster.kubectl("delete", "--filename=-", "--ignore-not-found", input=OUTSIDE)
        if not request.config.getoption("--keep-cluster"):
            with phase("deleting the cluster"):
                made.delete()


@pytest.fixture
def _as_before_all_of_it(delivery: Delivery) -> Iterator[None]:
    """Take everything out of the branch and off the first cluster again."""
    before = delivery.repository.head
    yield
    delivery.repository.git("reset", "--quiet", "--hard", before)
    delivery.repository.push("--force")
    delivery.wait_ready()


@pytest.mark.usefixtures("_as_before_all_of_it")
def test_production_runs_what_staging_has_run_well_and_no_push(
    delivery: Delivery, production: Delivery
) -> None:
    repository = delivery.repository
    add_clusters(delivery)
    hello(delivery, "1")
    delivery.wait_ready(delivery.push("Two clusters"))
    promoted = promote(delivery)
    done = production.bootstrap(PRODUCTION, accept=delivery.server.accept)
    assert done.returncode == 0, done.stdout
    assert (version(delivery), version(production)) == ("1", "1")

    hello(delivery, "2")
    delivery.wait_ready(delivery.push("A good version"))
    wait_seen(production)
    assert (version(delivery), version(production)) == ("2", "1")
    assert applied(production) == f"sha1:{promoted}"

    promoted = promote(delivery)
    pushed = f"sha1:{promoted}"
    wait_until(lambda: applied(production) == pushed, SYNC_SECONDS, "production to run it")
    assert version(production) == "2"

    pods = [pod["metadata"]["uid"] for pod in production.cluster.get("pods", HERE)["items"]]
    hello(delivery, "3", command="[/none]")
    delivery.push("A bad version")
    said = delivery.flux.wait_failed("hello", repository.revision, FAILED_SECONDS)
    assert "Deployment/hello/hello status: 'Failed'" in said
    refused = run_promote(delivery)
    assert refused.returncode == 1
    assert re.search("Kustomization/hello +health check failed", refused.stderr)
    assert repository.git("status", "--porcelain", "--branch") == "## main"
    wait_seen(production)
    assert version(production) == "2"
    items = production.cluster.get("pods", HERE)["items"]
    assert [pod["metadata"]["uid"] for pod in items] == pods


def add_clusters(delivery: Delivery) -> None:
    """Add production, and what both clusters run, to the repository."""
    repository = delivery.repository
    repository.write("overlays/hello/kustomization.yaml", f"resources: [{', '.join(LAYERS)}]\n")
    for layer in LAYERS:
        repository.write(f"overlays/hello/{layer}/kustomization.yaml", EMPTY)
    repository.write("overlays/hello/services/kustomization.yaml", "resources: [hello.yaml]\n")
    delivery.add_entry(PRODUCTION)
    folder = f"flux/clusters/{PRODUCTION}"
    repository.replace(f"{folder}/cluster.yaml", "overlay: kind", "overlay: hello")
    entry = repository.folder / folder / "kustomization.yaml"
    entry.write_text(re.sub(r"- \S+/apps/\S+\n", "", entry.read_text()))
    repository.write(f"flux/clusters/{STAGING}/hello.yaml", UNIT)
    repository.replace(
        f"flux/clusters/{STAGING}/kustomization.yaml",
        "- cluster.yaml\n",
        "- cluster.yaml\n- hello.yaml\n",
    )


def hello(delivery: Delivery, number: str, command: str = "[]") -> None:
    """Write a version of what both clusters run: an image that waits, and that every node has."""
    held = delivery.cluster.get("nodes")["items"][0]["status"]["images"]
    image = min(name for each in held for name in each["names"] if "/pause:" in name)
    text = HELLO.substitute(version=number, image=image, command=command)
    delivery.repository.write("overlays/hello/services/hello.yaml", text)


def version(delivery: Delivery) -> str:
    """Return the version that runs on a cluster."""
    pods = delivery.cluster.staying("pods", HERE, "--field-selector=status.phase=Running")
    (found,) = (pod["metadata"]["labels"]["version"] for pod in pods)
    return str(found)


def applied(delivery: Delivery) -> str:
    """Return at which revision the services of a cluster are."""
    state = delivery.flux.states()["face-services"]
    return state.applied if state.ready == "True" else str(state)


def wait_seen(delivery: Delivery) -> None:
    """Return when a cluster has applied its folder of the last commit."""
    seen = ("facestack", "face-secrets")
    delivery.flux.wait_ready(delivery.repository.revision, SYNC_SECONDS, seen)


def run_promote(delivery: Delivery) -> subprocess.CompletedProcess[str]:
    """Run what `make promote` runs, as somebody with staging as current context."""
    run(NO_REGISTRY / "build-tools", _TOOLS, "flux-build")
    environment = {**delivery.cluster.environment, **ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-m", "scripts.promote", STAGING, PRODUCTION],
        cwd=delivery.repository.folder,
        env={**environment, "PATH": f"{_TOOLS}:{environment['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"   make promote: {done.stdout}{done.stderr}", flush=True)
    return done


def promote(delivery: Delivery) -> str:
    """Promote from staging, merge and push that; return the commit that production then runs."""
    healthy = delivery.repository.head
    done = run_promote(delivery)
    assert done.returncode == 0, done.stderr
    delivery.repository.git("merge", "--quiet", f"promote/{PRODUCTION}-{healthy[:12]}")
    delivery.repository.push()
    return healthy
