"""What is so on one AWS account only stands in one file, and a change of it gets to the pods."""

from collections.abc import Mapping
from typing import Any, Final

import pytest

from scripts.gitops import substitution
from scripts.manifests import rendering
from scripts.manifests.model import Manifests
from scripts.manifests.rendering import ROOT, parse, render

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
    files = [file for file in FOLDER.glob("*.yaml") if FACTS[name] in file.read_text()]
    assert [file.name for file in files] == []


def templates(built: str, facts: Mapping[str, str]) -> dict[str, tuple[Any, list[Any]]]:
    """Return each workload's pod template, and the contents of the ConfigMaps that it reads."""
    manifests = Manifests(parse(substitution.apply(built, facts)))
    found = {}
    for workload in manifests.workloads:
        names = [
            source["configMapRef"]["name"]
            for container in workload.containers
            for source in container.spec.get("envFrom", [])
        ]
        maps = [manifests.find("ConfigMap", name) for name in names]
        found[workload.name] = (workload.template, maps)
    return found


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_that_changes_a_setting_makes_new_pods(built: str, name: str) -> None:
    before, after = templates(built, FACTS), templates(built, {**FACTS, name: "changed"})
    of_settings = {one for one in before if before[one][1] != after[one][1]}
    of_pods = {one for one in before if before[one][0] != after[one][0]}
    assert of_settings <= of_pods
    assert of_settings or name not in OF_SETTINGS
    if name == "load_balancer_subnets":
        assert of_settings == {"frontend", "receiver"}
