"""Files that tests and the demo download are got again when they are not as they should be."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from services.testing import samples

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with the scripts and all that they have got, and no network."""
    copied = ("scripts/get-samples", "requirements/samples.txt")
    photos = (samples.sample("astronaut.png"), samples.sample("grace_hopper.jpg"))
    models = (samples.weights("centerface.onnx"), samples.embedder())
    for file in [*(ROOT / name for name in copied), *photos, *models]:
        there = tmp_path / file.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, there)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'no network' >&2; exit 1\n")
    npm.chmod(0o755)
    return tmp_path


def run(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PATH": f"{clone}/bin:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    return subprocess.run(
        [clone / "scripts/get-samples", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ([], "samples/astronaut.png"),
        ([], "models/centerface.onnx"),
        (["embedder"], "models/embedder.onnx"),
    ],
)
def test_a_file_that_was_cut_off_or_changed_is_got_again(
    clone: Path, arguments: list[str], file: str
) -> None:
    done = run(clone, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    whole = (clone / "var" / file).read_bytes()
    for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
        (clone / "var" / file).write_bytes(damaged)
        done = run(clone, *arguments)
        assert done.returncode == 1
        assert f"get-samples: could not download what holds {file}" in done.stderr
        assert not list((clone / "var").glob("get-samples.*"))
