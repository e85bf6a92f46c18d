"""docs/client.md, word for word: each command, and what it prints."""

import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from services.client.tests.conftest import without_waiting

ROOT = Path(__file__).parents[3]
BOX = re.compile(r"(?<= at )(\d+),(\d+) to (\d+),(\d+)(?= of )")
PIXELS = 2
"""Processors do not add in the same order, so a box may round to other pixels."""


def told(text: str) -> list[tuple[str, list[str]]]:
    """The commands and their output, in which lines of files that are sent at once may change."""
    blocks = "".join(re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    commands = [part.splitlines() for part in re.split(r"^\$ ", blocks, flags=re.MULTILINE)[1:]]
    return [(lines[0], sorted(lines[1:])) for lines in commands]


def boxes(lines: list[str]) -> list[int]:
    """The corners of all boxes."""
    return [int(number) for line in lines for box in BOX.findall(line) for number in box]


def test_every_command_of_the_docs_does_what_they_say(
    environment: dict[str, str], tmp_path: Path, grace: Image.Image, eileen: Image.Image
) -> None:
    grace.save(tmp_path / "grace.jpg", quality=90)
    eileen.save(tmp_path / "eileen.jpg", quality=90)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "notes.txt").write_text("sun cream")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "holiday" / "beach.png")
    expected = told((ROOT / "docs" / "client.md").read_text())
    assert len(expected) > 10
    for command, output in expected:
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = sorted(without_waiting(done.stdout).splitlines())
        assert boxes(lines) == pytest.approx(boxes(output), abs=PIXELS)
        assert (command, [BOX.sub("", line) for line in lines]) == (
            *(command, [BOX.sub("", line) for line in output]),
        )
        assert done.returncode == 0
