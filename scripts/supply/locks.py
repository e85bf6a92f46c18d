"""What requirements/*.txt pin, and which images are made of it."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pip_requirements_parser import RequirementsFile

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "requirements"


class Pin(NamedTuple):
    """One version of a distribution, and the SHA-256, as hex, of each file that may be it."""

    name: str
    version: str
    hashes: Sequence[str]


def images() -> Sequence[str]:
    """Return the names of the services' images, sorted."""
    return subprocess.check_output([ROOT / "scripts/images", "--list"], text=True).split()


def pins(lock: str) -> Sequence[Pin]:
    """Return what the lock file of this name installs here: nothing for other machines."""
    lines = RequirementsFile.from_file(str(FOLDER / f"{lock}.txt")).requirements
    return [
        Pin(
            line.name,
            line.get_pinned_version,
            [given.removeprefix("sha256:") for given in line.hash_options],
        )
        for line in lines
        if line.marker is None or line.marker.evaluate()
    ]


def image_pins(image: str) -> Sequence[Pin]:
    """Return which distributions an image holds: its own, or only what all have in common."""
    own = pins(image if (FOLDER / f"{image}.txt").exists() else "common")
    # It builds what comes as source, and stays out of the images.
    return [pin for pin in own if pin.name != "setuptools"]
