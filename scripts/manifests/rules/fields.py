"""What base/checks.yaml says that fields must be.

Only what neither kube-score, Pod Security nor a schema asks for stands there.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from scripts.manifests.model import Document, Finding, Manifests, Workload, at, mapping, title

_FILE: Final = Path(__file__).parents[3] / "base" / "checks.yaml"
Line: TypeAlias = dict[str, Any]

_STEP: Final = re.compile(r"\[((?:[^][]|\[[^]]*\])+)\]|([^.[]+)")


@cache
def checks() -> dict[str, list[Line]]:
    """Return what the file says, by section."""
    found: dict[str, list[Line]] = yaml.load(_FILE.read_text(), yaml.CSafeLoader)
    return found


def said(value: Any) -> str:
    """Return how a message tells a field's value."""
    return "is missing" if value is None else f"is {value!r}"


def check(section: str, manifests: Manifests) -> Iterator[Finding]:
    """Check what a section of the file says."""
    for line in checks()[section]:
        kind, path = line.get("if", (None, ""))
        if kind and all(at(one, path) is None for one in manifests.kind(kind)):
            continue
        steps = [bracketed or plain for bracketed, plain in _STEP.findall(line["field"])]
        for document, prefix, node in _parts(manifests, line["of"]):
            if mapping(document, "metadata.annotations").get(line.get("unless", "")):
                continue
            for field, value, parent in _values(node, steps):
                if problem := _problem(manifests, document, line, value, parent):
                    yield Finding(title(document), f"{prefix}{field}".lstrip("."), problem)


def _parts(manifests: Manifests, of: str) -> Iterator[tuple[Document, str, Any]]:
    """Yield the objects that are meant, or their pods or containers, and where these stand."""
    if of == "pod":
        for workload in manifests.workloads:
            yield workload.document, workload.field.removesuffix(".spec"), workload.template
    elif (what := of.removeprefix("own ")) in {"container", "server"}:
        for container in manifests.containers:
            if (container.stays or what != "server") and (container.service or what == of):
                yield container.workload.document, container.field, container.spec
    else:
        for document in manifests.documents:
            if re.fullmatch(f"({of})(/.*)?", title(document)):
                yield document, "", document


def _values(
    node: Any, steps: list[str], parent: Any = None, done: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield path and value of a field, and the mapping or list that it stands in."""
    if not steps:
        yield done, node, parent
        return
    for place, below in _below(node, steps[0]):
        yield from _values(below, steps[1:], node, done + place)


def _below(node: Any, step: str) -> Iterator[tuple[str, Any]]:
    """Yield what a step leads to, and how a message calls it; a mapping is its own one entry."""
    if step[0] not in "*?" and "=" not in step:
        yield f".{step}", node.get(step) if isinstance(node, dict) else None
        return
    key, _, pattern = step.lstrip("*?").partition("=")
    must, fits = step[0] not in "*?", re.compile(pattern or (".+" if key else ".*"), re.DOTALL)
    for index, entry in enumerate(node if isinstance(node, list) else [node] if node else []):
        known = entry if isinstance(entry, dict) else {}
        if fits.fullmatch(str(known.get(key, "") if key else entry)):
            yield "" if entry is node else f"[{known.get('name', index)}]", entry
            must = False
    if must:
        yield f"[{step}]", None


def _problem(
    manifests: Manifests, document: Document, line: Line, value: Any, parent: Any
) -> str | None:
    """Return what is wrong with a value and what to do; None when a line is kept."""
    if value is None and line.get("optional"):
        return None
    match line:
        case {"between": [low, high]}:
            fits = type(value) is int and low <= value <= high
            advice = f"set {low} to {high}"
        case {"matches": pattern}:
            fits = value is not None and re.fullmatch(pattern, str(value)) is not None
            advice = f"set what matches {pattern}"
        case {"names": kind}:
            # What is named is where the one is who names it, unless that says more beside it.
            beside = parent if isinstance(parent, dict) else {}
            namespace = beside.get("namespace", at(document, "metadata.namespace"))
            given = "or" in line and re.fullmatch(line["or"], str(value))
            found = given or manifests.find(kind, value, namespace)
            fits = found is not None or beside.get("optional") is True
            advice = f"name a {kind} that is there, or add it"
        case {"holds": needed}:
            which, _, name = needed.partition("/")
            fits = manifests.find(which, name, value) is not None
            advice = f"add the {needed} to it"
        case {"is": wanted}:
            if "{name}" in str(wanted):
                name = Workload(document).name
                wanted = json.loads(json.dumps(wanted).replace("{name}", name))
            # 1 is not true.
            fits = type(value) is type(wanted) and value == wanted
            advice = "take it away" if wanted is None else f"set {wanted}"
        case _:
            fits = value is not None
            advice = "set it"
    if fits:
        return None
    advice = f"set {line['set']}" if "set" in line else advice
    reason = f", or say why: annotation {line['unless']}" if "unless" in line else ""
    reason += f": {line['why']}" if "why" in line else ""
    return f"{said(value)}: {advice}{reason}"
