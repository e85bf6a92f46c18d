"""Where images must be signed, ours are by the release workflow alone, and no image is left out."""

import ast
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from scripts.manifests import tools
from scripts.manifests.model import Manifests, at
from scripts.manifests.rules import check
from scripts.manifests.tests.rendering import facts, render
from scripts.programs import ROOT

pytestmark = pytest.mark.usefixtures("flux_build")
WORKFLOW: Final = ".github/workflows/release.yaml"
IDENTITY: Final = f"https://github.com/YOU/facestack/{WORKFLOW}@refs/tags/v0.1.0"
DIGEST: Final = f"@sha256:{'0' * 64}"


@pytest.fixture(scope="module")
def manifests() -> Manifests:
    """AWS's overlay with the component, where images come from the registry of releases."""
    given = {**facts("aws"), "registry": "ghcr.io/you/facestack"}
    return Manifests(render(Path(__file__).parent / "signed-images", given), facts("aws"))


def globs(manifests: Manifests, policy: str) -> Sequence[str]:
    return [one["glob"] for one in at(manifests.find("ClusterImagePolicy", policy), "spec.images")]


def test_the_manifests_are_as_they_must_be(
    manifests: Manifests, tool: Callable[[str], str]
) -> None:
    tool("kubeconform")
    manifest = yaml.safe_dump_all(manifests.documents)
    found = [*check(manifests), *tools.kubeconform(manifest)]
    assert [str(finding) for finding in found] == []
    labels: dict[str, Any] = at(manifests.find("Namespace", "face"), "metadata.labels")
    assert labels["policy.sigstore.dev/include"] == "true"


@pytest.mark.parametrize(
    ("identity", "accepted"),
    [
        (IDENTITY, True),
        (IDENTITY.replace("YOU", "you"), True),
        (IDENTITY.replace("YOU", "me"), False),
        (IDENTITY.replace("YOU", "me/YOU"), False),
        (IDENTITY.replace("facestack", "facestack-2"), False),
        (IDENTITY.replace("release.yaml", "test.yaml"), False),
        (IDENTITY.replace("github.com", "githubXcom"), False),
        (IDENTITY.replace("tags/v0.1.0", "heads/main"), False),
        (f"{IDENTITY}/../../heads/main", False),
    ],
)
def test_the_release_workflow_attests_and_nobody_else(
    manifests: Manifests, identity: str, accepted: bool
) -> None:
    [authority] = at(manifests.find("ClusterImagePolicy", "facestack"), "spec.authorities")
    [signer] = authority["keyless"]["identities"]
    assert signer["issuer"] == "https://token.actions.githubusercontent.com"
    assert bool(re.search(signer["subjectRegExp"], identity)) == accepted
    assert [one["predicateType"] for one in authority["attestations"]] == [
        "https://slsa.dev/provenance/v1"
    ]


def test_each_image_has_one_policy_and_may_run_under_its_whole_name(manifests: Manifests) -> None:
    [rule] = manifests.kind("ValidatingAdmissionPolicy")
    sources = ast.literal_eval(at(rule, "spec.variables")[0]["expression"])
    ours, theirs = globs(manifests, "facestack"), globs(manifests, "facestack-third-party")
    images = {c.image[0] for w in manifests.workloads for c in w.containers}
    assert images >= {"ghcr.io/you/facestack/receiver", "nsqio/nsq"}
    for image in (one for one in images if "/facestack/" in one):
        assert [fnmatchcase(image + DIGEST, glob) for glob in (*ours, *theirs)].count(True) == 1
        assert any(fnmatchcase(image + DIGEST, glob) for glob in ours)
        assert f"{image.rpartition('/')[0]}/" in sources
    for name in ("mariadb", "nsqio/nsq", "versity/versitygw"):
        image = f"index.docker.io/{name if '/' in name else f'library/{name}'}"
        assert [fnmatchcase(image + DIGEST, glob) for glob in (*ours, *theirs)].count(True) == 1
        assert {name, image} <= set(sources)


def test_the_page_on_the_supply_chain_names_this_workflow() -> None:
    assert (ROOT / WORKFLOW).is_file()
    page = (ROOT / "docs" / "supply-chain.md").read_text()
    assert f"--certificate-identity={IDENTITY} " in page
