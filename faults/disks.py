"""A small file system for one server: it can be full, and it can lose its power.

An image file is mounted through a loop device. Losing power is the ioctl that file system tests
use (FS_IOC_SHUTDOWN without flushing the log): from then on nothing reaches the image, dirty pages
are dropped at the unmount, and the mount that follows replays the journal. What was fsynced is
there, what was only written is not. The commit interval is long, so that the file system does not
write by itself what the server has not asked for.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

from services.testing.disks import fill

_FS_IOC_SHUTDOWN: Final = 0x8004587D  # _IOR('X', 125, __u32), linux/fs.h
_NO_LOG_FLUSH: Final = 2
_COMMIT_SECONDS: Final = 3600


def why_none() -> str | None:
    """Return why no disk can be made here, or None."""
    if os.geteuid() != 0:
        return "mounting needs root: run 'make test' or 'make faults' as root"
    if not Path("/dev/loop-control").exists():
        return "there is no /dev/loop-control: run 'modprobe loop' as root"
    if not shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        return "mkfs.ext4 is not installed: run 'make servers'"
    return None


class Disk:
    """A file system in ``image``, mounted at ``folder``; to be made as root."""

    def __init__(self, image: Path, folder: Path, *, mebibytes: int) -> None:
        self._image = image
        self.folder = folder
        self._ballast = folder / "ballast"
        with image.open("wb") as file:
            file.truncate(mebibytes * 2**20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        folder.mkdir(parents=True, exist_ok=True)
        self._mount()

    def fill(self) -> None:
        """Leave no free block."""
        fill(self._ballast)

    def clear(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def lose_power(self) -> None:
        """Drop what was not fsynced; whoever uses the disk must have been killed."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(folder)
        _run("umount", str(self.folder))
        self._mount()
        self.clear()

    def remove(self) -> None:
        """Unmount it, as soon as nobody uses it."""
        _run("umount", "--lazy", str(self.folder))

    def _mount(self) -> None:
        options = f"loop,commit={_COMMIT_SECONDS}"
        _run("mount", "-t", "ext4", "-o", options, str(self._image), str(self.folder))


def _run(*command: str) -> None:
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )
