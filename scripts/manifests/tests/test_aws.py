"""What is so on one AWS account only stands in one file, and nowhere else."""

from typing import Final

import pytest
import yaml

from scripts.manifests.rendering import ROOT

FOLDER: Final = ROOT / "overlays" / "aws"
FACTS: Final[dict[str, str]] = yaml.safe_load((FOLDER / "cluster.yaml").read_text())["data"]


@pytest.mark.parametrize("name", FACTS)
def test_each_fact_gets_into_the_manifests(rendered: dict[str, str], name: str) -> None:
    assert FACTS[name] in rendered["aws"]


def test_no_manifest_is_left_without_its_fact(rendered: dict[str, str]) -> None:
    assert "cluster.yaml" not in rendered["aws"]


@pytest.mark.parametrize("name", FACTS)
def test_no_other_file_holds_a_fact(name: str) -> None:
    others = [file for file in FOLDER.glob("*.yaml") if file.name != "cluster.yaml"]
    assert [file.name for file in others if FACTS[name] in file.read_text()] == []
