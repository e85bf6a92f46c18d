"""A backup of a running cluster is brought back to an empty one, as docs/backup.md says."""

import json
import subprocess
from pathlib import Path
from typing import Final

import pyrage
import pytest

from e2e.client import Api, Client, object_store
from e2e.cluster import ROOT, Cluster, phase
from e2e.waiting import wait_until
from services.local.samples import GRACE

_JOB_SECONDS: Final = 300


@pytest.fixture
def key(pipeline: Cluster, tmp_path: Path) -> Path:
    """Have the unit apps/backup on the cluster, with a bucket beside the pictures' one."""
    identity = pyrage.x25519.Identity.generate()
    file = tmp_path / "backup.agekey"
    file.write_text(f"{identity}\n")
    pipeline.kubectl("exec", "object-store-0", "--", "mkdir", "-p", "/data/backups")
    rendered = pipeline.kubectl("kustomize", str(ROOT / "apps/backup/manifests")).stdout
    for fact, value in {
        "backup_suspended": "true",
        "backup_bucket": "s3://backups",
        "backup_endpoint": "https://object-store:7070",
        "backup_region": "us-east-1",
        "backup_recipient": str(identity.to_public()),
    }.items():
        rendered = rendered.replace(f"${{{fact}}}", value)
    pipeline.load_missing(rendered)
    pipeline.kubectl("apply", "--filename=-", input=rendered)
    # It is the server of the pictures, with its key and its certificate.
    own = pipeline.get("secret", "object-store")["data"]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "backup-store"}}
    pipeline.kubectl("apply", "--filename=-", input=json.dumps(secret | {"data": own}))
    authority = "BACKUP_S3_CA_FILE=/run/secrets/object-store/ca.crt"
    pipeline.kubectl("set", "env", "cronjob/backup", authority)
    return file


def test_a_backup_is_restored_to_an_empty_cluster(pipeline: Cluster, key: Path) -> None:
    client = Client(pipeline)
    client.clear()
    ids = client.upload(*(client.picture(GRACE) for _ in range(3)))
    before = client.wait_final(ids)
    pictures = {id_: Api(pipeline).request("GET", f"/images/{id_}/picture").content for id_ in ids}

    with phase("taking a backup"):
        pipeline.kubectl("create", "job", "first", "--from=cronjob/backup")

        def ended() -> bool:
            conditions = pipeline.get("job", "first")["status"].get("conditions", [])
            kinds = {one["type"] for one in conditions if one["status"] == "True"}
            if "Failed" in kinds:
                pytest.fail(pipeline.kubectl("logs", "job/first").stdout)
            return "Complete" in kinds

        wait_until(ended, _JOB_SECONDS, "the backup to end")
    status = Api(pipeline).request("GET", "/status").json()["backup"]
    assert (status["is_old"], status["error"]) == (False, None)
    refused = _restore(pipeline, key)
    assert refused.returncode == 1
    assert "holds rows in" in refused.stdout + refused.stderr
    assert "nothing was changed" in refused.stderr
    assert pipeline.get("deployment", "receiver")["status"]["readyReplicas"]

    with phase("losing all data"):
        pipeline.sql("DROP DATABASE facestack; CREATE DATABASE facestack")
        with object_store(pipeline) as store:
            for prefix in ("pictures", "known_people"):
                keys = [meta["path"] for chunk in store.list(prefix) for meta in chunk]
                store.delete(keys)
    with phase("restoring"):
        done = _restore(pipeline, key)
        assert done.returncode == 0, done.stdout + done.stderr
    pipeline.wait_ready()
    assert client.wait_final(ids) == before
    for id_, picture in pictures.items():
        assert Api(pipeline).request("GET", f"/images/{id_}/picture").content == picture
    assert not pipeline.kubectl("get", "secret", "backup-identity", check=False).stdout


def _restore(cluster: Cluster, key: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "restore", str(key)],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
    )
