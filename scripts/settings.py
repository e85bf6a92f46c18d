"""Write the tables of docs/settings.md from the services' classes of settings."""

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic_settings import BaseSettings

from services.common import settings as common

_ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = _ROOT / "docs/settings.md"

_MIB: Final = 1024**2
_SAME: Final = ("bytes", "days", "file", "folder", "port")
_KINDS: Final = {"seconds": "s", "url": "URL", "urls": "JSON"} | {word: word for word in _SAME}
"""What the last part of a name says of the value."""
_BOUNDS: Final = {
    "minimum": "at least",
    "exclusiveMinimum": "over",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
"""JSON Schema's words."""

_MARK: Final = "<!-- From here on written by `make settings` from services/*/settings.py. -->\n"
_HEAD: Final = """
| Setting | Default | Value | What it is, and when to turn it |
|---|---|---|---|
"""


@cache
def settings_class(service: str) -> type[BaseSettings] | None:
    """Return the class of all that a folder of services/ reads; None when it has no settings."""
    try:
        module = importlib.import_module(f"services.{service}.settings")
    except ModuleNotFoundError:
        return None
    # One may be a part of another.
    return max(_own(module), key=lambda found: len(found.model_fields), default=None)


def _own(module: ModuleType) -> list[type[BaseSettings]]:
    """Return the classes of settings that a module itself has."""
    found = [one for one in vars(module).values() if isinstance(one, type)]
    mine = [one for one in found if one.__module__ == module.__name__]
    return [one for one in mine if issubclass(one, BaseSettings)]


def services() -> Mapping[str, type[BaseSettings]]:
    """Return the class of settings of every service, by its folder."""
    folders = {file.parent.name for file in _ROOT.glob("services/*/settings.py")} - {"common"}
    return {name: one for name in sorted(folders) if (one := settings_class(name))}


def page() -> str:
    """Return the page: what stands before the mark, and the tables."""
    return "".join([PAGE.read_text().partition(_MARK)[0], _MARK, *_sections()])


def _sections() -> Iterator[str]:
    """Yield a section for each group that several services may read, and for each of one alone."""
    for group in _own(common):
        if group.__annotations__:
            readers = [name for name, one in services().items() if issubclass(one, group)]
            title = (inspect.getdoc(group) or "").splitlines()[0].rstrip(".")
            heading = f"{title}\n\nRead by {', '.join(readers)}."
            yield _section(heading, group, group.__annotations__)
    for service, whole in services().items():
        mine = [base for base in reversed(whole.__mro__) if base.__module__ == whole.__module__]
        if names := dict.fromkeys(name for base in mine for name in base.__annotations__):
            yield _section(service, whole, names)


def _section(heading: str, settings: type[BaseSettings], names: Iterable[str]) -> str:
    schema = settings.model_json_schema()
    required = schema.get("required", [])
    rows = []
    for name in names:
        field = schema["properties"][name]
        default = "must be set" if name in required else _default(name, field)
        meaning = field["description"].replace("|", r"\|").replace("<", "&lt;")
        rows.append(f"| `{name.upper()}` | {default} | {_value(name, field)} | {meaning} |\n")
    return "".join([f"\n## {heading}\n{_HEAD}", *rows])


def _default(name: str, field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return "by the machine"
    default = field["default"]
    if default in (None, ""):
        return "none"
    if name.endswith("_bytes") and default % _MIB == 0:
        return f"`{default}`, {default // _MIB} MiB"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _value(name: str, field: Mapping[str, Any]) -> str:
    value = field.get("anyOf", [field])[0]  # the other one is null
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    is_number = value["type"] in {"integer", "number"}
    kind = _KINDS.get(name.rpartition("_")[2], "number" if is_number else "text")
    bounds = [f"{word} {value[key]}" for key, word in _BOUNDS.items() if key in value]
    return ", ".join([kind, *([] if kind == "port" else bounds)])


if __name__ == "__main__":
    PAGE.write_text(page())
