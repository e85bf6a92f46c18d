"""What base/checks.yaml says that fields of the pipeline must be.

Only what neither kube-score, checkov, Pod Security nor a schema asks for stands there.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from scripts.manifests.model import Document, Finding, Manifests, title

FILE: Final = Path(__file__).parents[3] / "base" / "checks.yaml"
Line: TypeAlias = dict[str, Any]

_STEP: Final = re.compile(r"\[([^\]]+)\]|([^.\[]+)")


@cache
def checks() -> dict[str, list[Line]]:
    """Return what the file says, by section."""
    found: dict[str, list[Line]] = yaml.load(FILE.read_text(), yaml.CSafeLoader)
    return found


def said(value: Any) -> str:
    """Return how a message tells a field's value."""
    return "is missing" if value is None else f"is {value!r}"


def steps(field: str) -> list[str]:
    """Return the steps of a path, whose names stand between dots or in brackets."""
    return [bracketed or plain for bracketed, plain in _STEP.findall(field)]


def fields(manifests: Manifests) -> Iterator[Finding]:
    """Check that fields are what the file says."""
    for line in checks()["fields"]:
        for where, prefix, node in _nodes(manifests, line["of"]):
            for field, value in _values(node, steps(line["field"])):
                if not _fits(value, line):
                    why = f": {line['why']}" if "why" in line else ""
                    yield Finding(where, prefix + field, f"{said(value)}: {_wanted(line)}{why}")


def _nodes(manifests: Manifests, kinds: str) -> Iterator[tuple[str, str, Document]]:
    """Yield the objects of these kinds; or the pods or containers of all, where those are meant."""
    if kinds in {"pod", "container"}:
        for workload in manifests.workloads:
            if kinds == "pod":
                yield workload.title, f"{workload.field}.", dict(workload.pod)
            else:
                for container in workload.containers:
                    yield workload.title, f"{container.field}.", container.spec
        return
    for document in manifests.documents:
        if re.fullmatch(kinds, str(document.get("kind"))):
            yield title(document), "", document


def _values(node: Any, way: list[str], done: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and value of a field; [*] is each entry of a list that has what stands behind."""
    if not way:
        yield done.lstrip("."), node
    elif way[0] == "*":
        for index, entry in enumerate(node if isinstance(node, list) else []):
            if isinstance(entry, dict) and (len(way) < 3 or way[1] in entry):  # noqa: PLR2004
                yield from _values(entry, way[1:], f"{done}[{entry.get('name', index)}]")
    else:
        value = node.get(way[0]) if isinstance(node, dict) else None
        yield from _values(value, way[1:], f"{done}.{way[0]}")


def _fits(value: Any, line: Line) -> bool:
    if value is None and line.get("optional"):
        return True
    if "between" in line:
        low, high = line["between"]
        return type(value) is int and low <= value <= high
    if "matches" in line:
        return isinstance(value, str) and re.fullmatch(line["matches"], value) is not None
    # 1 is not true.
    return type(value) is type(line["is"]) and value == line["is"]


def _wanted(line: Line) -> str:
    if "between" in line:
        return "set {} to {}".format(*line["between"])
    if "matches" in line:
        return f"set what matches {line['matches']}"
    return "take it away" if line["is"] is None else f"set {line['is']}"
