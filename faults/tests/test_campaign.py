"""The campaign as a person starts it: green on the product, red on what is broken on purpose."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.testing.samples import sample
from services.testing.servers import find_binary

ROOT = Path(__file__).parents[2]
SHORT = ("--faults", "15", "--pictures", "300")


@pytest.fixture(autouse=True)
def servers() -> None:
    """Everything that a campaign starts or strikes with."""
    for name in ("mariadbd", "nsqd", "nsqlookupd", "versitygw", "toxiproxy-server"):
        find_binary(name)
    sample("grace_hopper.jpg")


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "faults", "--folder", str(folder), *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(folder: Path, *arguments: str, seconds: float = 480) -> tuple[int, str]:
    """Run a campaign to its end and return its exit status and what it said."""
    campaign = started(folder, *arguments)
    try:
        output, _ = campaign.communicate(timeout=seconds)
    finally:
        campaign.kill()
    return campaign.returncode, output


def left(folder: Path) -> list[psutil.Process]:
    """The processes that a campaign in this folder started and that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), *process.environ().values(), process.cwd()]
            if any(str(folder) in one for one in told):
                found.append(process)
        except psutil.Error:
            continue  # it has ended meanwhile, or waits for its parent to notice that it has
    return found


def test_fifteen_faults_lose_none_of_three_hundred_pictures(tmp_path: Path) -> None:
    status, output = ended(tmp_path, *SHORT, "--seed", "1")
    assert status == 0, output
    assert "Nothing was lost: 15 faults" in output
    if os.environ.get("REQUIRE_SERVERS") == "1":
        assert "No faults of" not in output, output
    assert left(tmp_path) == []


def test_a_machine_with_sqlite_loses_nothing_with_its_power(tmp_path: Path, disks: None) -> None:
    status, output = ended(
        tmp_path,
        *("--sqlite", "--kinds", "POWER_LOSS", "--faults", "2", "--pictures", "60", "--seed", "1"),
    )
    assert status == 0, output


FACE_RECOG_AWAY = (
    *("--kinds", "CUT", "--faults", "2", "--pictures", "40", "--seed", "3", "--patience", "8"),
    *("--targets", "image_processor_1 to face_recog", "image_processor_2 to face_recog"),
)
"""What nsqd alone puts right, by giving a ring again that was not finished."""


def test_fin_before_the_commit_turns_it_red(tmp_path: Path) -> None:
    # With the redeemer nothing would be lost even so, for no promise rests on NSQ.
    status, output = ended(tmp_path, "--fin-first", "--no-redeemer", *FACE_RECOG_AWAY)
    assert status == 1, output
    assert "stuck: " in output


@pytest.mark.long
def test_fin_after_the_commit_is_green_without_a_redeemer(tmp_path: Path) -> None:
    status, output = ended(tmp_path, "--no-redeemer", *FACE_RECOG_AWAY)
    assert status == 0, output


def test_rows_without_a_unique_key_turn_it_red(tmp_path: Path) -> None:
    status, output = ended(
        tmp_path, "--no-unique-key", "--faults", "0", "--pictures", "80", "--seed", "1"
    )
    assert status == 1, output
    assert "doubled: " in output


@pytest.mark.long
def test_no_redeemer_turns_it_red(tmp_path: Path) -> None:
    status, output = ended(
        tmp_path,
        *("--no-redeemer", "--kinds", "KILL", "--targets", "image_processor_1", "nsqd"),
        *("--faults", "3", "--pictures", "40", "--seed", "5", "--patience", "45"),
    )
    assert status == 1, output
    assert "stuck: " in output


@pytest.mark.long
def test_no_fence_turns_it_red(tmp_path: Path) -> None:
    status, output = ended(
        tmp_path,
        *("--no-fence", "--kinds", "LONG_PAUSE"),
        *("--targets", "image_processor_1", "image_processor_2"),
        *("--faults", "2", "--pictures", "40", "--seed", "5"),
    )
    assert status == 1, output
    assert "contradictory: " in output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_however_it_ends_nothing_is_left(how: signal.Signals, tmp_path: Path) -> None:
    campaign = started(tmp_path, "--faults", "50", "--pictures", "10000", "--seed", "1")
    assert campaign.stdout
    for line in campaign.stdout:
        if "fault   1 of" in line:
            break
    assert len(left(tmp_path)) > 9
    campaign.send_signal(how)
    campaign.communicate(timeout=60)
    assert campaign.returncode
    deadline = time.monotonic() + 20
    while left(tmp_path):
        assert time.monotonic() < deadline, left(tmp_path)
        time.sleep(0.05)


@pytest.mark.long
def test_two_hundred_faults_lose_none_of_five_thousand_pictures(tmp_path: Path) -> None:
    status, output = ended(
        tmp_path, "--faults", "200", "--pictures", "5000", "--seed", "1", seconds=3600
    )
    assert status == 0, output
