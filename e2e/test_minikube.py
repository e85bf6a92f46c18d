"""What a reader of the README types, on a cluster with one node and nothing on it."""

import os
import re
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from e2e import kind
from e2e.client import Client, assert_recognised
from e2e.cluster import IN_USE, ROOT, STATE, Cluster, images_of, phase, tool
from e2e.reach import reached
from scripts.gitops.flux import load
from scripts.gitops.source import working_tree
from services.local.processes import free_port
from services.local.samples import EILEEN

NAME: Final = "facestack-minikube"
SERVER_PORT: Final = 8443
"""Where minikube's API server listens, which is where policies see a connection lead to."""

COMMAND: Final = "kubectl kustomize overlays/minikube | kubectl apply -f -"


@pytest.fixture(scope="module")
def minikube(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Give an empty cluster with one node, which has the images, as minikube would."""
    if request.config.getoption("--kubeconfig"):
        pytest.skip("a cluster was given: this test makes one of its own")
    kind.prepare()
    api_port, server_port = free_port(), free_port()
    config = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {"podSubnet": "10.244.0.0/16"},
        "nodes": [
            {
                "role": "control-plane",
                "extraPortMappings": [
                    {"listenAddress": "127.0.0.1", "hostPort": outside, "containerPort": inside}
                    for outside, inside in ((api_port, 30000), (server_port, SERVER_PORT))
                ],
            }
        ],
        "kubeadmConfigPatches": [
            yaml.safe_dump(patch)
            for patch in (
                {"kind": "InitConfiguration", "localAPIEndpoint": {"bindPort": SERVER_PORT}},
                {
                    "kind": "ClusterConfiguration",
                    "controlPlaneEndpoint": f"{NAME}-control-plane:{SERVER_PORT}",
                },
            )
        ],
    }
    made = kind.kind_cluster(kind.node_image(), NAME, STATE / "minikube-kubeconfig")
    made.delete()  # what an interrupted run has left
    file = STATE / "minikube.yaml"
    file.write_text(yaml.safe_dump(config))
    try:
        with phase("cluster of 1 node"):
            made.create(file)
        # What kind maps to this machine is the port that its own API servers have.
        server = f"--server=https://127.0.0.1:{server_port}"
        settings = f"--kubeconfig={made.kubeconfig_path}"
        subprocess.run(
            [tool("kubectl"), settings, "config", "set-cluster", f"kind-{NAME}", server], check=True
        )
        cluster = Cluster(made.kubeconfig_path)
        cluster.api_url = f"http://127.0.0.1:{api_port}"
        rendered = cluster.kubectl("kustomize", str(ROOT / "overlays" / "minikube")).stdout
        with phase("loading the images"):
            cluster.load_image(*images_of(rendered))
        stash = request.config.stash
        before = stash.get(IN_USE, None)
        stash[IN_USE] = cluster
        yield cluster
        if before:
            stash[IN_USE] = before
        else:
            del stash[IN_USE]
    finally:
        if not request.config.getoption("--keep-cluster"):
            with phase("deleting the cluster"):
                made.delete()


def test_the_command_of_the_readme_runs_the_pipeline_and_again_changes_nothing(
    minikube: Cluster,
) -> None:
    first = apply(minikube)
    assert {how for _, how in first} == {"created"}
    names = [name for name, _ in first]
    minikube.wait_ready(names)
    client = Client(minikube)
    client.enrol()
    ids = client.upload(client.picture(EILEEN))
    processed = client.wait_final(ids)
    assert_recognised(processed, EILEEN)

    before = objects(minikube, names)
    pods = minikube.get("pods")["items"]
    second = apply(minikube)
    assert [name for name, _ in second] == names
    # kubectl says "configured" where a default of the server looks like a change to it.
    assert {how for _, how in second} <= {"unchanged", "configured"}
    assert objects(minikube, names) == before
    assert [pod["metadata"]["uid"] for pod in minikube.get("pods")["items"]] == [
        pod["metadata"]["uid"] for pod in pods
    ]
    assert client.wait_final(ids) == processed


def test_pods_of_others_do_not_come_in_by_a_port_of_the_node(minikube: Cluster) -> None:
    """The policy sees who asks, as no node rewrites an address; clients do come in this way."""
    [node] = minikube.get("nodes")["items"]
    address = node["status"]["addresses"][0]["address"]
    services = {one["metadata"]["name"]: one["spec"] for one in minikube.get("services")["items"]}
    targets = [
        (where, port, f"{name} at {where}:{port}")
        for name in ("receiver", "frontend")
        for where, port in (
            (address, services[name]["ports"][0]["nodePort"]),
            (services[name]["clusterIP"], services[name]["ports"][0]["port"]),
        )
    ]
    api = (minikube.get("service/kubernetes", "--namespace=default")["spec"]["clusterIP"], 443, "")
    image = minikube.get("deployment/redeemer")["spec"]["template"]["spec"]["containers"][0][
        "image"
    ]
    stranger = ("run", "stranger", "--namespace=default", f"--image={image}", "--command", "--")
    minikube.kubectl(*stranger, "python", "-c", "import signal; signal.pause()")
    started = ("wait", "--for=condition=Ready", "--namespace=default", "pod/stranger")
    minikube.kubectl(*started, "--timeout=120s")
    assert reached(minikube, "stranger", "default", [api, *targets]) == [api]
    assert Client(minikube).call("GET", "/images")["images"]


def test_all_of_it_fits_into_the_size_that_the_docs_name(minikube: Cluster) -> None:
    docs = (ROOT / "docs" / "kubernetes.md").read_text()
    [size] = re.findall(r"^minikube start .*--cpus=(\d+) --memory=(\d+)g\b", docs, re.MULTILINE)
    # Of the memory the node itself needs some.
    room = {"cpu": Decimal(size[0]), "memory": (Decimal(size[1]) - Decimal("0.5")) * 2**30}
    # Calico's own pod, which this cluster has not.
    system = {"cpu": Decimal("0.25"), "memory": Decimal(0)}
    for pod in minikube.get("pods", "--namespace=kube-system")["items"]:
        add(system, pod["spec"], 1)
    rendered = minikube.kubectl("kustomize", str(ROOT / "overlays" / "minikube")).stdout
    with working_tree() as tree:
        flux = load(tree, "minikube")
    assert flux.problems == []
    # Beside the pipeline Flux and its units, with as many receivers as there may be.
    by_git = [one.document for _, one in flux.objects()]
    for document in by_git:
        if (document["kind"], document["metadata"]["name"]) == ("Deployment", "receiver"):
            document["spec"]["replicas"] = int(flux.facts["receiver_max_replicas"])
    for how, documents in (("by hand", list(yaml.safe_load_all(rendered))), ("by git", by_git)):
        taken = peak(documents, system)
        print(f"{how}: { ({name: str(amount) for name, amount in taken.items()}) }")
        assert taken["cpu"] > system["cpu"] + Decimal("0.5"), "not everything was counted"
        assert all(taken[name] <= room[name] for name in room), (how, taken, room)


def peak(documents: list[dict[str, Any]], system: dict[str, Decimal]) -> dict[str, Decimal]:
    """Return the most that pods request at once: services, and their largest once more or Jobs.

    A rollout makes one pod more of a service. Jobs have ended when the services they are for start.
    """
    nothing = dict.fromkeys(system, Decimal(0))
    taken, jobs, more = dict(system), dict(nothing), dict(nothing)
    for document in documents:
        spec = document.get("spec", {})
        pod = (spec.get("template") or {}).get("spec", {})
        if document["kind"] == "Job":
            add(jobs, pod, 1)
        elif "containers" in pod:
            add(taken, pod, int(spec.get("replicas", 1)))
            one = dict(nothing)
            add(one, pod, 1)
            more = {name: max(one[name], more[name]) for name in one}
    return {name: taken[name] + max(jobs[name], more[name]) for name in taken}


def add(taken: dict[str, Decimal], pod: dict[str, Any], number: int) -> None:
    """Add what so many pods of the kind request."""
    for container in pod["containers"]:
        requests = container.get("resources", {}).get("requests", {})
        for name in taken:
            taken[name] += number * parse_quantity(requests.get(name, "0"))  # type: ignore[no-untyped-call]


def apply(cluster: Cluster) -> list[tuple[str, str]]:
    """Type the command; return the name of each object and what became of it."""
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", COMMAND],
        cwd=ROOT,
        env={
            **os.environ,
            "KUBECONFIG": str(cluster.kubeconfig),
            "PATH": f"{Path(tool('kubectl')).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # no warning either
    return [
        (name, how) for name, _, how in (line.partition(" ") for line in result.stdout.splitlines())
    ]


def objects(cluster: Cluster, names: list[str]) -> dict[str, Any]:
    """Return the objects without what the cluster writes into them."""
    return {
        f"{item['kind']}/{item['metadata']['name']}": (
            item["metadata"]["uid"],
            {key: value for key, value in item.items() if key not in {"metadata", "status"}},
        )
        for item in cluster.get(*names)["items"]
    }
