"""Every overlay, as rendered, keeps every rule, and no tool has anything to say about it."""

import subprocess
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from scripts.manifests import exceptions, tools
from scripts.manifests.design import THIRD_PARTY_IMAGES
from scripts.manifests.model import Document, Finding, Manifests, Rule
from scripts.manifests.rendering import ROOT, overlays
from scripts.manifests.rules import RULES
from scripts.manifests.rules.images import is_own, split

NAMES: Final = [folder.name for folder in overlays()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.__module__}.{rule.__name__}"[24:])
@pytest.mark.parametrize("name", NAMES)
def test_the_rules_are_kept(
    overlay_documents: dict[str, list[Document]], name: str, rule: Rule
) -> None:
    assert [str(finding) for finding in rule(Manifests(overlay_documents[name]))] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_document_fits_its_schema(
    rendered: dict[str, str], tool: Callable[[str], None], name: str
) -> None:
    tool("kubeconform")
    assert [str(finding) for finding in tools.kubeconform(rendered[name])] == []


def found_by(run: Callable[[str], Iterator[Finding]], rendered: dict[str, str]) -> list[Finding]:
    return [finding for manifest in rendered.values() for finding in run(manifest)]


@pytest.mark.parametrize(
    ("name", "run"), [("kube-score", tools.kube_score), ("checkov", tools.checkov)]
)
def test_other_tools_find_nothing_but_the_exceptions_and_need_each_of_them(
    rendered: dict[str, str],
    tool: Callable[[str], None],
    name: str,
    run: Callable[[str], Iterator[Finding]],
) -> None:
    tool(name)
    findings = found_by(run, rendered)
    assert [str(finding) for finding in exceptions.remaining(name, findings)] == []
    assert [str(finding) for finding in exceptions.unused({name: findings})] == []


def test_the_overlays_are_the_ones_that_the_documentation_names() -> None:
    assert {"aws", "kind", "minikube"} <= set(NAMES)


def test_kind_and_minikube_run_the_whole_pipeline(
    overlay_documents: dict[str, list[Document]],
) -> None:
    for name in ("kind", "minikube"):
        images = {
            split(container.spec["image"])[1]
            for workload in Manifests(overlay_documents[name]).workloads
            for container in workload.containers
        }
        assert images >= THIRD_PARTY_IMAGES.keys()


def test_our_images_have_the_tag_of_the_content_that_goes_into_them(
    overlay_documents: dict[str, list[Document]],
) -> None:
    tag = subprocess.run(
        [ROOT / "scripts" / "image-tag"], capture_output=True, text=True, check=True
    ).stdout.strip()
    for documents in overlay_documents.values():
        for workload in Manifests(documents).workloads:
            for container in workload.containers:
                if is_own(container.spec):
                    assert split(container.spec["image"])[2] == tag, "run 'make images'"
