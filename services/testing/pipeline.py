"""The whole pipeline as real processes on one machine, for tests from outside."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from services.local.programs import make_plan
from services.local.settings import LocalSettings
from services.testing.processes import Service


class Pipeline:
    """What ``make run`` starts, on a folder of its own: all services but webhooks.

    Everybody may do everything, or whoever has a key ``with_keys``. ``settings`` are what every
    service is told beside what a local run tells it.
    """

    def __init__(self, folder: Path, *, with_keys: bool = False, **settings: str) -> None:
        ports = LocalSettings(receiver_port=0, frontend_port=0)
        self._plan = make_plan(ports, folder, {}, with_keys=with_keys)
        self._plan.logs.mkdir(parents=True, exist_ok=True)
        self.services = {
            program.name: Service(
                f"services.{program.name}",
                self._plan.logs / f"{program.name}.log",
                **{**program.environment, **settings},
            )
            for program in self._plan.programs
        }
        self.page_url = self._plan.page_url
        self.api_url = self._plan.api_url
        self.administrator_key = self._plan.administrator_key
        self.store = Path(httpx.URL(self._plan.environment["OBJECT_STORE_URL"]).path)
        self.face_recog_metrics_url = self._plan.face_recog_metrics_url
        self.face_recog_target = self._plan.environment["FACE_RECOG_TARGET"]

    def start(self) -> None:
        """Migrate, start everything and wait until all of it is ready."""
        subprocess.run(
            [sys.executable, "-m", "services.migrations"],
            check=True,
            env={**os.environ, **self._plan.environment},
        )
        for service in self.services.values():
            service.start()
        for service in self.services.values():
            service.wait_ready()

    def stop(self) -> None:
        """End every process, the last of the plan first."""
        for service in reversed(self.services.values()):
            service.stop()


@contextmanager
def running(folder: Path, *, with_keys: bool = False, **settings: str) -> Iterator[Pipeline]:
    """Run a pipeline for as long as the block takes."""
    pipeline = Pipeline(folder, with_keys=with_keys, **settings)
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
