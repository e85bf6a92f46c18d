"""The page of licences is of today, and nothing is on it that nobody has allowed."""

import fnmatch
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/licences.md").read_text()
TABLES: Final = {
    section.partition("\n")[0]: [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| ")
    ][1:]
    for section in PAGE.split("\n## ")
}
"""The rows of each section of the page."""
SAID: Final[dict[str, str]] = {
    canonicalize_name(row[0]): row[2] for row in TABLES["Python distributions"]
}
EXCEPTIONS: Final = {row[0]: row[1] for row in TABLES["Where metadata is not the whole truth"]}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what writes the page, in which ``made-up`` is locked, too."""
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    for name in ("docs", "scripts"):
        (tmp_path / name).mkdir()
    for name in ("docs/licences.md", "pyproject.toml", "scripts/licences"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    with (tmp_path / "requirements/people.txt").open("a") as lock:
        lock.write("made-up==1.0 \\\n    --hash=sha256:0\n")
    return tmp_path


def write(copy: Path, metadata: str | None = None) -> tuple[int, str]:
    """Write the page where ``made-up`` has this metadata, or is not installed."""
    if metadata is not None:
        file = copy / "site/made_up-1.0.dist-info/METADATA"
        file.parent.mkdir(parents=True)
        file.write_text(f"Metadata-Version: 2.4\nName: made-up\nVersion: 1.0\n{metadata}\n")
    done = subprocess.run(
        [copy / "scripts/licences"],
        env=os.environ | {"PYTHONPATH": str(copy / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_the_page_is_of_today(copy: Path) -> None:
    assert write(copy) == (0, "")
    assert (copy / "docs/licences.md").read_text() == PAGE, "run 'make licences'"


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT", "MIT"),
        ("License-Expression: MIT\nLicense: GPL-3.0-only", "MIT"),
        ("License: MIT", "MIT"),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT License"),
    ],
)
def test_a_licence_is_read_from_the_metadata(copy: Path, metadata: str, licence: str) -> None:
    assert write(copy, metadata) == (0, "")
    row = rf"^\| made-up +\| 1.0 +\| {licence} +\|$"
    assert re.search(row, (copy / "docs/licences.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: GPL-3.0-only", "GPL-3.0-only"),
        ("License-Expression: MIT AND GPL-2.0-only", "MIT AND GPL-2.0-only"),
        ("License: GPL-3.0-only", "GPL-3.0-only"),
        ("License: Free for all", "Free for all"),
        ("", "UNKNOWN"),
    ],
)
def test_what_nobody_has_allowed_is_refused_and_nothing_is_written(
    copy: Path, metadata: str, licence: str
) -> None:
    code, said = write(copy, metadata)
    assert code == 1
    assert f"license {licence} not in allow-only licenses was found for package made-up:1.0" in said
    assert "licences: read its licence, then allow that in pyproject.toml" in said
    assert (copy / "docs/licences.md").read_text() == PAGE


def test_all_that_is_given_to_others_is_on_the_page() -> None:
    files = {file.stem: file.read_text() for file in (ROOT / "requirements").glob("*.txt")}
    locked = {
        name
        for lock in files.keys() - {"dev", "samples", "uv"}
        for name in re.findall(r"^(\S+)==", files[lock], re.MULTILINE)
    }
    assert locked == SAID.keys() | EXCEPTIONS.keys()


def test_metadata_says_what_it_said_when_the_exceptions_were_read() -> None:
    ignored = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pip-licenses"]
    versions = dict(pin.split(":") for pin in ignored["ignore-packages"])
    for name, said in EXCEPTIONS.items():
        now = SAID.get(name, f"nothing, in {versions.get(name)}")
        assert said == now, f"the metadata of {name} has changed: read it, and correct the page"


def test_what_else_comes_from_elsewhere_is_on_the_page() -> None:
    listed = [row[0].strip("`") for row in TABLES["What else comes from elsewhere"]]
    ls = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "*.onnx", "*.dat", "*.png"]
    files = subprocess.check_output(ls, cwd=ROOT, text=True).split()
    images = subprocess.check_output(
        [ROOT / "e2e/no-registry/images/build", "--list"], text=True
    ).splitlines()
    names = [line.split()[1] for line in images]
    assert files
    assert names
    for one in [*files, *names]:
        assert any(fnmatch.fnmatch(one, what) or one.startswith(f"{what}:") for what in listed), one
