"""Flux's installation: versions of one release, as tested, and no more rights than they need."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONTROLLERS = ROOT / "flux" / "controllers"


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


@pytest.mark.parametrize("name", ["source-controller", "helm-controller", "sourcerer"])
def test_the_controllers_are_those_of_one_release(tmp_path: Path, name: str) -> None:
    versions = tmp_path / "flux" / "controllers" / "versions" / "kustomization.yaml"
    versions.parent.mkdir(parents=True)
    text = (CONTROLLERS / "versions" / "kustomization.yaml").read_text()
    pins = dict(re.findall(r"^- name: ghcr\.io/fluxcd/(\S+)\n  newTag: (\S+)$", text, re.MULTILINE))
    for each in pins:
        versions.parent.with_name(each).mkdir()
    if name in pins:
        versions.write_text(text.replace(f"{name}\n  newTag: v1.", f"{name}\n  newTag: v1.9"))
    else:
        versions.write_text(f"{text}- name: ghcr.io/fluxcd/{name}\n  newTag: v1.0.0\n")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "crds", tmp_path / "scripts")
    released = "".join(f"  */{each}/api) echo {version} ;;\n" for each, version in pins.items())
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(
        "#!/bin/sh\nfor last; do :; done\ncase $1 in\n"
        f"list) case $last in\n{released}  *) exit 1 ;; esac ;;\n"
        'run) mkdir "${last##*=}"; echo "made: $4" >"${last##*=}/a.yaml" ;;\n'
        "esac\n"
    )
    go.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "scripts" / "crds"],
        env={**os.environ, "PATH": f"{go.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if name not in pins:
        assert done.stderr.endswith(f"has no {name}\n")
        assert done.returncode == 1
        return
    assert done.returncode == 0, done.stderr
    assert versions.read_text() == text
    for each in pins:
        made = versions.parent.with_name(each) / "crds.yaml"
        assert made.read_text() == f"made: paths=github.com/fluxcd/{each}/api/...\n"


def test_a_new_pod_gets_ready_beside_the_one_that_leads() -> None:
    [common] = documents(CONTROLLERS / "common" / "kustomization.yaml")
    [patch] = [
        yaml.safe_load(patch["patch"])
        for patch in common["patches"]
        if patch["target"]["kind"] == "Deployment"
    ]
    assert patch["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    [manager] = patch["spec"]["template"]["spec"]["containers"]
    # The server behind it runs in every pod; that of artifacts in the leader's alone.
    assert manager["readinessProbe"] == {"httpGet": {"path": "/readyz", "port": "health"}}
    for file in CONTROLLERS.glob("*/deployment.yaml"):
        assert "readinessProbe" not in file.read_text(), file
    limit = {"resourceFieldRef": {"containerName": "manager", "resource": "limits.memory"}}
    assert {"name": "GOMEMLIMIT", "valueFrom": limit} in manager["env"]


@pytest.mark.parametrize("name", ["source-controller", "kustomize-controller"])
def test_the_version_is_the_one_that_the_tests_build(name: str) -> None:
    modules = (ROOT / "e2e" / "no-registry" / "tools" / f"flux-{name}" / "go.mod").read_text()
    built = re.search(rf"^require github\.com/fluxcd/{name} (\S+)$", modules, re.MULTILINE)
    assert built
    [pins] = documents(CONTROLLERS / "versions" / "kustomization.yaml")
    assert {"name": f"ghcr.io/fluxcd/{name}", "newTag": built[1]} in pins["images"]


def test_every_controller_has_a_version() -> None:
    [pins] = documents(CONTROLLERS / "versions" / "kustomization.yaml")
    pinned = {image["name"] for image in pins["images"]}
    used = {
        document["spec"]["template"]["spec"]["containers"][0]["image"]
        for file in CONTROLLERS.glob("*/deployment.yaml")
        for document in documents(file)
        if document["kind"] == "Deployment"
    }
    assert pinned == used


def test_only_what_applies_has_rights_outside_its_namespace() -> None:
    bound = {
        (document["roleRef"]["name"], subject["name"])
        for file in CONTROLLERS.glob("*/access.yaml")
        for document in documents(file)
        if document["kind"] == "ClusterRoleBinding"
        for subject in document["subjects"]
    }
    assert bound == {
        ("cluster-admin", "kustomize-controller"),
        ("cluster-admin", "helm-controller"),
    }
