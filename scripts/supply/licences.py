"""Write docs/licences.md from the metadata of what is installed, and refuse what is not allowed."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Final

from license_expression import ExpressionError, get_spdx_licensing
from packaging.utils import canonicalize_name

from scripts.supply import locks

PAGE: Final = locks.ROOT / "docs/licences.md"
_FILE: Final = "scripts/supply/licences.toml"
_POLICY: Final[Mapping[str, Any]] = tomllib.loads((locks.ROOT / _FILE).read_text("utf-8"))
_ALLOWED: Final = {*_POLICY["permissive"], *_POLICY["licences"]}
_SPDX: Final = get_spdx_licensing()
# Beside the images' what people install from here; tools of development are given to nobody.
_INSTALLED: Final = ("client", "local")

_MARK: Final = (
    "<!-- From here on written by `make licences`: installed metadata, and licences.toml. -->\n"
)
_HEAD: Final = """
## Python distributions

| distribution | version | licence | in | reason |
|---|---|---|---|---|
"""
_OTHERS: Final = """
## What else comes from elsewhere

| what | licence | reason |
|---|---|---|
"""


class LicenceError(Exception):
    """A licence that nobody has allowed, or metadata that is not that of the lock files."""


def licence(distribution: str) -> str:
    """Return the SPDX expression of what an installed distribution brings.

    Raises LicenceError when it is not known, or when not all of it is allowed.
    """
    stated = _stated(distribution)
    known = _POLICY["distributions"].get(distribution)
    said = f"{distribution} says of its licence {' or '.join(stated) or 'nothing'}"
    if known:
        if known["says"] not in (stated or [""]):
            raise LicenceError(f"{said}, no longer {known['says']}: read it, and correct {_FILE}")
        return str(known["licence"])
    for one in stated:
        try:
            expression = _SPDX.parse(one, validate=True)
        except ExpressionError:
            continue
        allowed = {part: _SPDX.TRUE for part in expression.symbols if str(part) in _ALLOWED}
        if expression.subs(allowed, simplify=True) == _SPDX.TRUE:
            return one
        advice = f"do without it, or say in {_FILE} why it may stay"
        raise LicenceError(f"{distribution} is under {one}, which is not allowed: {advice}")
    advice = f"read its licence, and say in {_FILE} what it is"
    raise LicenceError(f"{said}, which is no name of SPDX: {advice}")


def _stated(distribution: str) -> Sequence[str]:
    """Return what the metadata says, the most exact first."""
    found = metadata.metadata(distribution)
    classifiers = found.get_all("Classifier", [])
    fields = [
        *found.get_all("License-Expression", []),
        *found.get_all("License", []),
        *(line.split(" :: ")[-1] for line in classifiers if line.startswith("License ::")),
    ]
    return [_POLICY["spellings"].get(field, field) for field in filter(None, fields)]


def _reason(distribution: str, expression: str) -> str:
    known = _POLICY["distributions"].get(distribution)
    reasons = [known["reason"]] if known else []
    keys = _SPDX.license_keys(expression)
    reasons += [f"{key}: {why}" for key, why in _POLICY["licences"].items() if key in keys]
    return "; ".join(reasons)


def page() -> str:
    """Return the page. Raises LicenceError with a line for each thing that is wrong."""
    images = locks.images()
    users: dict[tuple[str, str], list[str]] = {}
    for image in images:
        for pin in locks.image_pins(image):
            users.setdefault((pin.name, pin.version), []).append(image)
    for name in _INSTALLED:
        for pin in locks.pins(name):
            users.setdefault((pin.name, pin.version), [f"no image, only {name}"])
    installed = {canonicalize_name(one.name): one.version for one in metadata.distributions()}
    rows, wrong = [], []
    for (name, version), where in sorted(users.items()):
        if (found := installed.get(canonicalize_name(name), "missing")) != version:
            wrong.append(f"{name} is {found} here, and {version} is locked: run 'make venv-dev'")
            continue
        try:
            expression = licence(name)
        except LicenceError as error:
            wrong.append(str(error))
            continue
        places = "every image" if where == images else ", ".join(where)
        rows.append(_row(name, version, expression, places, _reason(name, expression)))
    if wrong:
        raise LicenceError("\n".join(wrong))
    others = [
        _row(f"`{other['what']}`", other["licence"], other.get("reason", ""))
        for other in _POLICY["others"]
    ]
    head = PAGE.read_text("utf-8").partition(_MARK)[0]
    return "".join([head, _MARK, _HEAD, *rows, _OTHERS, *others])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"
