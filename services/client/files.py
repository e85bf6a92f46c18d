"""Finds pictures in folders, and reads them."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.client.errors import ItemRefusedError
from services.common.picture_formats import FORMATS, MAX_PICTURE_BYTES

EXTENSIONS: Final = frozenset(
    {f".{format_.extension}" for format_ in FORMATS}
    | {".jpeg", ".jpe", ".jfif", ".mpo", ".heif", ".tiff"}
)
"""Of the formats that the server reads, in lower case."""

Version = tuple[int, int]
"""A file's size and time of change: two looks that find the same find a file that is finished."""


@dataclass
class FoundFiles:
    """Files in order, and what could not be looked at, with the reason."""

    files: dict[Path, Version] = field(default_factory=dict)
    problems: dict[Path, str] = field(default_factory=dict)
    left_out: int = 0


def find(paths: Sequence[Path], *, every: bool) -> FoundFiles:
    """Look for files at the paths and below those that are folders.

    A file that is named itself is taken whatever it is called. In folders only pictures are, by
    their extension, or ``every`` file; hidden files and folders never. Links are followed, and no
    folder is entered twice, so a loop of links ends.
    """
    found = FoundFiles()
    entered: set[tuple[int, int]] = set()
    named = {*paths}
    waiting = list(reversed(paths))  # no recursion: folders may lie deeper than Python calls
    while waiting:
        path = waiting.pop()
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) not in entered:
                    entered.add((status.st_dev, status.st_ino))
                    below = sorted(path.iterdir(), reverse=True)
                    waiting += [inside for inside in below if not inside.name.startswith(".")]
            elif not stat.S_ISREG(status.st_mode):
                if path in named:
                    found.problems[path] = "is neither a file nor a folder"
            elif path in named or every or path.suffix.lower() in EXTENSIONS:
                found.files[path] = (status.st_size, status.st_mtime_ns)
            else:
                found.left_out += 1
        except OSError as error:
            found.problems[path] = reason(error)
    return found


def read(path: Path) -> bytes:
    """Return a file's content, or raise :class:`ItemRefusedError` when it cannot be a picture."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PICTURE_BYTES + 1)
    except OSError as error:
        raise ItemRefusedError(reason(error)) from None
    if not content:
        raise ItemRefusedError("the file is empty")
    if len(content) > MAX_PICTURE_BYTES:
        raise ItemRefusedError(f"the file has more than {MAX_PICTURE_BYTES // 2**20} MiB")
    return content


def sidecars(path: Path) -> list[Path]:
    """Return the XMP files beside a picture: ``a.jpg.xmp``, as digiKam has it, then ``a.xmp``."""
    names = dict.fromkeys((path.with_name(f"{path.name}.xmp"), path.with_suffix(".xmp")))
    return [sidecar for sidecar in names if os.path.isfile(sidecar)]  # noqa: PTH113, raises for long names


def sent_name(path: Path) -> str:
    """Return the name under which a file is sent: Unicode, which its own need not be."""
    return os.fsencode(path.name).decode(errors="replace")


def reason(error: OSError) -> str:
    """Return why a file cannot be used, in words."""
    return f"cannot be used: {error.strerror or error}"
