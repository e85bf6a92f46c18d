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

from scripts.programs import ROOT

FOLDER: Final = ROOT / "apps" / "image-updates" / "manifests"
DOCUMENTS: Final[dict[str, Any]] = {
    document["kind"]: document
    for file in ("policy.yaml", "automation.yaml")
    for document in yaml.safe_load_all((FOLDER / file).read_text())
}
POLICY: Final = DOCUMENTS["ImagePolicy"]
FILE: Final = Path("base/components/images/kustomization.yaml")
OVERLAYS: Final = sorted(file.parent.name for file in ROOT.glob("overlays/*/kustomization.yaml"))
OWN: Final = re.compile(r"image: (?:\$\{registry\}|facestack)/([a-z-]+):(\S+)$", re.MULTILINE)
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
    assert chosen([tag]) == {tag}


def test_the_policy_looks_at_the_image_that_is_pushed_last(kubectl: str) -> None:
    repository = DOCUMENTS["ImageRepository"]
    assert POLICY["spec"]["imageRepositoryRef"]["name"] == repository["metadata"]["name"]
    last = max(name for name, _ in images(ROOT, "aws", kubectl))
    assert repository["spec"]["image"] == f"${{registry}}/{last}"
    listed = subprocess.check_output([ROOT / "scripts" / "images", "--list"], text=True).split()
    assert listed[-1] == last


def images(repository: Path, overlay: str, kubectl: str) -> set[tuple[str, str]]:
    """Return name and tag of each image of ours in an overlay, without the registry."""
    command = [kubectl, "kustomize", str(repository / "overlays" / overlay)]
    return set(
        OWN.findall(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    )


def test_the_tag_of_our_images_is_marked_and_nothing_else() -> None:
    automation = DOCUMENTS["ImageUpdateAutomation"]["spec"]
    assert Path(automation["update"]["path"]) == FILE.parent
    text = (ROOT / FILE).read_text()
    [(_, field, _, _, says)] = MARK.findall(text)
    assert (field, says) == ("newTag", f"flux-system:{POLICY['metadata']['name']}:tag")
    [line] = [n for n, line in enumerate(text.splitlines()) if MARK.match(line)]
    assert text.splitlines()[line - 1] == "- name: facestack/.*"
    # What has another shape, Flux would not find.
    assert text.count("$imagepolicy") == 1


def test_where_new_images_go_is_a_fact_and_not_the_branch_itself() -> None:
    push = DOCUMENTS["ImageUpdateAutomation"]["spec"]["git"]["push"]
    assert push == {"branch": "${image_updates_branch}"}
    for folder in (ROOT / "flux" / "clusters").iterdir():
        if "image-updates" in (folder / "kustomization.yaml").read_text():
            facts = yaml.safe_load((folder / "cluster.yaml").read_text())["data"]
            assert facts["image_updates_branch"] == "image-updates"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("base", "overlays"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "scripts").mkdir()
    for script in ("scripts/image-tag", "scripts/images", "pyproject.toml", ".dockerignore"):
        shutil.copy(ROOT / script, tmp_path / script)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def tag(repository: Path, *option: str) -> subprocess.CompletedProcess[str]:
    """Call image-tag there, whose services are none."""
    command = [str(repository / "scripts" / "image-tag"), *option]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def set_marked(repository: Path, tag: str = NEW) -> None:
    """Do what image-automation-controller does with the marks."""
    file = repository / FILE
    file.write_text(MARK.sub(rf"\g<1>{tag}\g<4>", file.read_text()))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_flux_writes_gets_into_every_overlay(
    repository: Path, kubectl: str, overlay: str
) -> None:
    set_marked(repository)
    assert {tag for _, tag in images(repository, overlay, kubectl)} == {NEW}


def test_make_images_writes_the_same_and_keeps_the_marks(repository: Path) -> None:
    file = repository / FILE
    before = file.read_text()
    new = tag(repository).stdout.strip()
    set_marked(repository, new)
    expected = file.read_text()
    file.write_text(before)
    refused = tag(repository, "--check")
    assert (refused.returncode, file.read_text()) == (1, before)
    assert f", and the code is {new}: run 'make images', and commit it" in refused.stderr
    first = tag(repository, "--write")
    assert (first.returncode, file.read_text()) == (0, expected)
    assert "commit it" in first.stderr
    for option in ("--write", "--check"):
        again = tag(repository, option)
        assert (again.returncode, again.stdout, again.stderr) == (0, f"{new}\n", "")
    assert file.read_text() == expected


@pytest.mark.parametrize("version", ["latest", "1.2", "1.2.3rc1", "", "1.2.3/x"])
def test_only_a_tag_of_ours_is_written(repository: Path, version: str) -> None:
    file = repository / FILE
    before = file.read_text()
    (repository / "pyproject.toml").write_text(f'version = "{version}"\n')
    done = tag(repository, "--write")
    assert done.returncode == 1
    assert "VERSION-GITHASH" in done.stderr
    assert file.read_text() == before


def test_a_manifest_that_has_no_place_for_it_is_refused(repository: Path) -> None:
    file = repository / FILE
    file.write_text(file.read_text().replace("- name: facestack/", "- name: another/"))
    done = tag(repository, "--write")
    assert done.returncode == 1
    assert "has no image 'facestack/...'" in done.stderr
