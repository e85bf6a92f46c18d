"""What a workflow changes becomes a branch and one pull request for it."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
# Notes how it was called. A pull request is open once it was created.
GH: Final = """#!/bin/sh
echo "gh $*" >>"$CALLS"
case "$1 $2" in
  "pr create") touch "$CALLS.open" ;;
  "pr list") [ ! -e "$CALLS.open" ] || echo https://github.com/owner/facestack/pull/1 ;;
esac
"""
LIST: Final = "gh pr list --head {} --base main --state open --json url --jq .[].url"
CREATE: Final = (
    "gh pr create --head {} --base main --title A title"
    " --body Made by a workflow of this repository."
)


class Clone:
    """A clone of a repository, with a program in the place of gh."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.calls = folder / "calls"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", folder / "origin"], check=True)
        subprocess.run(["git", "clone", "-q", folder / "origin", self.root], check=True)
        for name, text in (("scripts/propose", ""), ("requirements/a.txt", "1"), ("bin/gh", GH)):
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_text(text)
        shutil.copy(ROOT / "scripts" / "propose", self.root / "scripts")
        (self.root / "bin" / "gh").chmod(0o755)
        self.git("add", "--all")
        self.git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "one")
        self.git("push", "-q", "origin", "HEAD:main")

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=self.root, check=True, capture_output=True, text=True
        ).stdout.strip()

    def propose(self, *arguments: str) -> list[str]:
        """Return what gh was asked for."""
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        self.calls.write_text("")
        subprocess.run(
            [self.root / "scripts" / "propose", *arguments],
            env={**os.environ, "PATH": path, "CALLS": str(self.calls)},
            check=True,
            capture_output=True,
        )
        return self.calls.read_text().splitlines()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_a_branch_that_is_there_becomes_one_pull_request(clone: Clone) -> None:
    asked = [LIST.format("image-updates"), CREATE.format("image-updates")]
    assert clone.propose("image-updates", "A title", "main") == asked
    assert clone.propose("image-updates", "A title", "main") == asked[:1]


def test_what_has_changed_becomes_the_commit_of_a_branch(clone: Clone) -> None:
    arguments = ("dependencies", "A title", "main", "requirements")
    (clone.root / "other.txt").write_text("not meant")
    assert clone.propose(*arguments) == []
    for content in ("2", "3"):
        clone.git("switch", "-q", "main")
        (clone.root / "requirements" / "a.txt").write_text(content)
        asked = clone.propose(*arguments)
        assert asked[:3] == [
            "gh auth setup-git",
            "gh workflow run checks.yaml --ref dependencies",
            LIST.format("dependencies"),
        ]
        assert (asked[3:] == [CREATE.format("dependencies")]) == (content == "2")
        assert clone.git("ls-remote", "origin", "dependencies").split()[0] == clone.git(
            "rev-parse", "HEAD"
        )
        assert clone.git("diff", "--name-only", "main", "HEAD") == "requirements/a.txt"
        assert clone.git("log", "--format=%s", "main..HEAD") == "A title"
