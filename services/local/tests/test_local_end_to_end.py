"""The runner and the demo as a person starts them, with all real services."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image, ImageOps

from services.testing.samples import sample

ROOT = Path(__file__).parents[3]
SERVICES = {"face_recog", "receiver", "image_processor", "redeemer", "people", "frontend"}
PATIENCE = 120


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of the two photographs."""
    return {sample(name).parent for name in ("astronaut.png", "grace_hopper.jpg")}.pop()


def environment(folder: Path, **settings: str) -> dict[str, str]:
    return {
        **{key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ},
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "160",
        "POOL_SIZE": "1",
        "RECEIVER_PORT": "0",
        "FRONTEND_PORT": "0",
        "DATA_FOLDER": str(folder / "local"),
        "DEMO_FOLDER": str(folder / "demo"),
        **settings,
    }


def ended(command: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "services.local", command],
        cwd=folder,
        env=environment(folder, **settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class Run:
    """``make run`` in a folder of its own, as a process group like that of a terminal."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.output_file = folder / "output"
        self.logs = folder / "local" / "logs"
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.local", "run"],
                cwd=folder,
                env=environment(folder, **settings),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def address(self, name: str) -> str:
        self.until(lambda: "Ctrl-C stops it" in self.output)
        found = re.search(rf"{name} +(http://\S+)", self.output)
        assert found, self.output
        return found[1]

    def children(self) -> dict[str, psutil.Process]:
        """The services' processes by name."""
        children = psutil.Process(self.process.pid).children()
        return {child.cmdline()[-1].removeprefix("services."): child for child in children}


def lives(process: psutil.Process) -> bool:
    """Tell whether it still runs; one that ended may wait for pid 1 to notice."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    run.address("Page")
    yield run
    if run.process.poll() is None:
        run.process.send_signal(signal.SIGINT)
        run.process.wait(PATIENCE)


def test_the_demo_shows_every_row_as_it_should_be(samples: Path, tmp_path: Path) -> None:
    demo = ended("demo", tmp_path, SAMPLES_FOLDER=str(samples))
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "All 13 rows are as they should be." in demo.stdout
    rows = re.findall(r"(\S+) +(single|bulk|upload) +(?:processed|rejected) ", demo.stdout)
    assert len(rows) == 13
    assert {how for _, how in rows} == {"single", "bulk", "upload"}
    assert demo.stderr == ""
    # Once more in the same folder: it begins anew.
    marks = list((tmp_path / "demo").glob(".facestack-demo"))
    assert len(marks) == 1


def test_the_demo_fails_and_says_what_is_wrong(samples: Path, tmp_path: Path) -> None:
    # Two pictures of one person, enrolled as two people: who is like both gets no name.
    sabotaged = tmp_path / "samples"
    sabotaged.mkdir()
    shutil.copy(samples / "astronaut.png", sabotaged)
    with Image.open(samples / "astronaut.png") as photo:
        ImageOps.mirror(photo.convert("RGB")).save(sabotaged / "grace_hopper.jpg")
    demo = ended("demo", tmp_path, SAMPLES_FOLDER=str(sabotaged))
    assert demo.returncode == 1, demo.stdout + demo.stderr
    assert re.search(r"wrong: grace-\S+: expected Grace Hopper, got somebody unknown", demo.stdout)
    assert re.search(r"\d+ of 13 rows are wrong", demo.stdout)


def test_the_demo_empties_no_folder_that_it_did_not_make(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("years of work")
    demo = ended("demo", tmp_path, SAMPLES_FOLDER=str(samples))
    assert demo.returncode == 1
    (line,) = demo.stderr.splitlines()
    assert "was not made by the demo" in line
    assert (tmp_path / "demo" / "thesis.txt").read_text() == "years of work"


def test_missing_samples_are_one_line(tmp_path: Path) -> None:
    demo = ended("demo", tmp_path, SAMPLES_FOLDER=str(tmp_path / "nothing"))
    assert demo.returncode == 1
    (line,) = demo.stderr.splitlines()
    assert "run 'make samples'" in line
    assert demo.stdout == ""


def drained_at(log: Path) -> str:
    """Return when a service was told to drain."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return str(next(entry["timestamp"] for entry in entries if entry["event"] == "draining"))


def test_run_answers_and_ctrl_c_drains_it(running: Run) -> None:
    assert httpx.get(running.address("Page"), follow_redirects=True).status_code == 200
    api = running.address("API")
    posted = httpx.post(f"{api}/image/post", json={"path": "nothing-there.jpg"})
    assert posted.status_code == 202
    assert httpx.get(f"{api}/docs").status_code == 200
    children = running.children()
    assert set(children) == SERVICES
    family = psutil.Process(running.process.pid).children(recursive=True)

    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does
    assert running.process.wait(10) == 0

    stopped = re.search(r"Stopped in ([0-9.]+) s", running.output)
    assert stopped, running.output
    # A child that was killed, or ended with another code than 0, would be named.
    assert not re.search("killed|ended with|ended by", running.output), running.output
    assert [process for process in family if lives(process)] == []
    drained = {name: drained_at(running.logs / f"{name}.log") for name in SERVICES}
    assert drained["frontend"] < drained["receiver"]
    assert drained["receiver"] < min(drained["image_processor"], drained["redeemer"])
    assert max(drained["image_processor"], drained["redeemer"]) < drained["face_recog"]


def test_every_curl_of_the_docs_is_answered(running: Run, samples: Path, tmp_path: Path) -> None:
    if not (curl := shutil.which("curl")):
        pytest.skip("curl is not installed: run 'apt-get install curl'")
    shutil.copy(samples / "astronaut.png", tmp_path / "holiday.jpg")
    shutil.copy(samples / "grace_hopper.jpg", tmp_path / "grace.jpg")
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for page in pages for line in page.read_text().splitlines()]
    documented = "http://127.0.0.1:8000"
    asks = [line for line in lines if line.startswith("curl ") and documented in line]
    assert len(asks) > 5
    for command in (line.removeprefix("curl ") for line in asks):
        here = command.replace(documented, running.address("API"))
        asked = [curl, "--fail", "--silent", "--show-error", *shlex.split(here, comments=True)]
        answer = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, (command, answer.stderr)
        assert json.loads(answer.stdout)


