"""The sample pictures: photographs of Eileen Collins and Grace Hopper."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from services.testing.servers import give_up

_ROOT: Final = Path(__file__).parents[2]


def sample(name: str) -> Path:
    """Return ``astronaut.png`` or ``grace_hopper.jpg``, downloaded when it is not there yet."""
    path = _ROOT / "var" / "samples" / name
    if not path.exists():
        result = subprocess.run(
            [sys.executable, str(_ROOT / "scripts" / "get-samples")],
            check=False,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            give_up(f"no sample pictures, run 'scripts/get-samples': {result.stderr.strip()}")
    return path
