"""Notes which tests start programs: ``pytest -p services.testing.touched`` for scripts/test-bare.

Only these can tell whether something is installed. They are added one a line to
``var/touched.txt``. Services that Python runs do not count: they start nothing of others.
"""

import sys
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

_FILE: Final = Path("var", "touched.txt")

_tests: set[str] = set()
_fixtures: set[str] = set()
# A fixture that is made once touches every test that uses it.
_uses: defaultdict[str, set[str]] = defaultdict(set)
_being_made: list[str] = []
_current: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "subprocess.Popen" or not _current:
        return
    words = list(map(str, arguments[1])) if isinstance(arguments[1], list | tuple) else []
    if words[:2] == [sys.executable, "-m"] and words[2].startswith("services."):
        return
    _tests.update(_current)
    _fixtures.update(_being_made)


def pytest_configure() -> None:
    """Watch from now on."""
    sys.addaudithook(_note)
    ask = pytest.FixtureRequest.getfixturevalue

    def getfixturevalue(self: pytest.FixtureRequest, argname: str) -> Any:
        for test in _current:
            _uses[test].add(argname)
        return ask(self, argname)

    pytest.FixtureRequest.getfixturevalue = getfixturevalue  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note what is started while the test runs, its fixtures included."""
    _uses[item.nodeid].update(getattr(item, "fixturenames", ()))
    _current.append(item.nodeid)
    try:
        return (yield)
    finally:
        _current.clear()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any],
) -> Generator[None, object, object]:
    """Note what is started while a fixture is made."""
    _being_made.append(fixturedef.argname)
    try:
        return (yield)
    finally:
        _being_made.pop()


def pytest_sessionfinish() -> None:
    """Add them to the list."""
    found = _tests | {test for test, names in _uses.items() if names & _fixtures}
    _FILE.parent.mkdir(exist_ok=True)
    with _FILE.open("a") as file:
        file.writelines(f"{test}\n" for test in sorted(found))
