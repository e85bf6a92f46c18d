"""The hook checks what is pushed, and nothing leaves that Flux could not apply."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
# Stands in for the real one, which test_broken.py tests: refuses a commit with a file called bad.
VALIDATE: Final = """#!/bin/sh
echo "validate $*" >>calls
git cat-file -e "$2:bad" 2>/dev/null && { echo "bad: refused"; exit 1; }
exit 0
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with the hook, and another one to push to."""
    git(tmp_path, "init", "--quiet", "--bare", "there")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", "here")
    folder = tmp_path / "here"
    shutil.copytree(ROOT / "scripts" / "hooks", folder / "scripts" / "hooks")
    (folder / "scripts" / "validate").write_text(VALIDATE)
    (folder / "scripts" / "validate").chmod(0o755)
    git(folder, "config", "core.hooksPath", "scripts/hooks")
    git(folder, "remote", "add", "origin", str(tmp_path / "there"))
    commit(folder, "good")
    return folder


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def commit(folder: Path, name: str) -> str:
    (folder / name).write_text(name)
    git(folder, "add", "--all", "--", name, "scripts")
    git(folder, "commit", "--quiet", f"--message={name}")
    return git(folder, "rev-parse", "HEAD").stdout.strip()


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []


def pushed(folder: Path) -> set[str]:
    return set(git(folder, "ls-remote", "--heads", "origin").stdout.split()[1::2])


def test_a_good_commit_is_checked_and_pushed(clone: Path) -> None:
    head = git(clone, "rev-parse", "HEAD").stdout.strip()
    assert git(clone, "push", "--quiet", "origin", "main").returncode == 0
    assert calls(clone) == [f"validate --commit {head}"]
    assert pushed(clone) == {"refs/heads/main"}


def test_a_bad_commit_stays_here_with_the_reason(clone: Path) -> None:
    head = commit(clone, "bad")
    done = git(clone, "push", "origin", "main")
    assert done.returncode != 0
    assert "bad: refused" in done.stderr
    assert f"not pushed: Flux could not apply {head[:12]}" in done.stderr
    assert pushed(clone) == set()


def test_what_is_not_committed_is_not_looked_at(clone: Path) -> None:
    (clone / "bad").write_text("not yet")
    assert git(clone, "push", "--quiet", "origin", "main").returncode == 0


def test_one_commit_on_two_branches_is_checked_once(clone: Path) -> None:
    assert git(clone, "push", "--quiet", "origin", "main", "main:other").returncode == 0
    assert len(calls(clone)) == 1


def test_deleting_a_branch_and_pushing_a_tag_need_no_check(clone: Path) -> None:
    git(clone, "push", "--quiet", "--no-verify", "origin", "main", "main:other")
    git(clone, "tag", "v1")
    assert git(clone, "push", "--quiet", "origin", "v1", ":other").returncode == 0
    assert calls(clone) == []
    assert pushed(clone) == {"refs/heads/main"}


def test_the_user_may_do_without_once(clone: Path) -> None:
    commit(clone, "bad")
    assert git(clone, "push", "--quiet", "--no-verify", "origin", "main").returncode == 0
