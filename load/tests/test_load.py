"""The load of ``make load`` on the real pipeline, and the verdict on what comes of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from load.promises import PROMISES, Promise
from services.testing.pipeline import running

ROOT = Path(__file__).resolve().parents[2]


def load(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run as ``make load`` does, but for a shorter time."""
    recipe = (ROOT / "Makefile").read_text().partition("\nload:")[2].partition("\n\n")[0]
    command = recipe.partition(" $(python) ")[2].replace("\\\n", " ").split()
    words = {
        "var/load.html": str(folder / "load.html"),
        "$(ARGS)": "--run-time=20s --spawn-rate=10",
    }
    return subprocess.run(
        [sys.executable, *" ".join(words.get(word, word) for word in command).split()],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_load_is_answered_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "pipeline", with_keys=True) as pipeline:
        key = pipeline.administrator_key
        addresses = {"FACESTACK_URL": pipeline.api_url, "FACESTACK_PAGE": pipeline.page_url}
        done = load(tmp_path, FACESTACK_KEY=key, **addresses)
        said = done.stdout + done.stderr
        headers = {"Authorization": f"Bearer {key}"}
        left = httpx.get(f"{pipeline.api_url}/images", headers=headers).json()["images"]
    for promise in PROMISES:
        assert re.search(rf"^{promise.of}: [\d.]+% of [1-9]\d*, ", said, re.MULTILINE), said
    assert "Error report" not in said, said
    assert not left
    assert "page" in (tmp_path / "load.html").read_text()


def test_nobody_at_the_address_is_a_failure(tmp_path: Path, unused_tcp_port: int) -> None:
    done = load(tmp_path, FACESTACK_URL=f"http://127.0.0.1:{unused_tcp_port}", FACESTACK_PAGE="")
    assert done.returncode == 1
    assert "Connection refused" in done.stdout + done.stderr


@pytest.mark.parametrize("url", ["", "localhost:8000"])
def test_an_address_that_is_none_is_told(tmp_path: Path, url: str) -> None:
    done = load(tmp_path, FACESTACK_URL=url, FACESTACK_PAGE="")
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"load: URL is {url!r}: say make load URL=http://... [PAGE=http://...]\n"
    )


@pytest.mark.parametrize(
    ("times", "failures", "kept"),
    [
        ({}, 0, 0),
        ({10: 3, 300: 1}, 0, 4),
        ({300: 1, 301: 1}, 0, 1),
        ({10: 3}, 1, 2),
        ({400: 3}, 3, 0),
    ],
)
def test_a_promise_is_kept_by_what_was_answered_in_time(
    times: dict[int, int], failures: int, kept: int
) -> None:
    assert Promise("pages", "page", 0.99, 300).kept(times, failures) == kept
