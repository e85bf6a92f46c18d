"""A lost cluster comes back out of git and a backup, by the commands that the docs give."""

from pathlib import Path

import pytest
import yaml

from e2e.client import Client, assert_recognised
from e2e.cluster import STATE
from e2e.gitops.delivery import Delivery
from e2e.gitops.flux import ENTRY_FOLDER, wipe
from e2e.gitops.recipes import follow, recipe
from services.local.samples import EILEEN, GRACE


@pytest.mark.long
def test_a_lost_cluster_comes_back_out_of_git_and_a_backup(
    delivery: Delivery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = delivery.cluster
    client = Client(cluster)
    client.enrol()
    picture = client.picture(EILEEN)
    [image] = client.wait_final(client.upload(picture))
    people = client.call("GET", "/people")
    passwords = cluster.get("secret", "mariadb-admin")["data"]
    follow(cluster, recipe("Back up"), tmp_path)

    wipe(cluster)
    bootstrap, _, restore = recipe("Recover a lost cluster").partition("\n")
    assert bootstrap.startswith("make bootstrap ")
    secrets = delivery.repository.folder / ENTRY_FOLDER / "secrets" / "kustomization.yaml"
    if encrypted := yaml.safe_load(secrets.read_text())["resources"]:
        monkeypatch.setenv("AGE_KEY", str(STATE / "gitops" / "age.key"))
    assert delivery.bootstrap(accept=delivery.server.accept).returncode == 0
    assert client.call("GET", "/people")["people"] == []
    follow(cluster, restore, tmp_path)
    delivery.wait_ready()

    if encrypted:
        assert cluster.get("secret", "mariadb-admin")["data"] == passwords
    assert client.image(image["id"]) == image
    assert client.api.request("GET", f"/images/{image['id']}/picture").content == picture
    assert client.call("GET", "/people") == people
    # Who was known is known.
    client.enrol()
    assert_recognised(client.wait_final(client.upload(client.picture(EILEEN))), EILEEN)
    assert_recognised(client.wait_final(client.upload(client.picture(GRACE))), GRACE)
