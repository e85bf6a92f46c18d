"""What holds on EKS, where no test runs: seen in manifests, and in its page's own lines."""

import math
import os
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


# An account: who makes what is there already is told so, and what is put is kept.
AWS: Final = """\
#!/bin/bash
echo "$*" >>"$FAKE/calls"
option() { name=$1; while [ "$2" != "$name" ]; do shift; done; echo "$3"; }
case "$1 $2" in
  "secretsmanager get-random-password") head -c 20 /dev/urandom | base64 ;;
  "secretsmanager create-secret")
    secret=$FAKE/$(option --name "$@" | tr / _)
    [ ! -e "$secret" ] || { echo ResourceExistsException >&2; exit 254; }
    option --secret-string "$@" >"$secret" ;;
  "secretsmanager put-secret-value")
    secret=$FAKE/$(option --secret-id "$@" | tr / _)
    mv "$secret" "$secret.previous" && option --secret-string "$@" >"$secret" ;;
  "secretsmanager get-secret-value") cat "$FAKE/$(option --secret-id "$@" | tr / _)" ;;
  "rds create-db-instance")
    [ ! -e "$FAKE/rds" ] || { echo DBInstanceAlreadyExists >&2; exit 254; }
    option --master-user-password "$@" >"$FAKE/rds" ;;
  "s3api head-bucket") [ -e "$FAKE/bucket" ] ;;
  "s3 mb") [ ! -e "$FAKE/bucket" ] || exit 254; touch "$FAKE/bucket" ;;
  *" create-"*)
    thing=$FAKE/made-$(tr -c '[:alnum:]\\n' _ <<<"$*" | cut -c1-150)
    [ ! -e "$thing" ] || { echo AlreadyExists >&2; exit 254; }
    touch "$thing" ;;
esac
"""


def test_the_steps_for_aws_can_be_repeated(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    steps = re.search(r"^\*\*1\. Say where.*?(?=^\*\*5\. Deploy)", page, re.MULTILINE | re.DOTALL)
    assert steps
    lines = "\n".join(re.findall(r"^```\n(.+?)^```$", steps[0], re.MULTILINE | re.DOTALL))
    binaries = tmp_path / "bin"
    binaries.mkdir()
    others = {"curl": "exit 0", "docker": "cat >/dev/null", "jq": "echo {}", "make": "exit 0"}
    for name, program in {"aws": AWS, **others}.items():
        text = program if program.startswith("#!") else f"#!/bin/sh\n{program}\n"
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    account = tmp_path / "account"
    account.mkdir()
    found = list[dict[str, str]]()
    for _ in range(2):
        subprocess.run(
            ["bash", "-c", lines],
            cwd=ROOT,
            env={"PATH": f"{binaries}:{os.environ['PATH']}", "FAKE": str(account)},
            capture_output=True,
            check=False,
            timeout=60,
        )
        files = [each for each in account.iterdir() if each.name != "calls"]
        found.append({each.name: each.read_text() for each in files})
    assert found[0] == found[1]
    secrets = {each["metadata"]["name"] for each in documents("overlays/aws/setup")}
    assert {f"facestack_{name}" for name in secrets - {"secrets-manager", "${storage_class}"}} == {
        name for name in found[0] if name.startswith("facestack_") and "previous" not in name
    }
    assert found[0]["rds"] == found[0]["facestack_mariadb-admin"]
    assert found[0]["facestack_frontend-key.previous"] == found[0]["facestack_frontend-key"]


def test_volumes_can_grow() -> None:
    found = documents("base", "overlays")
    claims = {each["metadata"]["name"] for each in found if each["kind"] == "PersistentVolumeClaim"}
    for workload in found:
        if workload["kind"] == "StatefulSet" and workload["spec"].get("selector"):
            # The template of a claim cannot be changed.
            assert "volumeClaimTemplates" not in workload["spec"]
            assert f"data-{workload['metadata']['name']}-0" in claims
    [storage] = [each for each in found if each["kind"] == "StorageClass"]
    assert storage["allowVolumeExpansion"] is True
