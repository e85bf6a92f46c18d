"""What is rendered is refused with one fault; broken.yaml has what is said, word for word."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from scripts.gitops.flux import BuildError, build_folder
from scripts.gitops.source import Source
from scripts.manifests import tools
from scripts.manifests.model import Document, Manifests, at
from scripts.manifests.rules import check
from scripts.manifests.tests.rendering import facts

FAULTS: Final[dict[str, dict[str, Any]]] = yaml.safe_load(
    (Path(__file__).parent / "broken.yaml").read_text()
)


def change(documents: list[Document], fault: dict[str, Any]) -> Document:
    """Put a fault into a document, and return that."""
    kind, _, name = fault["of"].partition("/")
    # A Job's own name carries a tag.
    [document] = (
        d
        for d in documents
        if d["kind"] == kind
        and at(d, "metadata.name").rpartition("-" if kind == "Job" else "\n")[
            0 if kind == "Job" else 2
        ]
        == name
    )
    node: Any = document
    steps = re.findall(r"\[([^]]+)\]|([^.[]+)", fault["at"])
    *way, last = (bracketed or plain for bracketed, plain in steps)
    for step in way:
        node = node[_key(node, step)] if isinstance(node, list) else node.setdefault(step, {})
    if isinstance(node, list) and last == "-":
        node.append(fault["to"])
    elif "to" in fault:
        node[_key(node, last)] = fault["to"]
    else:
        del node[_key(node, last)]
    return document


def _key(node: Any, step: str) -> Any:
    """Return the place of a step: of an entry of a list its number, or that of its name."""
    if not isinstance(node, list) or step.isdecimal():
        return int(step) if isinstance(node, list) else step
    return next(number for number, entry in enumerate(node) if entry["name"] == step)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused_with_the_reason(
    overlay_documents: dict[str, list[Document]], tool: Callable[[str], str], name: str
) -> None:
    for program in ("kubeconform", "flux-build"):
        tool(program)
    documents = copy.deepcopy(overlay_documents["kind"])
    changed = change(documents, FAULTS[name])
    found = list(check(Manifests(documents, facts("kind"))))
    # Others' tools are for what no rule says.
    found = found or [
        *tools.kubeconform(yaml.safe_dump(changed)),
        *tools.pod_security(Manifests([changed])),
    ]
    [tag] = {
        container.image[1]
        for workload in Manifests(overlay_documents["kind"]).workloads
        for container in workload.containers
        if container.service
    }
    said = [
        line.replace("VERSION-HASH", tag).replace("HASH", tag.rpartition("-")[2])
        for line in FAULTS[name]["said"]
    ]
    assert [str(finding) for finding in found] == said


@pytest.mark.usefixtures("flux_build")
def test_kustomize_says_what_it_cannot_render(tmp_path: Path) -> None:
    folder = tmp_path / "overlay"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text("resources: [not-there.yaml]\n")
    with pytest.raises(BuildError, match=r"overlay/.*not-there\.yaml"):
        build_folder(Source(tmp_path), "overlay")
