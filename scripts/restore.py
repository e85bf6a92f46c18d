"""Bring a backup to an empty cluster: what runs there is stopped, and starts again with all of it.

It goes by what the cluster has: its CronJob ``backup`` knows where everything is, and its Job
``migrations`` brings the rows to the newest schema. Whoever is interrupted runs it again.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from scripts.kubectl import Kubectl, KubectlError

_FACE: Final = "--namespace=face"
_FLUX: Final = "--namespace=flux-system"
_LAYERS: Final = ("face-stores", "face-services", "backup")
_MIGRATIONS: Final = "app.kubernetes.io/name=migrations"
_KEY: Final = "backup-identity"
_KEY_FILE: Final = "/run/secrets/backup-identity/key"
_OF_PODS: Final = ("controller-uid", "job-name")
"""The ends of labels that the cluster gives the pods of a Job."""
_LOOK_SECONDS: Final = 2.0


class Restore:
    """A cluster that is being restored."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl

    def run(self, key: str, backup: str | None) -> None:
        """Do all of it; raises ``KubectlError`` with what the cluster said."""
        cron_job = self._get("cronjob", "backup")
        migrations = self._get("jobs", f"--selector={_MIGRATIONS}")["items"]
        if not migrations:
            raise KubectlError("there is no Job migrations in the namespace face: apply it first")
        replicas = {
            # One that has none was stopped by a run before this.
            one["metadata"]["name"]: one["spec"]["replicas"] or 1
            for one in self._get("deployments")["items"]
        }
        print("restore: stopping all services")
        self._suspend(suspended=True)
        self._tell("scale", "deployment", "--all", "--replicas=0")
        self._tell("wait", "pod", "--for=delete", "--selector=pod-template-hash", "--timeout=10m")
        print("restore: at work; kubectl logs --follow job/restore --namespace=face shows it")
        self._tell("delete", "secret", _KEY, "--ignore-not-found")
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": _KEY}}
        self._create(secret | {"stringData": {"key": key}})
        try:
            self._do("restore", restoring(cron_job, backup))
        finally:
            self._tell("delete", "secret", _KEY, "--ignore-not-found")
        print("restore: bringing the rows to the newest schema")
        for job in migrations:
            self._do(job["metadata"]["name"], job)
        for name, number in replicas.items():
            self._tell("scale", "deployment", name, f"--replicas={number}")
        self._suspend(suspended=False)
        print("restore: done, the services start")

    def _suspend(self, *, suspended: bool) -> None:
        """Have nobody work on it, neither Flux, if it is here, nor a backup; or have them again."""
        patch = f"--patch={json.dumps({'spec': {'suspend': suspended}})}"
        for layer in _LAYERS:
            if self._kubectl.run("get", "kustomization", layer, _FLUX).returncode == 0:
                # Whatever is changed in another name, Flux puts back.
                whose = ("--type=merge", "--field-manager=flux", _FLUX)
                self._kubectl.get("patch", "kustomization", layer, patch, *whose)
        self._tell("patch", "cronjob", "backup", patch)

    def _do(self, name: str, job: dict[str, Any]) -> None:
        """Run a Job to its end, in the place of one of its name."""
        self._tell("delete", "job", name, "--ignore-not-found")
        self._create(new_job(name, job))
        while True:
            status = self._get("job", name).get("status", {})
            ended = {one["type"] for one in status.get("conditions", []) if one["status"] == "True"}
            if "Complete" in ended:
                return
            if "Failed" in ended:
                said = self._kubectl.run("logs", f"job/{name}", "--tail=3", _FACE).stdout.strip()
                raise KubectlError(
                    f"the Job {name} failed, and the services stay stopped: put right what it says"
                    f" and run this again\n{said}"
                )
            time.sleep(_LOOK_SECONDS)

    def _create(self, thing: dict[str, Any]) -> None:
        self._kubectl.get("create", "--filename=-", _FACE, given=json.dumps(thing))

    def _tell(self, *arguments: str) -> None:
        self._kubectl.get(*arguments, _FACE)

    def _get(self, *arguments: str) -> dict[str, Any]:
        got = self._kubectl.get("get", *arguments, _FACE, "--output=json")
        found: dict[str, Any] = json.loads(got)
        return found


def new_job(name: str, source: dict[str, Any]) -> dict[str, Any]:
    """Return a Job that does what another Job, or the template of a CronJob, does."""
    labels = source["metadata"].get("labels", {})
    spec = {key: value for key, value in source["spec"].items() if key != "selector"}
    template = spec["template"]
    its = template["metadata"].get("labels", {})
    pods = {key: value for key, value in its.items() if not key.endswith(_OF_PODS)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": spec | {"template": {"metadata": {"labels": pods}, "spec": template["spec"]}},
    }


def restoring(cron_job: dict[str, Any], backup: str | None) -> dict[str, Any]:
    """Return the template of the CronJob, with what restores instead."""
    template: dict[str, Any] = cron_job["spec"]["jobTemplate"]
    pod = template["spec"]["template"]["spec"]
    [container] = pod["containers"]
    container["args"] = ["restore", *([backup] if backup else [])]
    for variable in container["env"]:
        if variable["name"] == "DATABASE_URL":  # its own user may only read
            variable["value"] = variable["value"].replace("//backup@", "//root@")
    container["env"].append({"name": "BACKUP_IDENTITY_FILE", "value": _KEY_FILE})
    mount = {"name": _KEY, "mountPath": str(Path(_KEY_FILE).parent), "readOnly": True}
    container["volumeMounts"].append(mount)
    for volume in pod["volumes"]:
        if volume["name"] == "database":
            volume["projected"]["sources"][0]["secret"]["name"] = "mariadb-admin"
    pod["volumes"].append({"name": _KEY, "secret": {"secretName": _KEY, "defaultMode": 0o440}})
    return template


def main() -> None:
    """Restore the cluster of the context."""
    parser = argparse.ArgumentParser(prog="make restore", description=__doc__)
    parser.add_argument("key", help="file with the private key of age")
    parser.add_argument("backup", nargs="?", help="its name (default: the newest)")
    parser.add_argument("--context", help="kubectl's (default: the current one)")
    told = parser.parse_args()
    kubectl = Kubectl(told.context)
    try:
        key = Path(told.key).read_text()
        print(f"restore: {kubectl.where()}")
        Restore(kubectl).run(key, told.backup)
    except OSError as error:
        sys.exit(f"restore: KEY {told.key!r} cannot be read: {error.strerror}")
    except KubectlError as error:
        sys.exit(f"restore: {error}")


if __name__ == "__main__":
    main()