@pytest.mark.parametrize("setting", ["RECEIVER_PORT", "FRONTEND_PORT"])
def test_a_taken_port_is_one_line(setting: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = ended("run", tmp_path, **{setting: str(port)})
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert f"127.0.0.1:{port}: Address already in use" in line
    assert setting in line
    assert setting.removesuffix("_PORT").lower() in line
    assert run.stdout == ""


def test_two_services_on_one_port_are_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    run = ended("run", tmp_path, RECEIVER_PORT=port, FRONTEND_PORT=port)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert "FRONTEND_PORT" in line


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = ended("run", tmp_path, DATA_FOLDER=str(tmp_path / "file" / "local"))
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert "cannot write to" in line
    assert "Not a directory" in line
    assert run.stdout == ""


def test_a_service_that_cannot_start_ends_everything_with_its_reason(tmp_path: Path) -> None:
    run = ended("run", tmp_path, POOL_SIZE="none")
    assert run.returncode == 1
    assert run.stdout == "Starting 6 services ...\n"
    (line,) = run.stderr.splitlines()
    assert "face_recog ended with code 2 before it was ready" in line
    assert "POOL_SIZE" in line


def test_a_killed_service_is_started_again(running: Run) -> None:
    api = running.address("API")
    before = running.children()["receiver"]
    before.kill()
    running.until(lambda: "was ended by SIGKILL, starting it again in 0.5 s" in running.output)

    def answers() -> bool:
        try:
            return httpx.get(f"{api}/readyz").is_success
        except httpx.HTTPError:
            return False

    running.until(answers)
    assert running.children()["receiver"].pid != before.pid


def test_services_end_with_a_runner_that_is_killed(running: Run) -> None:
    family = psutil.Process(running.process.pid).children(recursive=True)
    assert len(family) >= len(SERVICES)
    running.process.kill()
    running.process.wait(10)
    deadline = time.monotonic() + PATIENCE
    while alive := [process for process in family if lives(process)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def test_a_service_that_does_not_stop_is_killed_and_named(running: Run) -> None:
    stuck = running.children()["redeemer"]
    stuck.suspend()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(20) == 0
    assert "redeemer did not stop in time and was killed" in running.output.replace("  ", "")
    assert not lives(stuck)


def test_a_second_ctrl_c_stops_at_once(running: Run) -> None:
    running.children()["frontend"].suspend()
    running.process.send_signal(signal.SIGINT)
    running.until(lambda: "Stopping" in running.output)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 0
    assert "frontend did not stop in time and was killed" in running.output.replace("  ", "")
