"""What `make restore` makes of the CronJob of backups; e2e/test_backup.py runs all of it."""

import yaml

from scripts.git import ROOT
from scripts.restore import new_job, restoring


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
