"""Bring a backup to an empty cluster: what runs there is stopped, and starts again with all of it.

It goes by what the cluster has: its CronJob ``backup`` knows where everything is, and its Job
``migrations`` brings the rows to the newest schema. What is changed meanwhile is kept in the
ConfigMap ``restore-state``, so whoever is interrupted runs it again.
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
_STATE: Final = "restore-state"
_KEY_FILE: Final = "/run/secrets/backup-identity/key"
_KEY_BEGINS: Final = "AGE-SECRET-KEY-"
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
        which = [backup] if backup else []
        if found := self._tell("get", "configmap", _STATE, "--ignore-not-found", "--output=json"):
            print(f"restore: going on with what the ConfigMap {_STATE} says of a run before")
            before = json.loads(found)["data"]
        else:
            before = {name: json.dumps(value) for name, value in self._now(cron_job).items()}
            print("restore: checking the backup; nothing is changed yet")
            check = new_job("restore", restoring(cron_job, "--check", *which))
            self._do(check, key, so="nothing was changed")
            literals = [f"--from-literal={name}={text}" for name, text in before.items()]
            self._tell("create", "configmap", _STATE, *literals)
        print("restore: stopping all services")
        self._suspend_layers(suspended=True)
        self._suspend("cronjob", "backup", _FACE, suspended=True)
        self._tell("scale", "deployment", "--all", "--replicas=0")
        self._tell("wait", "pod", "--for=delete", "--selector=pod-template-hash", "--timeout=10m")
        if "restored" not in before:
            print("restore: at work; kubectl logs --follow job/restore --namespace=face shows it")
            self._do(new_job("restore", restoring(cron_job, *which)), key)
            self._tell("patch", "configmap", _STATE, '--patch={"data": {"restored": "true"}}')
        print("restore: bringing the rows to the newest schema")
        for job in json.loads(before["migrations"]):
            self._do(job)
        for name, number in json.loads(before["replicas"]).items():
            self._tell("scale", "deployment", name, f"--replicas={number}")
        self._suspend("cronjob", "backup", _FACE, suspended=json.loads(before["suspended"]))
        self._suspend_layers(suspended=False)
        self._tell("delete", "configmap", _STATE)
        print("restore: done, the services start")

    def _now(self, cron_job: dict[str, Any]) -> dict[str, Any]:
        """Return what is to be as it was at the end."""
        jobs = self._get("jobs", f"--selector={_MIGRATIONS}")["items"]
        if not jobs:
            raise KubectlError("there is no Job migrations in the namespace face: apply it first")
        deployments = self._get("deployments")["items"]
        return {
            "migrations": [new_job(job["metadata"]["name"], job) for job in jobs],
            "replicas": {one["metadata"]["name"]: one["spec"]["replicas"] for one in deployments},
            "suspended": cron_job["spec"]["suspend"],
        }

    def _suspend_layers(self, *, suspended: bool) -> None:
        """Have Flux, if it is here, leave alone what it keeps; or look after it again."""
        for layer in _LAYERS:
            if self._kubectl.run("get", "kustomization", layer, _FLUX).returncode == 0:
                # Whatever is changed in another name, Flux puts back.
                whose = ("--type=merge", "--field-manager=flux", _FLUX)
                self._suspend("kustomization", layer, *whose, suspended=suspended)

    def _suspend(self, *which: str, suspended: bool) -> None:
        patch = f"--patch={json.dumps({'spec': {'suspend': suspended}})}"
        self._kubectl.get("patch", *which, patch)

    def _do(
        self, job: dict[str, Any], key: str = "", so: str = "the services stay stopped"
    ) -> None:
        """Run a Job to its end, in the place of one of its name, with the key for as long."""
        name = job["metadata"]["name"]
        self._tell("delete", f"job/{name}", f"secret/{_KEY}", "--ignore-not-found")
        if key:
            self._tell("create", "secret", "generic", _KEY, "--from-file=key=/dev/stdin", given=key)
        try:
            self._tell("create", "--filename=-", given=json.dumps(job))
            conditions = "jsonpath={.status.conditions[?(@.status=='True')].type}"
            while "Complete" not in (
                ended := self._tell("get", "job", name, f"--output={conditions}").split()
            ):
                if "Failed" in ended:
                    said = self._kubectl.run(
                        "logs", f"job/{name}", "--tail=3", _FACE
                    ).stdout.strip()
                    todo = "put right what it says and run this again"
                    raise KubectlError(f"the Job {name} failed, and {so}: {todo}\n{said}")
                time.sleep(_LOOK_SECONDS)
        finally:
            self._tell("delete", "secret", _KEY, "--ignore-not-found")

    def _tell(self, *arguments: str, given: str | None = None) -> str:
        return self._kubectl.get(*arguments, _FACE, given=given)

    def _get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._tell("get", *arguments, "--output=json"))
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


def restoring(cron_job: dict[str, Any], *arguments: str) -> dict[str, Any]:
    """Return the template of the CronJob, with what restores instead."""
    text = json.dumps(cron_job["spec"]["jobTemplate"])
    # Its own user of the database may only read.
    text = text.replace("//backup@", "//root@").replace('"database-backup"', '"mariadb-admin"')
    template: dict[str, Any] = json.loads(text)
    pod = template["spec"]["template"]["spec"]
    [container] = pod["containers"]
    container["args"] = ["restore", *arguments]
    container["env"].append({"name": "BACKUP_IDENTITY_FILE", "value": _KEY_FILE})
    mount = {"name": _KEY, "mountPath": str(Path(_KEY_FILE).parent), "readOnly": True}
    container["volumeMounts"].append(mount)
    pod["volumes"].append({"name": _KEY, "secret": {"secretName": _KEY, "defaultMode": 0o440}})
    return template


def read_key(file: str) -> str:
    """Return the text of a file with a private key; ends the process where there is none."""
    try:
        text = Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"restore: KEY {file!r} cannot be read: {error}")
    if not any(line.startswith(_KEY_BEGINS) for line in text.splitlines()):
        sys.exit(f"restore: KEY {file!r} holds no private key of age: a line {_KEY_BEGINS}1...")
    return text


def main() -> None:
    """Restore the cluster of the context."""
    parser = argparse.ArgumentParser(prog="make restore", description=__doc__)
    parser.add_argument("key", help="file with the private key of age")
    parser.add_argument("backup", nargs="?", help="its name (default: the newest)")
    parser.add_argument("--context", help="kubectl's (default: the current one)")
    told = parser.parse_args()
    kubectl = Kubectl(told.context)
    key = read_key(told.key)
    try:
        print(f"restore: {kubectl.where()}")
        Restore(kubectl).run(key, told.backup)
    except KubectlError as error:
        sys.exit(f"restore: {error}")


if __name__ == "__main__":
    main()
