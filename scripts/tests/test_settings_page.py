"""docs/settings.md is what the classes say, and says of each setting what it is for."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from scripts.manifests.rules.settings import settings_class
from services.common.settings import Settings

ROWS: Final = re.compile(r"^\| `([A-Z0-9_]+)` \| (.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)
ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/settings.md").read_text()
FOLDERS: Final = {file.parent.name for file in ROOT.glob("services/*/settings.py")} - {"common"}
SERVICES: Final = {name: one for name in sorted(FOLDERS) if (one := settings_class(name))}


def test_the_page_is_written_from_the_classes(tmp_path: Path) -> None:
    for name in (".venv", "Makefile", "scripts", "services"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs/settings.md"
    shutil.copy(ROOT / "docs/settings.md", page)
    make = ["make", "--silent", "--assume-old=venv-dev", "settings"]
    subprocess.run(make, cwd=tmp_path, check=True)
    assert page.read_text() == PAGE, "run 'make settings'"


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_is_on_the_page_and_says_what_it_is_for(service: str) -> None:
    on_page = {row[0]: row[3] for row in ROWS.findall(PAGE)}
    for name, field in SERVICES[service].model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert name.upper() in on_page


@pytest.mark.parametrize("name", ["WORK_SECONDS", "MAX_UPLOAD_BYTES", "KEPT_DAYS", "PORT"])
def test_a_number_has_a_unit(name: str) -> None:
    units = {row[0]: row[2].split(",")[0] for row in ROWS.findall(PAGE)}
    assert units[name] in {"s", "bytes", "days", "port"}


def test_a_default_is_shown_as_it_is_written() -> None:
    defaults = {row[0]: row[1] for row in ROWS.findall(PAGE)}
    assert defaults["DATABASE_URL"] == "must be set"
    assert defaults["POOL_SIZE"] == "by the machine"
    assert defaults["MAX_UPLOAD_BYTES"] == "`104857600`, 100 MiB"
    assert defaults["NSQD_URL"] == "none"


def test_the_example_of_an_env_file_has_the_defaults() -> None:
    lines = re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    fields = {
        name.upper(): field
        for service in (SERVICES["frontend"], SERVICES["face_recog"], SERVICES["local"])
        for name, field in service.model_fields.items()
    }
    assert len(lines) > 5
    for name, value in lines:
        assert name in fields
        assert fields[name].default_factory or str(fields[name].default) == value


@pytest.mark.parametrize("file", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_a_setting_that_is_named_exists(file: Path) -> None:
    names = {name.upper() for service in SERVICES.values() for name in service.model_fields}
    unit = "SECONDS|BYTES|DAYS|SIZE|FILE|FOLDER|TARGET|PEOPLE|NAMES|ATTEMPTS|URLS|FLIGHT|TOPIC"
    named = set(re.findall(rf"`([A-Z][A-Z0-9_]*_(?:{unit}))\b", file.read_text()))
    assert named <= names


def test_every_service_with_settings_is_found() -> None:
    assert {"receiver", "image_processor", "face_recog", "people", "migrations"} <= SERVICES.keys()
    assert all(issubclass(service, Settings) for service in SERVICES.values())
    assert settings_class("testing") is None


def test_where_known_people_lie_is_no_setting() -> None:
    assert not any("known_people" in service.model_fields for service in SERVICES.values())
