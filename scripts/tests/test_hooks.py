"""The hooks check what is committed and pushed, and nothing leaves that Flux could not apply."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
# Stand in for the real ones, which have tests of their own: they refuse what has a file called bad.
VALIDATE: Final = """#!/bin/sh
echo "$*" >>calls
git cat-file -e "$4:bad" 2>/dev/null && { echo "bad: refused"; exit 1; }
exit 0
"""
LEAKS: Final = """#!/bin/sh
echo "leaks $*" >>calls
[ ! -e readable ] || { echo "readable: has a private key"; exit 1; }
"""
STAGED: Final = "leaks --staged"
VALIDATED: Final = "-m scripts.gitops.checks --commit"
PUSHED: Final = "leaks --branches --tags HEAD --not --remotes"


class Clone:
    """A repository with the hooks, and another one to push to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet", "--bare", "../there")
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("remote", "add", "origin", "../there")
        shutil.copy(ROOT / ".pre-commit-config.yaml", root)
        for name, text in ((".venv/bin/python", VALIDATE), ("scripts/leaks", LEAKS)):
            file = root / name
            file.parent.mkdir(parents=True)
            file.write_text(text)
            file.chmod(0o755)
        # What `make hooks` does.
        install = [sys.executable, "-m", "pre_commit", "install"]
        subprocess.run(install, cwd=root, env=self._environment(), check=True, capture_output=True)
        self.commit("good")

    def _environment(self) -> dict[str, str]:
        return os.environ | {"PRE_COMMIT_HOME": str(self.root / ".git" / "pre-commit")}

    def git(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        return subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.root,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def commit(self, name: str) -> str:
        (self.root / name).write_text("x  = 1\n")
        self.git("add", name, ".pre-commit-config.yaml", "scripts")
        self.git("commit", "--quiet", f"--message={name}")
        return self.git("rev-parse", "HEAD").stdout.strip()

    def calls(self) -> list[str]:
        """Return what the hooks called since the last time."""
        file = self.root / "calls"
        text = file.read_text() if file.exists() else ""
        file.unlink(missing_ok=True)
        return text.splitlines()

    def pushed(self) -> set[str]:
        return set(self.git("ls-remote", "origin").stdout.split()[1::2]) - {"HEAD"}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    (tmp_path / "here").mkdir()
    return Clone(tmp_path / "here")


def test_a_good_commit_is_checked_and_pushed(clone: Clone) -> None:
    assert clone.calls() == [STAGED]
    assert clone.git("push", "--quiet", "origin", "main").returncode == 0
    assert clone.calls() == [PUSHED, f"{VALIDATED} HEAD"]
    head = clone.commit("more")
    assert clone.git("push", "--quiet", "origin", "main").returncode == 0
    assert clone.calls() == [STAGED, PUSHED, f"{VALIDATED} {head}"]
    assert clone.pushed() == {"refs/heads/main"}
    clone.git("push", "--quiet", "--no-verify", "origin", "main:other")
    assert clone.git("push", "--quiet", "origin", ":other").returncode == 0
    assert clone.calls() == []


def test_a_bad_commit_stays_here_with_the_reason(clone: Clone) -> None:
    clone.commit("bad")
    done = clone.git("push", "origin", "main")
    assert done.returncode != 0
    assert "bad: refused" in done.stdout + done.stderr
    assert clone.pushed() == set()
    assert clone.git("push", "--quiet", "--no-verify", "origin", "main").returncode == 0


def test_what_is_not_committed_is_not_looked_at(clone: Clone) -> None:
    (clone.root / "bad").write_text("not yet")
    assert clone.git("push", "--quiet", "origin", "main").returncode == 0


def test_a_secret_that_can_be_read_stays_here_with_its_place(clone: Clone) -> None:
    clone.git("tag", "v1")
    head = clone.git("rev-parse", "HEAD").stdout
    (clone.root / "readable").write_text("")
    for reference in ("main", "v1"):
        done = clone.git("push", "origin", reference)
        assert done.returncode != 0
        assert "readable: has a private key" in done.stdout + done.stderr
    clone.commit("more")
    assert clone.git("rev-parse", "HEAD").stdout == head
    assert clone.pushed() == set()


def test_what_is_not_formatted_is_not_committed(clone: Clone) -> None:
    (clone.root / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
    (clone.root / ".venv" / "bin" / "ruff").symlink_to(Path(sys.executable).parent / "ruff")
    head = clone.git("rev-parse", "HEAD").stdout
    clone.commit("one.py")
    assert clone.git("rev-parse", "HEAD").stdout == head
