"""Small file systems, to be full or read-only."""

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

_PIECE: Final = 4096


def fill(file: Path) -> None:
    """Write into the file until its file system has no space left."""
    with file.open("wb", buffering=0) as writer, suppress(OSError):
        while writer.write(bytes(_PIECE)):
            pass


def remount(folder: Path, options: str) -> None:
    """Mount a file system anew: ``rw``, or ``ro`` when no file is open for writing."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
