"""What a folder as an object store needs beside what obstore does with it.

Somebody may put anything into the folder by hand: links, pipes, names that are no text. Objects
are regular files whose path keeps the rule for paths, and no link leads out of the top folder that
it is in, such as ``pictures/``; that one itself may be a link to where the pictures are.
"""

import errno
import os
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from services.common.object_keys import check_path

_NOTHING_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


def check_file(folder: Path, key: str) -> None:
    """Raise ``FileNotFoundError`` unless the key names an object of the folder."""
    top = (folder / key.partition("/")[0]).resolve()
    try:
        real = (folder / key).resolve(strict=True)
    except (RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise FileNotFoundError(key) from error
    except OSError as error:
        # A disk that fails, or a folder that may not be entered, says nothing of the object.
        if error.errno not in _NOTHING_THERE:
            raise
        raise FileNotFoundError(key) from error
    # A pipe would be waited for without end.
    if not real.is_relative_to(top) or not real.is_file():
        raise FileNotFoundError(key)


def walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the key of each object below a prefix, which ends in ``/``, and what its file is."""
    inside = (folder / prefix.partition("/")[0]).resolve()
    start = len(str(folder / "x")) - 1
    waiting = [str(folder / prefix)]
    # A Path for each of 100,000 files would take longer than all that is asked of the system.
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                key = entry.path[start:]
                try:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        continue
                    check_path(key.partition("/")[2] or key)  # the rule is of what is below it
                    if entry.is_symlink() and not Path(entry).resolve().is_relative_to(inside):
                        continue
                    if not entry.is_file():
                        continue
                    found = entry.stat()
                except (OSError, RuntimeError, ValueError):  # gone meanwhile, or never to be read
                    continue
                yield key, found


def find_new(folder: Path, prefix: str, known: Container[str]) -> dict[str, int]:
    """Return the folders right below a prefix that are not known, and when each was changed."""
    with suppress(OSError), os.scandir(folder / prefix) as entries:
        return {
            entry.name: entry.stat().st_mtime_ns
            for entry in entries
            if entry.name not in known and entry.is_dir(follow_symlinks=False)
        }
    return {}


def prune(folder: Path, key: str) -> None:
    """Remove the folders that an object was the last one in; they have people's names.

    A top folder, such as ``known_people/``, stays: people put files there by hand.
    """
    with suppress(OSError):  # not empty, or gone already
        for parent in (folder / key).parents:
            if parent.parent == folder:
                return
            parent.rmdir()


def sync(folder: Path, key: str) -> None:
    """Bring a file and its name to the disk: what was acknowledged outlives a power cut."""
    path = folder / key
    while path != folder.parent:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path = path.parent
