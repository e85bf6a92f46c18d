"""The samples: photographs of Eileen Collins and Grace Hopper, and the weights of an engine."""

import subprocess
from pathlib import Path
from typing import Final

from services.testing.servers import give_up

_ROOT: Final = Path(__file__).parents[2]


def sample(name: str) -> Path:
    """Return ``astronaut.png`` or ``grace_hopper.jpg``, downloaded when it is not there yet."""
    return _get(_ROOT / "var" / "samples" / name, "scripts/get-samples")


def weights(name: str) -> Path:
    """Return ``centerface.onnx``, downloaded when it is not there yet."""
    return _get(_ROOT / "var" / "models" / name, "scripts/get-samples")


def embedder() -> Path:
    """Return an ONNX model as an operator may bring it: pixels less 127, divided by 128, RGB, 512.

    What it was trained on, nobody says: it is for tests alone, and in no image.
    """
    return _get(_ROOT / "var" / "models" / "embedder.onnx", "scripts/get-samples", "embedder")


def _get(path: Path, *command: str) -> Path:
    if not path.exists():
        result = subprocess.run(command, cwd=_ROOT, check=False, capture_output=True, text=True)
        if result.returncode:
            give_up(f"{path.name} is missing, run '{' '.join(command)}': {result.stderr.strip()}")
    return path
