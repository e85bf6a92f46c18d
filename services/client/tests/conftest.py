"""The command as ``pip install`` puts it there, and a pipeline to talk to."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
from PIL import Image, ImageOps

from services.testing.pipeline import Pipeline, running
from services.testing.samples import sample

ROOT = Path(__file__).parents[3]
PATIENCE = 120

_WAITING = re.compile(r"^facestack: \S+ does not answer: .*\. Waiting for it\n", re.MULTILINE)


def without_waiting(said: str) -> str:
    """What is said but for outages: SQLite keeps writers waiting too long on a busy machine."""
    return _WAITING.sub("", said)


class Run(Protocol):
    """Runs the command to its end; the server is the pipeline's unless the settings say else."""

    def __call__(
        self, *arguments: str | Path, **settings: str
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment in which ``facestack`` is on PATH, out of a wheel."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    ignored = shutil.ignore_patterns("tests", "__pycache__")
    shutil.copytree(ROOT / "services", source / "services", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-index", "--no-deps", "--no-build-isolation", "--prefix", str(folder), "."),
        ],
        cwd=source,
        check=True,
    )
    [packages] = folder.glob("lib/python*/site-packages")
    return {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(packages),
        "HOME": str(folder),
    }


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline of the module's own, empty at its start, that asks for keys."""
    with running(tmp_path_factory.mktemp("pipeline"), with_keys=True) as one:
        yield one


@pytest.fixture
def environment(installed: Mapping[str, str], pipeline: Pipeline) -> dict[str, str]:
    """What the command is started with."""
    return {
        **installed,
        "FACESTACK_URL": pipeline.api_url,
        "FACESTACK_KEY": pipeline.administrator_key,
    }


@pytest.fixture
def facestack(environment: dict[str, str], tmp_path: Path) -> Run:
    """The command, in an empty folder."""

    def run(*arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["facestack", *map(str, arguments)],
            cwd=tmp_path,
            env={**environment, **settings},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def grace() -> Image.Image:
    return Image.open(sample("grace_hopper.jpg")).convert("RGB")


@pytest.fixture(scope="session")
def eileen() -> Image.Image:
    return ImageOps.mirror(Image.open(sample("astronaut.png")).convert("RGB"))
