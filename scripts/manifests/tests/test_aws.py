"""What is so on one AWS account only stands in one file, and a change of it gets to the pods."""

from collections.abc import Mapping
from typing import Any, Final

import pytest

from scripts.manifests import rendering
from scripts.manifests.model import Manifests
from scripts.manifests.rendering import ROOT, parse, render, with_facts

FOLDER: Final = ROOT / "overlays" / "aws"
FACTS: Final = rendering.facts("aws")
# Too short to be told from anything else.
SPECIFIC: Final = [name for name, value in FACTS.items() if len(value) > 10]
OF_SETTINGS: Final = {
    "bucket",
    "region",
    "database",
    "api_host",
    "page_host",
    "load_balancer_subnets",
}


@pytest.fixture(scope="module")
def built(kubectl: str) -> str:
    """The overlay before the facts get into it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "facts", lambda _: {})
        return render(FOLDER, kubectl)


def test_no_variable_is_left(rendered: dict[str, str]) -> None:
    assert "${" not in rendered["aws"]


@pytest.mark.parametrize("name", SPECIFIC)
def test_no_manifest_holds_a_fact(name: str) -> None:
    files = [file for file in FOLDER.rglob("*.yaml") if FACTS[name] in file.read_text()]
    assert [file.name for file in files] == []


def templates(built: str, facts: Mapping[str, str]) -> dict[str, Any]:
    """Return each workload's pod template."""
    manifests = Manifests(parse(with_facts(built, facts)))
    return {workload.title: workload.template for workload in manifests.workloads}


@pytest.mark.parametrize("name", OF_SETTINGS)
def test_a_fact_that_changes_a_setting_makes_new_pods(built: str, name: str) -> None:
    before, after = templates(built, FACTS), templates(built, {**FACTS, name: "changed"})
    changed = {one for one in before if before[one] != after[one]}
    assert changed
    if name == "load_balancer_subnets":
        assert changed == {"Deployment/frontend", "Deployment/receiver"}
