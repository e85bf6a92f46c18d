"""What is so on one AWS account only stands in one file, and a change of it gets to the pods."""

from copy import deepcopy
from typing import Final

import pytest

from scripts.manifests.model import Document, Manifests, title
from scripts.manifests.rules import check
from scripts.manifests.tests.rendering import facts, render
from scripts.programs import ROOT

pytestmark = pytest.mark.usefixtures("flux_build")
FOLDER: Final = ROOT / "overlays" / "aws"
FACTS: Final = facts("aws")
# Too short to be told from anything else.
SPECIFIC: Final = [name for name, value in FACTS.items() if len(value) > 10]
OF_SETTINGS: Final = (
    "bucket",
    "region",
    "database",
    "api_host",
    "page_host",
    "load_balancer_subnets",
)


@pytest.fixture(scope="module")
def changed(flux_build: str) -> Manifests:
    """The overlay where each fact is one that can be told from all others."""
    return Manifests(render(FOLDER, {name: f"changed-{name}" for name in FACTS}))


def test_no_variable_is_left(rendered: dict[str, str]) -> None:
    assert "${" not in rendered["aws"]


@pytest.mark.parametrize("name", SPECIFIC)
def test_no_manifest_holds_a_fact(name: str) -> None:
    files = [file for file in FOLDER.rglob("*.yaml") if FACTS[name] in file.read_text()]
    assert [file.name for file in files] == []


@pytest.mark.parametrize("name", OF_SETTINGS)
def test_a_fact_that_changes_a_setting_makes_new_pods(changed: Manifests, name: str) -> None:
    found = {w.title for w in changed.workloads if f"changed-{name}" in str(w.template)}
    assert found
    if name == "load_balancer_subnets":
        assert found == {"Deployment/frontend", "Deployment/receiver"}


def test_replicas_are_in_several_zones_and_each_way_in_has_a_host(
    overlay_documents: dict[str, list[Document]],
) -> None:
    documents = deepcopy(overlay_documents["aws"])
    [finder] = [one for one in documents if title(one) == "Deployment/nsqlookupd"]
    finder["spec"]["replicas"] = 2
    [ingress] = [one for one in documents if one["kind"] == "Ingress"]
    del ingress["spec"]["rules"][0]["host"]
    zone, host = (str(finding) for finding in check(Manifests(documents, FACTS)))
    assert zone == (
        "Deployment/nsqlookupd: spec.template.spec.topologySpreadConstraints"
        "[topologyKey=topology.kubernetes.io/zone].maxSkew: is missing: set 1:"
        " a load balancer may send to any zone"
    )
    assert host == (
        "Ingress/facestack: spec.rules[0].host: is missing: set it:"
        " the services answer to no other name"
    )
