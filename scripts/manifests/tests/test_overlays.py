"""Every overlay, as rendered, keeps every rule, and no tool has anything to say about it."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from scripts.manifests import edges, tools
from scripts.manifests.model import Document, Finding, Manifests
from scripts.manifests.rendering import ROOT, facts, overlays
from scripts.manifests.rules import check

NAMES: Final = [folder.name for folder in overlays()]


@pytest.mark.parametrize("name", NAMES)
def test_the_rules_are_kept(
    rendered: dict[str, str],
    overlay_documents: dict[str, list[Document]],
    tool: Callable[[str], str],
    name: str,
) -> None:
    tool("kubeconform")
    tool("flux-build")
    found = [
        *check(Manifests(overlay_documents[name], facts(name))),
        *tools.kubeconform(rendered[name]),
        *tools.pod_security(rendered[name]),
    ]
    assert [str(finding) for finding in found] == []


@pytest.mark.parametrize(
    ("name", "run"), [("kube-score", tools.kube_score), ("checkov", tools.checkov)]
)
def test_other_tools_find_nothing_but_the_exceptions_and_need_each_of_them(
    rendered: dict[str, str],
    tool: Callable[[str], str],
    name: str,
    run: Callable[[str], Iterator[Finding]],
) -> None:
    tool(name)
    found = {(overlay, name): list(run(manifest)) for overlay, manifest in rendered.items()}
    left = [str(one) for key, findings in found.items() for one in tools.remaining(*key, findings)]
    assert left == []
    assert [str(finding) for finding in tools.unused(found)] == []


def test_the_overlays_are_the_ones_that_the_documentation_names() -> None:
    assert {"aws", "kind", "minikube"} <= set(NAMES)


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


def test_the_table_of_edges_is_what_the_policies_say(tool: Callable[[str], str]) -> None:
    tool("flux-build")
    assert edges.main(check=True) == 0


def test_a_page_without_the_marks_of_the_table_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(edges, "PAGE", page)
    page.write_text(f"before\n{edges.START}after\n")
    assert edges.main(check=False) == 1
    assert "page.md lacks the lines" in capsys.readouterr().err
    assert page.read_text() == f"before\n{edges.START}after\n"
