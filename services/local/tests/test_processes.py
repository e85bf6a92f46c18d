import os
from pathlib import Path

import pytest

from services.local.errors import LocalError
from services.local.processes import Process


def test_waiting_for_a_process_that_has_ended_says_how_and_what_it_said(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "echo no disk; exit 3"], os.environ, tmp_path / "log")
    process.spawn()
    with pytest.raises(LocalError, match="ended with code 3, not ready: see ") as raised:
        process.wait_until(lambda: False, "not ready")
    assert raised.value.__notes__ == ["no disk\n"]
    assert not process.is_running()


def test_a_process_is_ended_with_its_workers_and_can_be_started_again(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "sleep 1000 & echo $!; wait"], os.environ, tmp_path / "log")
    process.spawn()
    process.wait_until(lambda: (tmp_path / "log").read_text() != "", "no worker")
    worker = int((tmp_path / "log").read_text())
    assert os.getpgid(worker) == process.pid
    first = process.pid
    process.kill()
    process.spawn()
    assert process.is_running()
    assert process.pid != first
    process.send_all(process.ends_by)
    assert process.wait() < 0
    os.killpg(first, 9)  # the worker that kill has left behind
