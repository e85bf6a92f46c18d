"""docs/reliability.md names a test for each promise, and the test exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
NAMED = re.compile(r"`([\w./-]+\.py)::(\w+)`")


def functions_of(file: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(PAGE))))
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    assert name in functions_of(ROOT / file)


def test_every_promise_has_a_test() -> None:
    table = PAGE.partition("## Promises")[2].partition("\n## ")[0]
    promises = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(promises) > 10
    held = [line for line in promises if NAMED.search(line) or "| the same" in line]
    assert held == promises
