"""Puts facts into manifests as Flux does after a build, and reads YAML as Flux's Go does.

Flux knows many of bash's operators. Manifests here need a plain variable and a default, so only
these are known, and any other is refused: what this module takes, Flux takes in the same way.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from scripts.manifests.model import FLUX_API

NAME: Final = re.compile(r"[_A-Za-z][_A-Za-z0-9]*")
SWITCH: Final = f"{FLUX_API}/substitute"
"""A label or annotation that says ``disabled``: the object is applied as it stands."""

_OPENING: Final = re.compile(r"\$\$|\$\{")
_REFERENCE: Final = re.compile(rf"({NAME.pattern})(:=|:-|=|\}})")


class SubstitutionError(Exception):
    """A text has a variable that is not defined, or that is written wrong."""

    document: Any = None
    """The object that it is in, as it was before."""


def substitute(text: str, facts: Mapping[str, str], used: set[str] | None = None) -> str:
    """Return the text with every variable's value in its place; note the names in ``used``.

    This is Flux's strict mode: a variable that is no fact and has no default is an error.
    """
    if wrong := sorted(name for name in facts if not NAME.fullmatch(name)):
        raise SubstitutionError(f"{wrong[0]!r} cannot be a variable: use letters, digits and _")
    done, _ = _text(text, 0, facts, set() if used is None else used, inside=False)
    return done


def _text(
    text: str, start: int, facts: Mapping[str, str], used: set[str], *, inside: bool
) -> tuple[str, int]:
    """Return a text up to its end, or, inside of a default, up to the closing brace."""
    parts: list[str] = []
    while True:
        found = _OPENING.search(text, start)
        if inside:
            end = text.find("}", start)
            if end < 0:
                raise SubstitutionError(f"no }} closes {_excerpt(text, start)}")
            # Inside of a default Flux takes $$ for two dollars.
            while found and found[0] == "$$":
                found = _OPENING.search(text, found.start() + 1)
            if not found or found.start() > end:
                return "".join([*parts, text[start:end]]), end + 1
        elif not found:
            return "".join([*parts, text[start:]]), len(text)
        parts.append(text[start : found.start()])
        if found[0] == "$$":
            if not text.startswith("{", found.end()):
                excerpt = _excerpt(text, found.start())
                raise SubstitutionError(f"Flux makes one $ of the two in {excerpt}: write one")
            parts.append("$")
            start = found.end()
        else:
            value, start = _variable(text, found.end(), facts, used)
            parts.append(value)


def _variable(text: str, start: int, facts: Mapping[str, str], used: set[str]) -> tuple[str, int]:
    """Return the value of the variable whose name starts there, and where its text ends."""
    found = _REFERENCE.match(text, start)
    if not found:
        advice = "write ${name} or ${name:=default}, and $${ for a brace that Flux must leave"
        raise SubstitutionError(f"cannot read {_excerpt(text, start - 2)}: {advice}")
    name, operator = found.groups()
    used.add(name)
    value, start = facts.get(name), found.end()
    if operator == "}":
        if value is None:
            raise SubstitutionError(f"${{{name}}} is no fact of this cluster and has no default")
        return value, start
    default, start = _text(text, start, facts, used, inside=True)
    return value or default, start


def _excerpt(text: str, start: int) -> str:
    return repr(text[start:].split("\n", maxsplit=1)[0][:40])


class _GoLoader(yaml.CSafeLoader):
    """Reads plain words as Go's YAML does, which is not in all as PyYAML does it.

    No word is a date or a number of base 60; y and n are booleans, and 1e3 is a number.
    """

    def construct_bool(self, node: yaml.ScalarNode) -> bool:
        return node.value.lower() in {"y", "yes", "on", "true"}

    def construct_number(self, node: yaml.ScalarNode) -> float | int:
        value = float(node.value.replace("_", ""))
        return int(value) if value.is_integer() else value


_GoLoader.yaml_implicit_resolvers = {}
for _tag, _pattern in {
    "bool": r"[yYnN]|yes|Yes|YES|on|On|ON|no|No|NO|off|Off|OFF|[tT]rue|TRUE|[fF]alse|FALSE",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|0|[1-9][0-9_]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
    "merge": r"<<",
}.items():
    _GoLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), None
    )
_GoLoader.add_constructor("tag:yaml.org,2002:bool", _GoLoader.construct_bool)
_GoLoader.add_constructor("tag:yaml.org,2002:float", _GoLoader.construct_number)


def read(text: str) -> list[Any]:
    """Return the documents of a text, without the empty ones."""
    try:
        return [document for document in yaml.load_all(text, _GoLoader) if document]
    except yaml.YAMLError as error:
        raise SubstitutionError(f"is no YAML: {' '.join(str(error).split())}") from None


def apply(manifest: str, facts: Mapping[str, str], used: set[str] | None = None) -> str:
    """Return what ``kustomize build`` printed with the facts in it; note their names in ``used``.

    Flux does it object by object, and leaves one alone that switches it off. Without any fact it
    leaves everything as it is.
    """
    if not facts:
        return manifest
    return "---\n".join(_object(text, facts, used) for text in _SEPARATOR.split(manifest))


_SEPARATOR: Final = re.compile(r"^---\n", re.MULTILINE)


def _object(text: str, facts: Mapping[str, str], used: set[str] | None) -> str:
    """Return one object with the facts in it."""
    for document in read(text):
        metadata = document.get("metadata") or {}
        marks = [(metadata.get(kind) or {}).get(SWITCH) for kind in ("labels", "annotations")]
        if "disabled" in marks:
            return text
        try:
            return substitute(text, facts, used)
        except SubstitutionError as error:
            named = SubstitutionError(f"{document.get('kind')}/{metadata.get('name')}: {error}")
            named.document = document
            raise named from None
    return text
