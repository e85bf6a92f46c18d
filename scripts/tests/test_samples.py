"""Files that tests and the demo download are got again when they are not as they should be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.testing import samples

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with the scripts and all that they have got, and no network."""
    copied = ("scripts/get-samples", "scripts/get-embedder", "requirements/samples.txt")
    photos = (samples.sample("astronaut.png"), samples.sample("grace_hopper.jpg"))
    models = (samples.weights("centerface.onnx"), samples.embedder())
    for file in [*(ROOT / name for name in copied), *photos, *models]:
        there = tmp_path / file.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, there)
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'no network' >&2; exit 1\n")
    npm.chmod(0o755)
    return tmp_path


def run(clone: Path, script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable] if script == "get-samples" else []
    environment = os.environ | {
        "PATH": f"{clone}/bin:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    return subprocess.run(
        [*command, str(clone / "scripts" / script)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "file"),
    [
        ("get-samples", "samples/astronaut.png"),
        ("get-samples", "models/centerface.onnx"),
        ("get-embedder", "models/embedder.onnx"),
    ],
)
def test_a_file_that_was_cut_off_or_changed_is_got_again(
    clone: Path, script: str, file: str
) -> None:
    done = run(clone, script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    whole = (clone / "var" / file).read_bytes()
    for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
        (clone / "var" / file).write_bytes(damaged)
        done = run(clone, script)
        assert done.returncode == 1
        assert f"{script}: could not download" in done.stderr
