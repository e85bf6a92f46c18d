"""The samples: photographs of Eileen Collins and Grace Hopper, and the weights of an engine."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from services.testing.servers import give_up

_ROOT: Final = Path(__file__).parents[2]


def sample(name: str) -> Path:
    """Return ``astronaut.png`` or ``grace_hopper.jpg``, downloaded when it is not there yet."""
    return _get(_ROOT / "var" / "samples" / name)


def weights(name: str) -> Path:
    """Return ``centerface.onnx``, downloaded when it is not there yet."""
    return _get(_ROOT / "var" / "models" / name)


def _get(path: Path) -> Path:
    if not path.exists():
        result = subprocess.run(
            [sys.executable, str(_ROOT / "scripts" / "get-samples")],
            check=False,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            give_up(f"{path.name} is missing, run 'scripts/get-samples': {result.stderr.strip()}")
    return path
