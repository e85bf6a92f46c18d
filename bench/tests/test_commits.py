import io
from pathlib import Path

from rich.console import Console

from bench import commits


def test_a_short_run_of_the_commits_compares_every_reader(tmp_path: Path) -> None:
    output = io.StringIO()
    commits.run(Console(file=output, width=110), tmp_path, short=True)
    cells = [line.split("│") for line in output.getvalue().splitlines()]
    failed = {row[1].strip(): row[3].strip() for row in cells if len(row) > 3}
    assert failed["nobody"] == failed["a reader of /status"] == "0"
