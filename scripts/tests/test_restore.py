"""What `make restore` does to a cluster, on a real API server whose Jobs end as the test wants."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.gitops.tests.api_server import running
from scripts.programs import ROOT, Kubectl, KubectlError, binary

# kubectl of a cluster without nodes: each new Job ends as the next line of a file says.
CONTROLLER = """\
#!/bin/bash
set -e
case " $* " in *" create --filename=- "*) ;; *) exec KUBECTL "$@" ;; esac
job=$(KUBECTL "$@" --output=name)
end=$(head -n 1 "$ENDS"); sed -i 1d "$ENDS"
before=FailureTarget
if [ "$end" = Complete ]; then
  before=SuccessCriteriaMet times=', "completionTime": "2026-01-01T00:00:01Z", "succeeded": 1'
fi
KUBECTL patch "$job" --namespace=face --subresource=status --type=merge --patch='{"status": {
  "conditions": [{"type": "'$before'", "status": "True"}, {"type": "'$end'", "status": "True"}],
  "startTime": "2026-01-01T00:00:00Z"'"$times"'}}'
"""
KEY = "AGE-SECRET-KEY-1A\n"
CRDS = ROOT / "flux/controllers/kustomize-controller/crds.yaml"


class Bench:
    """A copy of the script, the cluster that it is for, and how its Jobs end."""

    def __init__(self, folder: Path, kubectl: Kubectl) -> None:
        self.folder = folder
        self.kubectl = kubectl
        for name, text in (
            ("scripts/restore", (ROOT / "scripts" / "restore").read_text()),
            ("bin/kubectl", CONTROLLER.replace("KUBECTL", binary("kubectl"))),
        ):
            (folder / name).parent.mkdir()
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "backup.agekey").write_text(KEY)

    def run(self, *ends: str) -> tuple[int, str]:
        """Restore while Jobs end so; return the exit status, and what was said of what is wrong."""
        (self.folder / "ends").write_text("".join(f"{end}\n" for end in ends))
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["scripts/restore", "backup.agekey", "20260101T024100Z"],
            cwd=self.folder,
            env={**os.environ, "PATH": path, "ENDS": str(self.folder / "ends")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not (self.folder / "ends").read_text(), done
        return done.returncode, done.stderr

    def get(self, kind: str, name: str) -> Any:
        return json.loads(self.kubectl.get("get", kind, name, "--namespace=face", "--output=json"))

    def state(self) -> tuple[int, bool, bool]:
        """Return how many receivers there shall be, whether backups are suspended, and Flux."""
        replicas = self.get("deployment", "receiver")["spec"]["replicas"]
        layer = ("get", "kustomization", "face-services", "--namespace=flux-system")
        flux = self.kubectl.get(*layer, "--output=jsonpath={.spec.suspend}")
        return replicas, self.get("cronjob", "backup")["spec"]["suspend"], flux == "true"

    def set_up(self) -> None:
        """Bring what is restored into a cluster."""
        unit = self.kubectl.get("kustomize", str(ROOT / "apps/backup/manifests"))
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
        self.kubectl.get("apply", "--filename", str(CRDS), "--server-side")
        self.kubectl.get("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        flux = {"name": "face-services", "namespace": "flux-system"}
        source = {"kind": "GitRepository", "name": "facestack"}
        layer = {"interval": "1h", "path": "./services", "prune": True, "sourceRef": source}
        api = "kustomize.toolkit.fluxcd.io/v1"
        things: list[dict[str, object]] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "face"}},
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flux-system"}},
            {"apiVersion": api, "kind": "Kustomization", "metadata": flux, "spec": layer},
            {"apiVersion": "batch/v1", "kind": "Job", **job},
            {"apiVersion": "apps/v1", "kind": "Deployment", **deployment},
        ]
        for thing in things:
            where = [] if thing["kind"] == "Kustomization" else ["--namespace=face"]
            given = json.dumps(thing)
            self.kubectl.get("create", "--filename=-", *where, given=given)
        self.kubectl.get("apply", "--filename=-", "--server-side", given=unit)


def check(job: Any, *arguments: str) -> None:
    """Check that the Job restores as administrator with the key."""
    template = job["spec"]["template"]
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "backup", "for policies"
    pod = template["spec"]
    [container] = pod["containers"]
    assert container["args"] == ["restore", *arguments, "20260101T024100Z"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["DATABASE_URL"] == "mysql+asyncmy://root@$(DATABASE)"
    folders = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert environment["BACKUP_IDENTITY_FILE"] == f"{folders['key']}/key"
    assert volumes["key"]["secret"] == {"secretName": "backup-identity", "defaultMode": 0o440}
    sources = [one["secret"]["name"] for one in volumes["database"]["projected"]["sources"]]
    assert "mariadb-admin" in sources
    assert "database-backup" not in sources


def test_all_of_it_on_a_real_api_server(tmp_path: Path) -> None:
    """One that cannot be done changes nothing; one that is interrupted is run again to the end."""
    with running(tmp_path) as kubectl:
        bench = Bench(tmp_path, kubectl)
        bench.set_up()
        status, said = bench.run("Failed")
        assert (status, bench.state()) == (1, (3, False, False))
        assert "the Job restore failed, and nothing was changed: put right what it says" in said
        check(bench.get("job", "restore"), "--check")

        status, said = bench.run("Complete", "Complete", "Failed")
        assert (status, bench.state()) == (1, (0, True, True))
        assert "the Job restore-migrations failed, and the services stay stopped" in said
        check(bench.get("job", "restore"))
        labels = bench.get("job", "restore-migrations")["spec"]["template"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "migrations", "which policies go by"

        assert bench.run("Complete") == (0, "")  # of the migrations: all rows are back
        assert bench.state() == (3, False, False)
        assert bench.get("job", "migrations-1")
        for gone in ("secret/backup-identity", "configmap/restore-state", "job/restore-migrations"):
            with pytest.raises(KubectlError, match="not found"):
                bench.get(*gone.split("/"))


def test_a_key_that_is_none_is_refused_before_anything(tmp_path: Path) -> None:
    shutil.copy(ROOT / "scripts" / "restore", tmp_path)
    key = tmp_path / "backup.agekey"
    for reason in ("No such file", "holds no private key of age: a line AGE-SECRET-KEY-1"):
        command = [tmp_path / "restore", key]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert reason in done.stderr
        key.write_text("# public key: age1\nage1\n")
