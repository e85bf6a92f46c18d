"""What holds on EKS, where no test runs: seen in manifests, and in its page's own lines."""

import math
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from services.testing.servers import find_binary

ROOT: Final = Path(__file__).parents[2]


def documents(*folders: str) -> list[dict[str, Any]]:
    """Return all Kubernetes objects below these folders."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.yaml")]
    found = [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]
    return [each for each in found if isinstance(each, dict) and "kind" in each]


def test_a_service_has_the_ports_of_its_pods_and_their_names() -> None:
    # The VPC CNI lets a pod reach a Service that network policies allow only so:
    # https://docs.aws.amazon.com/eks/latest/userguide/cni-network-policy.html#cni-network-policy-considerations
    found = documents("base", "apps", "flux/controllers", "overlays")
    services = [each for each in found if each["kind"] == "Service"]
    assert len(services) > 8
    for service in services:
        [pods] = [
            each["spec"]["template"]["spec"]
            for each in found
            if each["kind"] in {"Deployment", "StatefulSet"}
            and each["spec"].get("selector", {}).get("matchLabels") == service["spec"]["selector"]
        ]
        ports = {port["name"]: port["containerPort"] for port in pods["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            assert port["name"] == port["targetPort"], service
            assert port["port"] == ports[port["targetPort"]], service


# Seconds until a new pod answers, most of it for its image, and until a load balancer knows of it.
START: Final = 20
REGISTRATION: Final = 30
PULL: Final = 60
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}


@pytest.mark.parametrize(
    "cluster", [each.name for each in sorted((ROOT / "flux/clusters").iterdir())]
)
def test_flux_waits_until_a_rollout_is_done_or_given_up(cluster: str) -> None:
    """Deployments are rolled out beside each other, and the pods of one after each other."""
    [facts] = [each["data"] for each in documents(f"flux/clusters/{cluster}") if "data" in each]
    root = yaml.safe_load((ROOT / "flux" / "layers" / "root.yaml").read_text())
    timeout = re.search(r"\n +timeout: (\d+)([smh])\n", root["spec"]["patches"][0]["patch"])
    assert timeout
    allowed = int(timeout[1]) * _UNITS[timeout[2]]
    layers = [ROOT / "overlays" / facts["overlay"] / name for name in ("stores", "services")]
    found = [each for layer in layers for each in rendered(layer)]
    gates = dict[str, float]()
    for ingress in (each for each in found if each["kind"] == "Ingress"):
        notes = ingress["metadata"]["annotations"]
        interval, healthy = (
            int(notes[f"alb.ingress.kubernetes.io/{name}"])
            for name in ("healthcheck-interval-seconds", "healthy-threshold-count")
        )
        for rule in ingress["spec"]["rules"]:
            [path] = rule["http"]["paths"]
            gates[path["backend"]["service"]["name"]] = REGISTRATION + interval * healthy
    assert bool(gates) == (cluster == "aws")
    for workload in found:
        if workload["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        name, spec = workload["metadata"]["name"], workload["spec"]
        probe = spec["template"]["spec"]["containers"][0]["startupProbe"]
        after = gates.get(name, 0) + spec["minReadySeconds"]
        slowest = PULL + probe["periodSeconds"] * probe["failureThreshold"] + after
        if workload["kind"] == "StatefulSet":
            assert spec["replicas"] * slowest <= allowed, name
            continue
        # The deadline starts anew with each pod that is there.
        deadline = spec["progressDeadlineSeconds"]
        assert slowest <= deadline, name
        pods = int(facts.get(f"{name.replace('-', '_')}_max_replicas", spec["replicas"]))
        steps = math.ceil(pods / spec["strategy"]["rollingUpdate"]["maxSurge"])
        assert steps * (START + after) + deadline <= allowed, name


def rendered(folder: Path) -> list[dict[str, Any]]:
    """Return what kubectl makes of a folder."""
    done = subprocess.run(
        [find_binary("kubectl"), "kustomize", folder], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))
