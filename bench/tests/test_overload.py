import io
from pathlib import Path

from rich.console import Console

from bench import overload


def test_what_is_too_much_is_refused_and_the_rest_accepted(tmp_path: Path) -> None:
    output = io.StringIO()
    found = overload.run(Console(file=output, width=110), tmp_path, short=True)
    assert "2x" in output.getvalue()
    for answers in found:
        assert set(answers.of) <= {202, 429}
        assert answers.count(202) > 0
        assert answers.without_retry_after == 0
