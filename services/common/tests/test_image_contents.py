"""A service's image holds services.common, the service, and what its own requirements name."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SERVICES = [
    "receiver",
    "image_processor",
    "face_recog",
    "frontend",
    "redeemer",
    "people",
    "migrations",
    "credentials",
    "client",
]

# Imports every module of a service while the packages that are named after it do not exist.
IMPORT_ALL = """
import importlib, pkgutil, sys

service, missing = sys.argv[1], frozenset(sys.argv[2:])

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"the image has no {name}", name=name)

sys.meta_path.insert(0, Missing())
package = importlib.import_module(f"services.{service}")
for module in pkgutil.walk_packages(package.__path__, f"services.{service}."):
    # The first runs only inside Alembic, the others are no names that an import can have.
    if module.name != "services.migrations.env" and ".versions" not in module.name:
        importlib.import_module(module.name)
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def not_required(service: str) -> list[str]:
    """Return the top-level packages of this environment that the service does not ask for."""
    lock = ROOT / "requirements" / f"{normal(service)}.txt"
    required = {
        normal(name)
        for name in re.findall(r"^([\w.-]+)(?:\[.*\])?==", lock.read_text(), re.MULTILINE)
    }
    return [
        package
        for package, distributions in packages_distributions().items()
        if not required.intersection(normal(one) for one in distributions)
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_only_what_its_image_has(service: str, tmp_path: Path) -> None:
    image = tmp_path / "services"
    image.mkdir()
    shutil.copy(ROOT / "services" / "__init__.py", image)
    for part in ("common", service):
        shutil.copytree(
            ROOT / "services" / part,
            image / part,
            ignore=shutil.ignore_patterns("tests", "__pycache__"),
        )
    missing = not_required(service)
    assert "pytest" in missing
    imported = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, service, *missing],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert imported.returncode == 0, imported.stderr
