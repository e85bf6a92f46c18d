"""Holds what names and errors mean: one class a name, and every error away or refused."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

SERVICES: Final = Path(__file__).parents[2] / "services"
BRANCHES: Final = {"AwayError", "RefusedError"}

READ_OVER_HTTP: Final = ("services/receiver/", "services/frontend/")
"""The frontend's models of the receiver's documents are the same thing, read over HTTP."""

NEITHER: Final = {
    "AwayError": "the branch itself",
    "RefusedError": "the branch itself",
    "ObjectStoreError": "whatever the object store says, of either branch",
    "NotDoneError": "whatever the frontend's receiver did not do, of either branch",
}
"""Errors that are below neither branch, and why."""

Class = tuple[str, ast.ClassDef]
"""Where it is defined, and its definition."""


def test_a_name_of_a_class_has_one_meaning() -> None:
    places = defaultdict[str, list[str]](list)
    for file, one in classes():
        if not one.name.startswith("_"):
            places[one.name].append(f"{file}:{one.lineno}")
    assert len(places) > 300, "it looks for classes where there are none"
    several = {
        name: where
        for name, where in places.items()
        if len(where) > 1 and not _is_read_over_http(where)
    }
    assert not several, "\n" + "\n".join(
        f"{name}: {', '.join(where)}" for name, where in sorted(several.items())
    )


def test_every_error_is_away_or_refused() -> None:
    bases = {one.name: _bases(one) for _, one in classes()}
    stray = [
        f"{one.name}: {file}:{one.lineno}"
        for file, one in classes()
        if not one.name.startswith("_")
        and one.name not in NEITHER
        and any(name.endswith(("Error", "Exception")) for name in _above(one, bases))
        and BRANCHES.isdisjoint(_above(one, bases))
    ]
    assert not stray, "\n" + "\n".join(sorted(stray))


def classes() -> Iterator[Class]:
    """Yield every class at the top of a module of the services that is neither test nor made."""
    for path in sorted(SERVICES.rglob("*.py")):
        if "tests" in path.parts or path.stem.endswith(("_pb2", "_pb2_grpc")):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                yield str(path.relative_to(SERVICES.parent)), node


def _is_read_over_http(where: list[str]) -> bool:
    return len(where) == len(READ_OVER_HTTP) and all(
        any(one.startswith(service) for one in where) for service in READ_OVER_HTTP
    )


def _above(one: ast.ClassDef, bases: Mapping[str, list[str]]) -> set[str]:
    found = set[str]()
    left = _bases(one)
    while left:
        name = left.pop()
        found.add(name)
        left += bases.get(name, ())
    return found


def _bases(one: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).rpartition(".")[2] for base in one.bases]
