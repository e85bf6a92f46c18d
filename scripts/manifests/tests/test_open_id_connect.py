"""Where an overlay names a provider of OpenID Connect, the component opens the way to it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from scripts.manifests import tools
from scripts.manifests.model import Manifests
from scripts.manifests.rules import check
from scripts.manifests.tests.rendering import facts, render
from scripts.programs import ROOT
from services.frontend.adapters.oidc import CALLBACK

pytestmark = pytest.mark.usefixtures("flux_build")
OVERLAY = Path(__file__).parent / "open-id-connect"


def test_the_page_reaches_a_provider_and_nothing_else_outside(tool: Callable[[str], str]) -> None:
    tool("kubeconform")
    documents = render(OVERLAY, {})
    manifest = yaml.safe_dump_all(documents)
    found = [*check(Manifests(documents, facts("kind"))), *tools.kubeconform(manifest)]
    assert [str(finding) for finding in found] == []


def test_a_provider_without_the_component_is_a_finding() -> None:
    documents = render(OVERLAY, {})
    without = [one for one in documents if one["metadata"]["name"] != "open-id-connect"]
    [finding] = check(Manifests(without, facts("kind")))
    assert str(finding) == (
        "NetworkPolicy of frontend: spec.egress: frontend -> outside 443/TCP is named, and"
        " no policy allows it: label the client access.facestack.dev/SERVER"
    )


def test_the_page_on_logging_in_shows_what_is_tried_here() -> None:
    page = (ROOT / "docs" / "log-in.md").read_text()
    overlay = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text())
    written = {line.strip() for line in (OVERLAY / "kustomization.yaml").read_text().splitlines()}
    variables = {line for line in written if line.startswith("- {name: ")}
    assert overlay["patches"]
    assert variables <= {line.strip() for line in page.splitlines()}
    manifests = Manifests(render(OVERLAY, {}))
    [frontend] = [one for one in manifests.workloads if one.name == "frontend"]
    [container] = frontend.containers
    assert f"{container.environment['PUBLIC_URL']}{CALLBACK}" in page
