"""Write the tables of docs/settings.md from the classes; with --check, only say if they are old."""

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from services.common import settings as common

_ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = _ROOT / "docs/settings.md"

_MIB: Final = 1024**2
_UNITS: Final = {"seconds": "s", "bytes": "bytes", "days": "days"}
_KINDS: Final = {"file": "file", "folder": "folder", "url": "URL", "urls": "JSON", "port": "port"}
_BOUNDS: Final = (
    (Ge, "ge", "at least"),
    (Gt, "gt", "over"),
    (Le, "le", "at most"),
    (Lt, "lt", "below"),
)

_MARK: Final = "<!-- From here on written by `make settings` from services/*/settings.py. -->\n"


@cache
def settings_class(service: str) -> type[BaseSettings] | None:
    """Return the class of all that a folder of services/ reads; None when it has no settings."""
    try:
        module = importlib.import_module(f"services.{service}.settings")
    except ModuleNotFoundError:
        return None
    own = (found for found in vars(module).values() if _is_of(module.__name__, found))
    # One may be a part of another.
    return max(own, key=lambda found: len(found.model_fields), default=None)


def _is_of(module: str, found: object) -> bool:
    return (
        isinstance(found, type) and issubclass(found, BaseSettings) and found.__module__ == module
    )


def services() -> Mapping[str, type[BaseSettings]]:
    """Return the class of settings of every service, by its folder."""
    folders = sorted(file.parent.name for file in _ROOT.glob("services/*/settings.py"))
    found = {name: settings_class(name) for name in folders if name != "common"}
    return {name: one for name, one in found.items() if one is not None}


def page() -> str:
    """Return the page: what stands before the mark, and the tables."""
    head = PAGE.read_text().partition(_MARK)[0]
    return "".join([head, _MARK, *_groups(), *_own()])


def _groups() -> Iterator[str]:
    """Yield a section for each group that several services may read."""
    for group in vars(common).values():
        if not _is_of(common.__name__, group) or group.__name__.startswith("_"):
            continue
        readers = [name for name, one in services().items() if issubclass(one, group)]
        whose = {name: group.model_fields[name] for name in group.__annotations__}
        if whose:
            yield f"\n## {_title(group)}\n\nRead by {', '.join(readers)}.\n\n{_table(whose)}"


def _own() -> Iterator[str]:
    """Yield a section for each service that reads something of its own."""
    for service, whole in services().items():
        mine = [base for base in reversed(whole.__mro__) if base.__module__ == whole.__module__]
        names = dict.fromkeys(name for base in mine for name in base.__annotations__)
        if names:
            table = _table({name: whole.model_fields[name] for name in names})
            yield f"\n## {service}\n\n{table}"


def _title(group: type[BaseSettings]) -> str:
    return (inspect.getdoc(group) or "").splitlines()[0].rstrip(".")


def _table(fields: Mapping[str, FieldInfo]) -> str:
    lines = ["| Setting | Default | Value | What it is, and when to turn it |", "|---|---|---|---|"]
    lines += [
        f"| `{name.upper()}` | {_default(name, field)} | {_value(name, field)} |"
        f" {_escaped(field.description or '')} |"
        for name, field in fields.items()
    ]
    return "\n".join(lines) + "\n"


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    if field.default_factory:
        return "by the machine"
    if field.default in (None, ""):
        return "none"
    if name.endswith("_bytes") and field.default % _MIB == 0:
        return f"`{field.default}`, {field.default // _MIB} MiB"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def _value(name: str, field: FieldInfo) -> str:
    last = name.rpartition("_")[2]
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    kinds = set(get_args(field.annotation) or (field.annotation,)) - {NoneType}
    if not kinds <= {int, float}:
        return _KINDS.get(last, "text")
    kind = _KINDS.get(last) or _UNITS.get(last, "number")
    return ", ".join([kind, *([] if kind == "port" else _bounds(field))])


def _bounds(field: FieldInfo) -> Iterable[str]:
    for bound, attribute, word in _BOUNDS:
        for limit in field.metadata:
            if isinstance(limit, bound):
                yield f"{word} {getattr(limit, attribute)}"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def main() -> None:
    """Write the page, or compare it."""
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text() != page():
            raise SystemExit("docs/settings.md is old: run 'make settings'")
        return
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
