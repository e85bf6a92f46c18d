"""Every folder of services/ is found by its name alone, and has the same inside."""

import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
IMAGES: Final = subprocess.check_output([ROOT / "scripts/images", "--list"], text=True).split()
INSIDE: Final = {"adapters", "app", "domain", "metrics", "ports", "service", "settings", "tests"}
OTHERWISE: Final = {
    "client": "a command",
    "common": "what all share",
    "credentials": "a job",
    "local": "starts the others",
    "migrations": "a job",
    "testing": "for tests",
}
"""Folders with another inside, and what they are."""


def test_every_service_has_the_same_inside() -> None:
    services = {folder.parent.name for folder in ROOT.glob("services/*/__init__.py")}
    assert services > OTHERWISE.keys()
    for service in services - OTHERWISE.keys():
        names = {path.stem for path in (ROOT / "services" / service).iterdir()}
        assert names - INSIDE <= {
            "__init__",
            "__main__",
            "__pycache__",
            "debian",
            "static",
            "templates",
        }, service


def test_an_image_is_what_starts_and_is_let_into_a_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    kept_out = {name.removeprefix("services/") for name in ignored if name.startswith("services/")}
    started = {main.parent.name for main in ROOT.glob("services/*/__main__.py")}
    assert {image.replace("-", "_") for image in IMAGES} == started - kept_out
    assert kept_out < OTHERWISE.keys()


def test_every_image_says_what_it_is() -> None:
    """scripts/images labels an image with the first line of its service's docstring."""
    for image in IMAGES:
        file = f"services/{image.replace('-', '_')}/__init__.py"
        first = subprocess.check_output(["sed", "-n", '1s/"""//gp', file], cwd=ROOT, text=True)
        assert first.strip().endswith("."), file
