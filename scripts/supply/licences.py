"""Write docs/licences.md from the metadata of what is installed, and refuse what is not allowed."""

import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from license_expression import ExpressionError, get_spdx_licensing

from scripts.supply import locks

PAGE: Final = locks.ROOT / "docs/licences.md"
_POLICY: Final[Mapping[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text("utf-8")
)
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
    stated = list(_stated(distribution))
    known = _POLICY["distributions"].get(distribution)
    if known:
        if known["says"] not in (stated or [""]):
            raise LicenceError(
                f"{distribution} says of its licence {' or '.join(stated) or 'nothing'}, no longer"
                f" {known['says']}: read it, and correct scripts/supply/licences.toml"
            )
        return str(known["licence"])
    for one in stated:
        try:
            expression = _SPDX.parse(one, validate=True)
        except ExpressionError:
            continue
        if not _is_allowed(expression):
            raise LicenceError(
                f"{distribution} is under {one}, which is not allowed: do without it, or say in"
                " scripts/supply/licences.toml why it may stay"
            )
        return one
    raise LicenceError(
        f"{distribution} says of its licence {' or '.join(stated) or 'nothing'}, which is no name"
        " of SPDX: read its licence, and say in scripts/supply/licences.toml what it is"
    )


def _stated(distribution: str) -> Iterator[str]:
    """Yield what the metadata says, the most exact first."""
    found = metadata.metadata(distribution)
    fields = [*found.get_all("License-Expression", []), *found.get_all("License", [])]
    classifiers = found.get_all("Classifier", [])
    fields += [line.split(" :: ")[-1] for line in classifiers if line.startswith("License ::")]
    for field in fields:
        yield _POLICY["spellings"].get(field, field)


def _is_allowed(expression: Any) -> bool:
    if isinstance(expression, _SPDX.AND):
        return all(map(_is_allowed, expression.args))
    if isinstance(expression, _SPDX.OR):
        return any(map(_is_allowed, expression.args))
    return expression.key in {*_POLICY["permissive"], *_POLICY["licences"]}


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
        for pin in locks.pins(locks.FOLDER / f"{name}.txt"):
            users.setdefault((pin.name, pin.version), [f"no image, only {name}"])
    rows, wrong = [], []
    for (name, version), where in sorted(users.items()):
        try:
            _expect(name, version)
            expression = licence(name)
        except LicenceError as error:
            wrong.append(str(error))
        else:
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


def _expect(name: str, version: str) -> None:
    """Raise LicenceError unless this version is installed here, whose metadata is read."""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = "missing"
    if found != version:
        raise LicenceError(f"{name} is {found} here, and {version} is locked: run 'make venv-dev'")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def write(*, check: bool) -> None:
    """Write the page, or only raise LicenceError when it is old. Raises that for a bad licence."""
    content = page()
    if not check:
        PAGE.write_text(content, "utf-8")
    elif PAGE.read_text("utf-8") != content:
        raise LicenceError("docs/licences.md is old: run 'make licences'")
