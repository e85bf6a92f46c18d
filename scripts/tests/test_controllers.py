"""Flux's installation: the versions that were tested, and no more rights than they need."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONTROLLERS = ROOT / "flux" / "controllers"


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


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
    assert bound == {("cluster-admin", "kustomize-controller")}
