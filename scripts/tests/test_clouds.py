"""What holds on EKS, where no test runs: seen in manifests, and in its page's own lines."""

from pathlib import Path
from typing import Any, Final

import yaml

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
