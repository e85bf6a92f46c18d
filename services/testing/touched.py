"""Notes which tests start programs: ``pytest -p services.testing.touched`` for scripts/test-bare.

Only these can tell whether something is installed, and of tests that start the same at the same
place one tells as much as all: of each file one is noted for each set of fixtures that start
something, and of each function that does so itself one for each set of programs. They are added
one a line to ``var/touched.txt``. The services and the command ``facestack`` do not count: of them
backup alone starts programs of others.
"""

import sys
from collections import defaultdict
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

_FILE: Final = Path("var", "touched.txt")

_programs: defaultdict[str, set[str]] = defaultdict(set)
_fixtures: set[str] = set()
# A fixture that is made once touches every test that uses it.
_uses: defaultdict[str, set[str]] = defaultdict(set)
_being_made: list[str] = []
_current: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "subprocess.Popen" or not _current:
        return
    command = arguments[1]
    words = list(map(str, command)) if isinstance(command, list | tuple) else [str(command)]
    # Whatever starts it: setpriv, env.
    if "facestack" in words or any(
        option == "-m" and module.startswith("services.") and module != "services.backup"
        for option, module in pairwise(words)
    ):
        return
    _fixtures.update(_being_made)
    if not _being_made:
        for test in _current:
            _programs[test].add(Path(words[0]).name)


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
    """Add them to the list, in one write, as several sessions may do so at once."""
    found: dict[object, str] = {}
    for test, names in sorted(_uses.items()):
        file, _, function = test.partition("[")[0].partition("::")
        made, programs = frozenset(names & _fixtures), frozenset(_programs[test])
        if made or programs:
            key = (file, made, function if programs else "", programs)
            found.setdefault(key, test)
    _FILE.parent.mkdir(exist_ok=True)
    with _FILE.open("ab", buffering=0) as listed:
        listed.write("".join(f"{test}\n" for test in found.values()).encode())
