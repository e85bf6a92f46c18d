"""What base/checks.yaml says that fields must be.

Only what neither kube-score, checkov, Pod Security nor a schema asks for stands there.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from scripts.manifests.model import Document, Finding, Manifests, Workload, at, mapping, title

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


def everywhere(manifests: Manifests) -> Iterator[Finding]:
    """Check what the file says of all that is applied."""
    return _check(manifests, "everywhere")


def fields(manifests: Manifests) -> Iterator[Finding]:
    """Check what the file says of the pipeline."""
    return _check(manifests, "fields")


def _check(manifests: Manifests, section: str) -> Iterator[Finding]:
    for line in checks()[section]:
        kind, path = line.get("if", (None, ""))
        if kind and all(at(one, path) is None for one in manifests.kind(kind)):
            continue
        for document, prefix, node in _parts(manifests, line["of"]):
            if mapping(document, "metadata.annotations").get(line.get("unless", "")):
                continue
            beside = mapping(document, "metadata")
            for field, value, around in _values(node, steps(line["field"]), beside):
                if problem := _problem(manifests, document, line, value, around):
                    yield Finding(title(document), prefix + field, problem)


def _parts(manifests: Manifests, of: str) -> Iterator[tuple[Document, str, Any]]:
    """Yield the objects that are meant, or their pods or containers, and where these stand."""
    if of == "pod":
        for workload in manifests.workloads:
            yield workload.document, workload.field.removesuffix("spec"), workload.template
    elif of in {"container", "server", "own server"}:
        for workload, container in manifests.containers:
            own = container.image.service is not None
            if of == "container" or (container.stays and (own or of == "server")):
                yield workload.document, f"{container.field}.", container.spec
    else:
        for document in manifests.documents:
            if re.fullmatch(f"({of})(/.*)?", title(document)):
                yield document, "", document


def _values(
    node: Any, way: list[str], around: Mapping[str, Any], done: str = ""
) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield path and value of a field, and of what stands around it what tells what it names."""
    if not way:
        yield done.lstrip("."), node, around
        return
    step, *rest = way
    if step[0] in "*?!" or "=" in step:
        fitting = list(_fitting(node, step))
        if step[0] not in "*?!":
            fitting = fitting[:1] or [(f"[{step}]", None)]
        for place, entry in fitting:
            yield from _values(entry, rest, around, done + place)
    else:
        known = node if isinstance(node, dict) else {}
        around = {**around, **{key: known[key] for key in _AROUND if key in known}}
        yield from _values(known.get(step), rest, around, f"{done}.{step}")


def _fitting(node: Any, step: str) -> Iterator[tuple[str, Any]]:
    """Yield what a step in brackets means, and how a message calls it; a mapping is one itself."""
    key, _, pattern = step.lstrip("*?!").partition("=")
    entries = node if isinstance(node, list) else [node] if isinstance(node, dict) else []
    for index, entry in enumerate(entries):
        known = entry if isinstance(entry, dict) else {}
        value = known.get(key) if key else entry
        fits = value is not None and re.fullmatch(pattern or ".*", str(value), re.DOTALL)
        if bool(fits) != step.startswith("!"):
            yield f"[{known.get('name', index)}]" if entries is node else "", entry


_AROUND: Final = ("namespace", "optional")


def _problem(
    manifests: Manifests, document: Document, line: Line, value: Any, around: Mapping[str, Any]
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
            given = "or" in line and re.fullmatch(line["or"], str(value)) is not None
            found = manifests.find(kind, value, around.get("namespace"))
            fits = given or found is not None or around.get("optional") is True
            advice = f"name a {kind} that is there, or add it"
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
