"""A new image ends as the right commit: which tag is chosen, and which fields it is written to."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from packaging.version import Version

from scripts.gitops.source import ROOT
from scripts.manifests.design import OWN_IMAGES, THIRD_PARTY_IMAGES
from scripts.manifests.model import Manifests
from scripts.manifests.rendering import overlays, parse, render
from scripts.manifests.rules.images import OWN_TAG, split

FOLDER: Final = ROOT / "flux" / "image-updates" / "manifests"
DOCUMENTS: Final[dict[str, Any]] = {
    document["kind"]: document
    for file in ("policy.yaml", "automation.yaml")
    for document in yaml.safe_load_all((FOLDER / file).read_text())
}
POLICY: Final = DOCUMENTS["ImagePolicy"]
MARK: Final = re.compile(
    r'^(\s*(?:- )?(\w+): )(\S+)( # \{"\$imagepolicy": "([^"]+)"\})$', re.MULTILINE
)
NEW: Final = "1.2.3-0123456789ab"


def chosen(tags: Iterable[str]) -> set[str]:
    """Return what image-reflector-controller may choose: more than one where it leaves that open.

    It keeps one tag for each extracted text, whichever it sees last, and takes the highest version.
    """
    spec = POLICY["spec"]
    assert spec["policy"] == {"semver": {"range": "*"}}
    found: dict[Version, set[str]] = {}
    for tag in tags:
        # Go's expressions may match a part, too; $name is a group.
        if match := re.search(spec["filterTags"]["pattern"], tag):
            text = match.expand(spec["filterTags"]["extract"].replace("$version", r"\g<version>"))
            assert re.fullmatch(r"\d+\.\d+\.\d+", text)
            found.setdefault(Version(text), set()).add(tag)
    return found[max(found)] if found else set()


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        pytest.param(["0.1.0-aaaaaaaaaaaa"], {"0.1.0-aaaaaaaaaaaa"}, id="one"),
        pytest.param(
            ["0.1.0-ffffffffffff", "0.2.0-000000000000"],
            {"0.2.0-000000000000"},
            id="the hash has no say",
        ),
        pytest.param(
            ["0.9.0-aaaaaaaaaaaa", "0.10.0-aaaaaaaaaaaa"],
            {"0.10.0-aaaaaaaaaaaa"},
            id="by number, not by letter",
        ),
        pytest.param(
            ["0.3.0-aaaaaaaaaaaa", "0.2.9-bbbbbbbbbbbb"],
            {"0.3.0-aaaaaaaaaaaa"},
            id="an older version that is pushed later changes nothing",
        ),
        pytest.param(
            ["0.9.9-aaaaaaaaaaaa", "1.0.0-bbbbbbbbbbbb"], {"1.0.0-bbbbbbbbbbbb"}, id="a major one"
        ),
        pytest.param(
            [
                "latest",
                "main",
                "9.9.9",
                "v9.9.9-aaaaaaaaaaaa",
                "9.9.9-aaaaaaaaaaa",
                "9.9.9-aaaaaaaaaaaaa",
            ],
            set(),
            id="none of ours",
        ),
        pytest.param(
            ["9.9.9-rc1", "9.9.9-AAAAAAAAAAAA", "sha256-aaaa.sig", "0.1.0-aaaaaaaaaaaa"],
            {"0.1.0-aaaaaaaaaaaa"},
            id="foreign tags beside one of ours",
        ),
        pytest.param(
            ["0.1.0-aaaaaaaaaaaa", "0.1.0-bbbbbbbbbbbb"],
            {"0.1.0-aaaaaaaaaaaa", "0.1.0-bbbbbbbbbbbb"},
            id="two builds of one version: not said which, so README forbids it",
        ),
        pytest.param(
            ["0.1.0-aaaaaaaaaaaa", "0.1.0-bbbbbbbbbbbb", "0.1.1-000000000000"],
            {"0.1.1-000000000000"},
            id="a new version settles it",
        ),
    ],
)
def test_the_highest_version_is_chosen(tags: list[str], expected: set[str]) -> None:
    assert chosen(tags) == expected
    assert chosen(reversed(tags)) == expected


def test_the_policy_takes_what_image_tag_makes() -> None:
    tag = subprocess.run(
        [ROOT / "scripts" / "image-tag"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert OWN_TAG.fullmatch(tag)
    assert chosen([tag]) == {tag}


def test_the_policy_looks_at_the_image_that_is_pushed_last() -> None:
    repository = DOCUMENTS["ImageRepository"]
    assert POLICY["spec"]["imageRepositoryRef"]["name"] == repository["metadata"]["name"]
    last = max(OWN_IMAGES).removeprefix("facestack/")
    assert repository["spec"]["image"] == f"${{registry}}/{last}"
    # The documentation pushes them sorted by name.
    (loop,) = re.findall(
        r"for image in (.*); do\n  local=", (ROOT / "docs/kubernetes.md").read_text()
    )
    assert loop.endswith("sort -u)")


def marks(folder: Path) -> list[tuple[Path, str, str, str]]:
    """Return every mark below a folder: file, field, value and what the mark says."""
    return [
        (file, field, value, says)
        for file in sorted(folder.rglob("*.yaml"))
        for _, field, value, _, says in MARK.findall(file.read_text())
    ]


def test_every_image_of_ours_is_marked_once_and_nothing_else() -> None:
    path = ROOT / DOCUMENTS["ImageUpdateAutomation"]["spec"]["update"]["path"]
    metadata = POLICY["metadata"]
    file = ROOT / "base" / "kustomization.yaml"
    found = marks(path)
    assert {(one, field) for one, field, *_ in found} == {(file, "newTag")}
    assert {says for *_, says in found} == {f"flux-system:{metadata['name']}:tag"}
    images = {image["name"] for image in yaml.safe_load(file.read_text())["images"]}
    assert images == OWN_IMAGES | THIRD_PARTY_IMAGES.keys()
    lines = file.read_text().splitlines()
    marked = {
        lines[n - 1].removeprefix("- name: ") for n, line in enumerate(lines) if MARK.match(line)
    }
    assert marked == OWN_IMAGES
    # What has another shape, Flux would not find.
    assert sum("$imagepolicy" in line for line in lines) == len(OWN_IMAGES)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("base", "overlays", "flux"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "write-tag", tmp_path / "scripts")
    return tmp_path


def tags(repository: Path, kubectl: str) -> dict[str, set[str]]:
    """Return the tags of our images and the names of the Jobs in every overlay."""
    found: dict[str, set[str]] = {}
    for folder in overlays():
        manifests = Manifests(parse(render(repository / "overlays" / folder.name, kubectl)))
        images = [c.spec["image"] for w in manifests.workloads for c in w.containers]
        ours = {split(image)[2] for image in images if split(image)[1] in OWN_IMAGES}
        jobs = {str(job["metadata"]["name"]).rpartition("-")[2] for job in manifests.kind("Job")}
        found[folder.name] = ours | jobs
    return found


def set_marked(repository: Path) -> None:
    """Do what image-automation-controller does with the marks."""
    file = repository / "base" / "kustomization.yaml"
    file.write_text(MARK.sub(rf"\g<1>{NEW}\g<4>", file.read_text()))


def test_what_flux_writes_gets_into_every_overlay(repository: Path, kubectl: str) -> None:
    set_marked(repository)
    expected = {NEW, NEW.partition("-")[2]}
    assert tags(repository, kubectl) == {folder.name: expected for folder in overlays()}


def test_make_images_writes_the_same_and_keeps_the_marks(repository: Path) -> None:
    file = repository / "base" / "kustomization.yaml"
    before = file.read_text()
    set_marked(repository)
    expected = file.read_text()
    file.write_text(before)
    command = [str(repository / "scripts" / "write-tag"), NEW]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert file.read_text() == expected
    assert "commit it" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (file.read_text(), again.stdout) == (expected, "")


@pytest.mark.parametrize("tag", ["latest", "1.2.3", "1.2.3-0123", "", "1.2.3-0123456789ab/x"])
def test_only_a_tag_of_ours_is_written(repository: Path, tag: str) -> None:
    file = repository / "base" / "kustomization.yaml"
    before = file.read_text()
    command = [str(repository / "scripts" / "write-tag"), tag]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "VERSION-GITHASH" in done.stderr
    assert file.read_text() == before
