import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.disks import Disk


@pytest.fixture
def disk(tmp_path: Path, disks: None) -> Iterator[Disk]:
    made = Disk(tmp_path / "image", tmp_path / "disk", mebibytes=16)
    yield made
    made.remove()


def write(file: Path, content: bytes, *, synced: bool) -> None:
    with file.open("ab") as opened:
        opened.write(content)
        opened.flush()
        if synced:
            os.fsync(opened.fileno())


def test_power_loss_keeps_what_was_synced_and_drops_the_rest(disk: Disk) -> None:
    write(disk.folder / "synced", b"kept", synced=True)
    write(disk.folder / "synced", b"lost", synced=False)
    write(disk.folder / "unsynced", b"lost", synced=False)
    assert (disk.folder / "unsynced").read_bytes() == b"lost"
    disk.lose_power()
    assert (disk.folder / "synced").read_bytes() == b"kept"
    assert not (disk.folder / "unsynced").exists()
    write(disk.folder / "synced", b" again", synced=True)
    disk.lose_power()
    assert (disk.folder / "synced").read_bytes() == b"kept again"


def test_a_full_disk_takes_nothing_until_there_is_room_again(disk: Disk) -> None:
    disk.fill()
    with pytest.raises(OSError, match="No space left") as full:
        write(disk.folder / "file", b"x" * 4096, synced=True)
    assert full.value.errno == errno.ENOSPC
    disk.clear()
    write(disk.folder / "file", b"x" * 4096, synced=True)
