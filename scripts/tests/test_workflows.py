"""What GitHub runs is what runs here, and a fault in a workflow is seen before it is pushed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from services.testing.servers import find_binary

ROOT: Final = Path(__file__).parents[2]
WORKFLOWS: Final = ROOT / ".github" / "workflows"

TESTED: Final = {
    ".ci/run": "CI itself",
    "make": "CI itself",
    "scripts/propose": "scripts/tests/test_propose.py",
    "scripts/release": "scripts/tests/test_release.py",
}
"""What steps run, and what runs it here."""

GITHUB_ALONE: Final = {
    'cat diff.md >>"$GITHUB_STEP_SUMMARY"',
    """printf 'text<<END-OF-DIFF\\n%s\\nEND-OF-DIFF\\n' "$(cat diff.md)" >>"$GITHUB_OUTPUT\"""",
    'gh pr comment "$NUMBER" --edit-last --create-if-none --body-file - <<<"$TEXT"',
    ".github/log-in",
}
"""Steps that nothing else can run."""


def test_every_step_runs_here_or_is_only_for_github() -> None:
    steps = {
        step["run"].strip()
        for file in WORKFLOWS.glob("*.yaml")
        for job in yaml.safe_load(file.read_text())["jobs"].values()
        for step in job["steps"]
        if "run" in step
    }
    assert steps >= GITHUB_ALONE
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    for step in steps - GITHUB_ALONE:
        program, *arguments = step.removeprefix('sudo env "PATH=$PATH" ').split()
        assert program in TESTED, step
        if program == "make":
            named = {word for word in arguments if re.fullmatch("[a-z][a-z-]*", word)}
            assert named
            assert named <= targets, step
    for test in TESTED.values():
        assert test == "CI itself" or (ROOT / test).is_file()


FAULTS: Final = {
    "an action by a tag": ("zizmor", "checks.yaml", r"checkout@\w+ # v6.0.2", "checkout@v6"),
    "a token that stays": (
        "zizmor",
        "diff.yaml",
        r"persist-credentials: false",
        "fetch-tags: true",
    ),
    "rights of everything": ("zizmor", "release.yaml", r"permissions: {}\n", ""),
    "text of others in a command": (
        "zizmor",
        "diff.yaml",
        r"make --silent diff",
        "make ${{ github.head_ref }}",
    ),
    "a cache for releases": ("zizmor", "checks.yaml", r"contents: read", "contents: write"),
    "a job that is not there": ("actionlint", "release.yaml", "needs: build", "needs: biuld"),
    "an output that is not there": (
        "actionlint",
        "diff.yaml",
        r"outputs\.text }}\n {6}run",
        "z }}\n      run",
    ),
    "a mistake in a command": (
        "actionlint",
        "diff.yaml",
        r"\$\(cat diff.md\)\"",
        '$(cat diff.md"',
    ),
}
"""What is wrong: who says so, the file, and what is written there in place of what."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_red(tmp_path: Path, fault: str) -> None:
    linter, name, right, wrong = FAULTS[fault]
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    file = tmp_path / ".github" / "workflows" / name
    text, number = re.subn(right, wrong, file.read_text(), count=1)
    assert number == 1
    file.write_text(text)
    (tmp_path / ".git").mkdir()  # actionlint looks for the repository's top
    assert _lint(linter, tmp_path) != 0


@pytest.mark.parametrize("linter", ["zizmor", "actionlint"])
def test_what_is_there_is_green(linter: str) -> None:
    assert _lint(linter, ROOT) == 0


def _lint(linter: str, folder: Path) -> int:
    """Run it in a folder as scripts/check does."""
    check = (ROOT / "scripts" / "check").read_text()
    [arguments] = re.findall(rf"^ *check (?:\S*/)?{linter}(.*)$", check, re.MULTILINE)
    program = find_binary(linter) if linter == "actionlint" else ROOT / ".venv" / "bin" / linter
    return subprocess.run(
        [program, *arguments.split()], cwd=folder, capture_output=True, check=False
    ).returncode
