"""dlib as the image of face_recog has it, built with OpenBLAS, against the wheel from PyPI."""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from scripts.bench import faces
from scripts.bench.pictures import write_variants

_ROUNDS: Final = 20
_ROOT: Final = Path(__file__).parents[2]
_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class _Dlib:
    """A process that finds and encodes faces, one picture after the other."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, **_ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self, picture: Path) -> dict[str, Any]:
        assert self._process.stdin  # noqa: S101, both are pipes
        assert self._process.stdout  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            print(picture, file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            raise EOFError(f"{self._process.args!r} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        self._process.communicate()


def run(console: Console, folder: Path, *, short: bool) -> None:
    """Print the table of the wheel and of the image."""
    tag = subprocess.run(
        [_ROOT / "scripts" / "image-tag"], check=True, capture_output=True, text=True
    ).stdout.strip()
    image = f"facestack/face-recog:{tag}"
    inspect = ["docker", "image", "inspect", image]
    try:
        subprocess.run(inspect, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(f"dlib: there is no image {image}: run 'make images'") from None
    program = Path(faces.__file__)
    container = ["docker", "run", "--rm", "--interactive", "--network=none"]
    container += [f"--user={os.getuid()}:{os.getgid()}", "--env=PYTHONPATH=/app"]
    container += [f"--env={name}={value}" for name, value in _ONE_THREAD.items()]
    container += [f"--volume={folder}:{folder}:ro", f"--volume={program}:/faces.py:ro"]
    compare(console, folder, [*container, "--entrypoint=python", image, "/faces.py"], short=short)


def compare(console: Console, folder: Path, command: Sequence[str], *, short: bool) -> None:
    """Print the table of the wheel and of what answers as :mod:`scripts.bench.faces` does.

    The two take turns at every picture, so that noise meets both.
    """
    rounds = 2 if short else _ROUNDS
    pictures = write_variants(folder, rounds, largest=600)
    commands = {
        "wheel from PyPI": (sys.executable, "-m", faces.__name__),
        "with OpenBLAS": command,
    }
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    with contextlib.ExitStack() as ended:
        dlibs: dict[str, _Dlib] = {}
        for name, program in commands.items():
            dlibs[name] = _Dlib(*program)
            ended.callback(dlibs[name].end)
        for name, dlib in dlibs.items():  # the first answer loads the models
            answers[name].append(dlib.answer(pictures[0]))
        for picture in pictures:
            for name, dlib in random.sample(list(dlibs.items()), len(dlibs)):
                answers[name].append(dlib.answer(picture))

    wheel, ours = (
        [answer for answer in found[1:] if answer["boxes"]] for found in answers.values()
    )
    table = Table(
        "",
        *(f"{name}, ms" for name in dlibs),
        "ratio",
        title=f"dlib, one thread, median of {rounds} pictures of one face",
    )
    for step in ("detection", "encoding"):
        before, after = (
            statistics.median(answer[step] for answer in found) * 1000 for found in (wheel, ours)
        )
        table.add_row(step, f"{before:.1f}", f"{after:.1f}", f"{after / before:.2f}")
    console.print(table)
    same = [found["boxes"] for found in wheel] == [found["boxes"] for found in ours]
    console.print(f"Boxes: {'the same' if same else 'NOT the same'} in {len(wheel)} pictures.")
    if same:
        farthest = max(
            float(np.linalg.norm(np.subtract(one, other)))
            for first, second in zip(wheel, ours, strict=True)
            for one, other in zip(first["encodings"], second["encodings"], strict=True)
        )
        console.print(f"Farthest two encodings of one face: {farthest:.1e} (a match is up to 0.6).")
