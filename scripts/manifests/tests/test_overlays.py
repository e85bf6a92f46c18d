"""Every overlay, as rendered, keeps every rule, and no tool has anything to say about it."""

import subprocess
from collections.abc import Callable

import pytest
import yaml

from scripts.manifests import tools
from scripts.manifests.model import Document, Manifests
from scripts.manifests.rules import check
from scripts.manifests.tests.rendering import OVERLAYS, facts, render
from scripts.programs import ROOT


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_rules_are_kept(
    rendered: dict[str, str],
    overlay_documents: dict[str, list[Document]],
    tool: Callable[[str], str],
    name: str,
) -> None:
    tool("kubeconform")
    tool("flux-build")
    manifests = Manifests(overlay_documents[name], facts(name))
    found = [
        *check(manifests),
        *tools.kubeconform(rendered[name]),
        *tools.pod_security(manifests),
    ]
    assert [str(finding) for finding in found] == []


def test_the_overlays_are_the_ones_that_the_documentation_names() -> None:
    assert {"aws", "kind", "minikube"} <= set(OVERLAYS)


@pytest.mark.parametrize("name", ["kind", "minikube"])
def test_kubectl_alone_can_apply_an_overlay_of_a_machine(flux_build: str, name: str) -> None:
    assert "${" not in str(render(ROOT / "overlays" / name))


def test_every_image_has_its_version_from_the_one_file(
    overlay_documents: dict[str, list[Document]],
) -> None:
    listed = yaml.safe_load((ROOT / "base/components/images/kustomization.yaml").read_text())
    versions = {line["name"]: line["newTag"] for line in listed["images"]}
    used = set()
    for documents in overlay_documents.values():
        for workload in Manifests(documents).workloads:
            for container in workload.containers:
                image, tag = container.image
                name = "facestack/.*" if container.service else image
                assert tag == versions[name]
                used.add(name)
    assert used == versions.keys()


def test_our_images_have_the_tag_of_the_content_that_goes_into_them(
    overlay_documents: dict[str, list[Document]],
) -> None:
    tag = subprocess.run(
        [ROOT / "scripts" / "image-tag"], capture_output=True, text=True, check=True
    ).stdout.strip()
    found = {
        container.image[1]
        for documents in overlay_documents.values()
        for workload in Manifests(documents).workloads
        for container in workload.containers
        if container.service
    }
    assert found == {tag}, "run 'make images'"
