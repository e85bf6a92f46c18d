"""A clock for processes that tests move (https://github.com/wolfcw/libfaketime)."""

from pathlib import Path
from typing import Final

from services.testing.servers import give_up

_LIBRARY: Final = "libfaketimeMT.so.1"


class Clock:
    """The wall clock of the processes that get its ``environment``; their timers go on as ever."""

    def __init__(self, folder: Path) -> None:
        # Of Debian's package, wherever the machine's architecture puts it.
        libraries = sorted(Path("/usr/lib").glob(f"*/faketime/{_LIBRARY}"))
        if not libraries:
            give_up("libfaketime is not installed: run 'make servers'")
        self._file = folder / "clock"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def forget(self, pid: int) -> None:
        """Remove what a process that was killed leaves; its id may be another's later."""
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            (Path("/dev/shm") / name).unlink(missing_ok=True)

    def set(self, seconds: int) -> None:
        """Let it be so many seconds fast, or slow."""
        partial = self._file.with_suffix(".partial")
        partial.write_text(f"{seconds:+d}\n")
        partial.replace(self._file)
