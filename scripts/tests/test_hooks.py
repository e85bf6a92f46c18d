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
# Stands in for the Python that looks for secrets: refuses a folder with a file called readable.
PYTHON: Final = """#!/bin/sh
echo "python $*" >>calls
[ ! -e readable ] || { echo "readable: has a private key"; exit 1; }
"""
LOOK: Final = "python -m scripts.secrets --check"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with the hook, and another one to push to."""
    git(tmp_path, "init", "--quiet", "--bare", "there")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", "here")
    folder = tmp_path / "here"
    shutil.copytree(ROOT / "scripts" / "hooks", folder / "scripts" / "hooks")
    for name, text in (("scripts/validate", VALIDATE), (".venv/bin/python", PYTHON)):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
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
    assert calls(clone) == [LOOK, f"validate --commit {head}"]
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
    assert len(calls(clone)) == 2


def test_deleting_a_branch_needs_no_check_and_a_tag_only_that_for_secrets(clone: Path) -> None:
    git(clone, "push", "--quiet", "--no-verify", "origin", "main", "main:other")
    assert git(clone, "push", "--quiet", "origin", ":other").returncode == 0
    assert calls(clone) == []
    assert pushed(clone) == {"refs/heads/main"}
    git(clone, "tag", "v1")
    assert git(clone, "push", "--quiet", "origin", "v1").returncode == 0
    assert calls(clone) == [LOOK]


@pytest.mark.parametrize("ref", ["main", "v1"])
def test_a_secret_that_can_be_read_stays_here_with_its_place(clone: Path, ref: str) -> None:
    git(clone, "tag", "v1")
    (clone / "readable").write_text("")
    done = git(clone, "push", "origin", ref)
    assert done.returncode != 0
    assert "readable: has a private key" in done.stderr
    assert "not pushed: mend the secrets first, as said above" in done.stderr
    assert calls(clone) == [LOOK]
    assert git(clone, "ls-remote", "origin").stdout == ""


def test_without_what_looks_for_secrets_nothing_is_pushed(clone: Path) -> None:
    (clone / ".venv" / "bin" / "python").unlink()
    done = git(clone, "push", "origin", "main")
    assert done.returncode != 0
    assert "pre-push: run 'make venv-dev' first" in done.stderr
    assert pushed(clone) == set()


def test_the_user_may_do_without_once(clone: Path) -> None:
    commit(clone, "bad")
    assert git(clone, "push", "--quiet", "--no-verify", "origin", "main").returncode == 0
