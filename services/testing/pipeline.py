"""The whole pipeline as real processes on one machine, for tests from outside."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from services.local.programs import Plan, Program, make_plan
from services.local.settings import LocalSettings
from services.testing.servers import Server

_START_SECONDS: Final = 60


class Service(Server):
    """One service; ``stop`` asks it to end and fails when it does not end cleanly."""

    def __init__(self, program: Program, folder: Path, settings: Mapping[str, str]) -> None:
        url = httpx.URL(program.probe_url)
        assert url.port is not None
        log = folder / f"{program.name}.log"
        super().__init__(
            [sys.executable, "-m", f"services.{program.name}"],
            port=url.port,
            log=log,
            env={**program.environment, **settings},
        )
        self.probe_url = program.probe_url
        self._program = program

    def wait_ready(self) -> None:
        """Return when it says that it can serve."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(f"{self._program.probe_url}/readyz", trust_env=False)
            except httpx.HTTPError:
                continue
            if answer.is_success:
                return
            time.sleep(0.05)
        pytest.fail(f"{self._program.name} is not ready: {self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Ask it to end, and wait."""
        process = self._process
        super().stop()
        if process is not None and process.returncode != 0:
            log = self._log.read_text()[-2000:]
            pytest.fail(f"{self._program.name} ended with {process.returncode}: {log}")


class Pipeline:
    """Receiver, image_processor, face_recog, redeemer and frontend on a folder of their own.

    ``settings`` are what every service is told beside what a local run tells it.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        ports = LocalSettings(receiver_port=0, frontend_port=0)
        self._plan: Plan = make_plan(ports, folder, os.environ)
        self._plan.logs.mkdir(parents=True, exist_ok=True)
        self.services = {
            program.name: Service(program, self._plan.logs, settings)
            for program in self._plan.programs
        }
        self.page_url = self._plan.page_url
        self.api_url = self._plan.api_url
        self.store = Path(httpx.URL(self._plan.environment["OBJECT_STORE_URL"]).path)
        self.face_recog_metrics_url = self._plan.face_recog_metrics_url
        self.face_recog_target = self._plan.environment["FACE_RECOG_TARGET"]

    def start(self) -> None:
        """Migrate, start everything and wait until all of it is ready."""
        subprocess.run(
            [sys.executable, "-m", "services.migrations"],
            check=True,
            env=dict(self._plan.environment),
        )
        for service in self.services.values():
            service.start()
        for service in self.services.values():
            service.wait_ready()

    def stop(self) -> None:
        """End every process, the ones that give work before those that do it."""
        for service in reversed(self.services.values()):
            service.stop()


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[Pipeline]:
    """Run a pipeline for as long as the block takes."""
    pipeline = Pipeline(folder, **settings)
    try:
        pipeline.start()
        yield pipeline
    finally:
        pipeline.stop()


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """The whole pipeline for the session, empty at its start."""
    with running(tmp_path_factory.mktemp("pipeline")) as one:
        yield one
