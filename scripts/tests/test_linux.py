"""The README says Linux: elsewhere one line says so, and no error of a shell or of sed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
CALLED = sorted(
    {
        name
        for page in PAGES
        for name in re.findall(r"\bscripts/[a-z-]+\b(?![./])", page.read_text())
        if (ROOT / name).is_file() and "bash" in (ROOT / name).read_text().partition("\n")[0]
    }
)


@pytest.mark.parametrize("command", ["make", "scripts/bootstrap", "scripts/push", *CALLED])
def test_another_system_is_told_in_one_line(tmp_path: Path, command: str) -> None:
    uname = tmp_path / "uname"
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    done = subprocess.run(
        [command if command == "make" else ROOT / command],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert re.fullmatch(r".*Linux is needed: README\.md.*\n", done.stdout + done.stderr)
