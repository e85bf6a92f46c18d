import io
from pathlib import Path

import pytest
from rich.console import Console

from scripts.bench import commits


def test_a_short_run_of_the_commits_compares_every_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "_ROUNDS", 1)
    output = io.StringIO()
    commits.run(Console(file=output, width=110), tmp_path, rows=1000, seconds=0.3)
    cells = [line.split("│") for line in output.getvalue().splitlines()]
    failed = {row[1].strip(): row[3].strip() for row in cells if len(row) > 3}
    assert failed["nobody"] == failed["a reader of /status"] == "0"
