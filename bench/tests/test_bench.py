"""Every benchmark runs, in its short form; one that breaks ends, and nothing of it goes on."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from bench import gallery
from bench.alone import run_alone
from services.testing.samples import sample
from services.testing.servers import find_binary

ROOT = Path(__file__).parents[2]
NEEDS = {
    "accuracy": (),
    "commits": (),
    "drain": ("mariadbd", "nsqd", "nsqlookupd"),
    "engines": (),
    "gallery": ("versitygw",),
    "groups": (),
    "indexes": (),
    "pages": ("mariadbd",),
    "people": ("mariadbd",),
    "pipeline": (),
    "recognition": (),
    "submissions": ("mariadbd",),
}
SECONDS = 120


def start(name: str) -> subprocess.Popen[str]:
    for program in NEEDS[name]:
        find_binary(program)
    sample("astronaut.png")
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "--short", name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("name", sorted(NEEDS.keys() - {"commits"}))  # test_commits.py has that one
def test_a_benchmark_prints_its_tables(name: str) -> None:
    benchmark = start(name)
    said, _ = benchmark.communicate(timeout=SECONDS)
    assert benchmark.returncode == 0, said
    assert said.count("┃") > 4, said


@pytest.mark.parametrize("name", sorted(NEEDS.keys() - {"engines"}))  # which starts none
def test_a_benchmark_whose_processes_are_killed_ends_with_all_of_them(name: str) -> None:
    benchmark = start(name)
    deadline = time.monotonic() + SECONDS
    started: set[psutil.Process] = set()
    while benchmark.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            for measuring in psutil.Process(benchmark.pid).children():
                for process in measuring.children(recursive=True):
                    started.add(process)
                    process.kill()
        time.sleep(0.02)
    said = benchmark.communicate(timeout=20)[0]
    assert started
    assert benchmark.returncode == 1, said
    assert f"not measured: {name}" in said
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive


def sleep_in_vain(pids: str) -> None:
    """Start a process, heed no request to end, and never come back."""
    shell = f"trap '' TERM; sleep 1000 & echo $! $$ >{pids}.new; mv {pids}.new {pids}; wait; wait"
    subprocess.run(["sh", "-c", shell], check=False)


def test_what_does_not_come_back_is_ended_with_what_it_started(tmp_path: Path) -> None:
    assert not run_alone(sleep_in_vain, str(tmp_path / "pids"), seconds=10)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    _, alive = psutil.wait_procs(
        [one for one in psutil.process_iter() if one.pid in pids], timeout=20
    )
    assert not alive


def test_a_gallery_benchmark_that_cannot_begin_leaves_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_binary("versitygw")

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(gallery, "s3_settings", fail)
    before = psutil.Process().children()
    with pytest.raises(OSError, match="no space"):
        gallery.run(Console(), tmp_path, short=True)
    assert psutil.Process().children() == before
