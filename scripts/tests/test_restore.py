"""What `make restore` makes of the CronJob of backups."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from scripts.git import ROOT
from scripts.gitops.tests.api_server import running
from scripts.kubectl import Kubectl, KubectlError
from scripts.restore import Restore, new_job, read_key, restoring


def test_the_job_restores_as_administrator_with_the_key() -> None:
    text = (ROOT / "apps/backup/cron-job/cron-job.yaml").read_text()
    cron_job = next(yaml.safe_load_all(text))
    template = restoring(cron_job, "20260101T024100Z")
    template["metadata"] = {"labels": {"app.kubernetes.io/name": "backup"}}
    its = {"app.kubernetes.io/name": "backup", "batch.kubernetes.io/job-name": "other"}
    template["spec"]["template"]["metadata"] = {"labels": its}
    template["spec"]["selector"] = {"matchLabels": its}
    job = new_job("restore", template)
    assert job["metadata"] == {"name": "restore", "labels": {"app.kubernetes.io/name": "backup"}}
    assert "selector" not in job["spec"], "the cluster makes one of its own"
    assert job["spec"]["template"]["metadata"]["labels"] == {"app.kubernetes.io/name": "backup"}
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"] == ["restore", "20260101T024100Z"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["DATABASE_URL"] == "mysql+asyncmy://root@$(DATABASE)"
    folders = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert environment["BACKUP_IDENTITY_FILE"] == f"{folders['backup-identity']}/key"
    assert volumes["backup-identity"]["secret"]["secretName"] == "backup-identity"
    [source] = volumes["database"]["projected"]["sources"]
    assert source["secret"]["name"] == "mariadb-admin"


@dataclass(frozen=True)
class Controller(Kubectl):
    """kubectl of a cluster without nodes, on which each new Job ends at once."""

    ends: list[str] = field(default_factory=lambda: ["Complete"])

    def get(self, *arguments: str, given: str | None = None) -> str:
        printed = super().get(*arguments, given=given)
        if arguments[:2] == ("create", "--filename=-") and '"kind": "Job"' in str(given):
            job = json.loads(str(given))["metadata"]["name"]
            end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
            times: dict[str, object] = {"startTime": "2026-01-01T00:00:00Z"}
            if end == "Complete":
                times |= {"completionTime": "2026-01-01T00:00:01Z", "succeeded": 1}
            before = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}[end]
            kinds = [{"type": kind, "status": "True"} for kind in (before, end)]
            patch = json.dumps({"status": times | {"conditions": kinds}})
            status = ("--subresource=status", "--type=merge", f"--patch={patch}")
            super().get("patch", "job", job, "--namespace=face", *status)
        return printed


def test_all_of_it_on_a_real_api_server(tmp_path: Path) -> None:
    """One that cannot be done changes nothing; one that is interrupted is run again to the end."""
    with running(tmp_path) as kubectl:
        unit = kubectl.get("kustomize", str(ROOT / "apps/backup/manifests"))
        unit = unit.replace("${backup_suspended}", "false")
        container = {"name": "one", "image": "one"}
        pod = {"containers": [container], "restartPolicy": "Never"}
        labels = {"app.kubernetes.io/name": "migrations"}
        job = {"metadata": {"name": "migrations-1", "labels": labels}}
        job["spec"] = {"template": {"metadata": {"labels": labels}, "spec": pod}}
        its = {"matchLabels": {"app": "receiver"}}
        template = {
            "metadata": {"labels": {"app": "receiver"}},
            "spec": {"containers": [container]},
        }
        deployment: dict[str, object] = {"metadata": {"name": "receiver"}}
        deployment["spec"] = {"replicas": 3, "selector": its, "template": template}
        things: list[dict[str, object]] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "face"}},
            {"apiVersion": "batch/v1", "kind": "Job", **job},
            {"apiVersion": "apps/v1", "kind": "Deployment", **deployment},
        ]
        for thing in things:
            kubectl.get("create", "--filename=-", "--namespace=face", given=json.dumps(thing))
        kubectl.get("apply", "--filename=-", "--server-side", given=unit)

        def replicas() -> int:
            found = kubectl.get(
                "get", "deployment", "receiver", "--namespace=face", "--output=json"
            )
            return int(json.loads(found)["spec"]["replicas"])

        def suspended() -> bool:
            found = kubectl.get("get", "cronjob", "backup", "--namespace=face", "--output=json")
            return bool(json.loads(found)["spec"]["suspend"])

        def run(*ends: str) -> None:
            Restore(Controller(ends=[*ends, ""])).run("the key", "20260101T024100Z")

        with pytest.raises(KubectlError, match="the Job restore failed, and nothing was changed"):
            run("Failed")
        assert replicas() == 3
        with pytest.raises(KubectlError, match="the Job migrations-1 failed, and the services sta"):
            run("Complete", "Complete", "Failed")
        assert (replicas(), suspended()) == (0, True)
        kubectl.get("delete", "job", "migrations-1", "--namespace=face")  # interrupted thereafter
        run("Complete")  # of the migrations: all rows are back
        assert (replicas(), suspended()) == (3, False)
        for gone in ("secret/backup-identity", "configmap/restore-state"):
            with pytest.raises(KubectlError, match="not found"):
                kubectl.get("get", gone, "--namespace=face")


def test_a_key_that_is_none_is_refused_before_anything(tmp_path: Path) -> None:
    key = tmp_path / "backup.agekey"
    with pytest.raises(SystemExit, match="cannot be read"):
        read_key(str(key))
    key.write_text("# public key: age1\nage1\n")
    with pytest.raises(SystemExit, match="holds no private key of age: a line AGE-SECRET-KEY-1"):
        read_key(str(key))
    key.write_text("# created: today\nAGE-SECRET-KEY-1A\n")
    assert read_key(str(key)) == key.read_text()
