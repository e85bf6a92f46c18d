"""Overlays with one fault each are refused; their first lines hold what is said, word for word."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from scripts.manifests import tools
from scripts.manifests.model import Manifests
from scripts.manifests.rendering import RenderError, parse, render
from scripts.manifests.rules import check

FOLDERS: Final = sorted((Path(__file__).parent / "broken").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_broken_overlay_is_refused_with_the_reason(
    kubectl: str, tool: Callable[[str], None], folder: Path
) -> None:
    tool("kubeconform")
    lines = (folder / "kustomization.yaml").read_text().splitlines()
    expected = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    manifest = render(folder, kubectl)
    found = [*check(Manifests(parse(manifest))), *tools.kubeconform(manifest)]
    assert expected
    assert [str(finding) for finding in found] == expected


def test_kustomize_says_what_it_cannot_render(kubectl: str, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [not-there.yaml]\n")
    with pytest.raises(RenderError, match=r"not-there\.yaml"):
        render(tmp_path, kubectl)
