"""Copies of the repository with changes in them."""

import re
import shutil
from pathlib import Path
from typing import Any

from scripts.gitops.checks import validate
from scripts.gitops.source import Source


def copy(source: Source, folder: Path) -> Source:
    """Return the same files in another folder."""
    shutil.copytree(source.folder, folder, dirs_exist_ok=True)
    return Source(folder)


def change(source: Source, change: dict[str, Any]) -> None:
    """Write a file, delete it, or replace a text that stands in it."""
    file = source.folder / change["file"]
    match change:
        case {"write": text}:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        case {"delete": True}:
            file.unlink()
        case {"old": old, "new": new}:
            before = file.read_text()
            assert old in before, f"{change['file']} has no {old!r} any more"
            file.write_text(before.replace(old, new, 1))


def said(source: Source, *clusters: str) -> list[str]:
    """Return what validation says, of all clusters when none is named.

    Hashes in names follow the content, which is not what a fault is about.
    """
    names = list(clusters) or source.clusters()
    return [
        re.sub(r"((ConfigMap|Job)/[a-z-]+)-[0-9a-z]{10,12}\b", r"\1-HASH", f"{name}: {finding}")
        for name, _, findings in validate(source, names)
        for finding in findings
    ]
