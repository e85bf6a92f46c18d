"""What requirements/*.txt pin, and which images are made of it."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pip_requirements_parser import RequirementsFile

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "requirements"

# It builds what comes as source, and stays out of the images.
_BUILDS: Final = "setuptools"


@dataclass(frozen=True)
class Pin:
    """One version of a distribution, and the SHA-256, as hex, of each file that may be it."""

    name: str
    version: str
    hashes: Sequence[str]


def images() -> Sequence[str]:
    """Return the names of the services' images, sorted."""
    return subprocess.check_output([ROOT / "scripts/images", "--list"], text=True).split()


def pins(lock: Path) -> Sequence[Pin]:
    """Return what a lock file installs here: lines for other machines are left out."""
    return [
        Pin(
            line.name,
            line.get_pinned_version,
            [given.removeprefix("sha256:") for given in line.hash_options],
        )
        for line in RequirementsFile.from_file(str(lock)).requirements
        if line.marker is None or line.marker.evaluate()
    ]


def image_pins(image: str) -> Sequence[Pin]:
    """Return which distributions an image holds: its own, or only what all have in common."""
    own = FOLDER / f"{image}.txt"
    lock = own if own.exists() else FOLDER / "common.txt"
    return [pin for pin in pins(lock) if pin.name != _BUILDS]
