"""The bills of materials are valid, complete, and the same every time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import cyclonedx.schema
import jsonschema_rs
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import sbom

IMAGES: Final = subprocess.check_output([sbom.ROOT / "scripts/images", "--list"], text=True).split()
DEBIAN: Final = (
    "installed pkg:deb/debian/libstdc++6@12.2.0-14+deb12u1?arch=amd64&upstream=gcc-12",
    "config-files pkg:deb/debian/gone@1?arch=amd64&upstream=gone",
)
SCHEMAS: Final = Path(cyclonedx.schema.__file__).parent / "_res"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sbom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sbom, "FOLDER", folder)
        sbom.main([])
    return folder


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_each_is_as_the_schema_of_cyclonedx_wants_it(written: Path) -> None:
    names = ("spdx", "jsf-0.82", "cryptography-defs")
    registry = jsonschema_rs.Registry(
        [
            (f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", read(file))
            for name in names
            for file in [SCHEMAS / f"{name}.SNAPSHOT.schema.json"]
        ]
    )
    schema = read(SCHEMAS / "bom-1.6.SNAPSHOT.schema.json")
    validator = jsonschema_rs.validator_for(schema, registry=registry)
    for file in written.iterdir():
        validator.validate(read(file))
    wrong = read(written / "python.cdx.json") | {"components": [{"name": "no type"}]}
    assert not validator.is_valid(wrong)


def test_each_image_has_one_with_every_version_and_licence_of_its_lock_file(written: Path) -> None:
    files = {file.name.removesuffix(".cdx.json") for file in written.iterdir()}
    assert files == {*IMAGES, "python"}
    for name in files:
        file = sbom.ROOT / f"requirements/{'dev' if name == 'python' else name}.txt"
        lock = (file if file.exists() else file.with_stem("common")).read_text()
        components = read(written / f"{name}.cdx.json")["components"]
        held = {f"{canonicalize_name(one['name'])}=={one['version']}" for one in components}
        lines = [Requirement(line.rstrip("\\")) for line in lock.splitlines() if "==" in line]
        locked = {
            f"{line.name}{line.specifier}"
            for line in lines
            if (line.marker is None or line.marker.evaluate())
            # It only builds, and is in no image.
            and (line.name != "setuptools" or name == "python")
        }
        # An environment has a pip of its own.
        assert {pin for pin in held if not pin.startswith("pip==")} == locked
        without = {one["name"] for one in components if not one.get("licenses")}
        assert name == "python" or without <= {"dlib-bin", "protobuf", "pyrage"}


def test_the_same_input_gives_the_same_bytes(written: Path) -> None:
    again = [sys.executable, "-m", "scripts.sbom"]
    subprocess.run(again, cwd=sbom.ROOT, env=os.environ | {"PYTHONHASHSEED": "1"}, check=True)
    for name in ("face-recog.cdx.json", "python.cdx.json"):
        assert (sbom.FOLDER / name).read_bytes() == (written / name).read_bytes()


@pytest.fixture
def docker(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with what each image says that it holds, by a program in Docker's place."""
    for image in IMAGES:
        components = read(written / f"{image}.cdx.json")["components"]
        held = ["pkg:generic/python@3.11.9", *(one["purl"] for one in components), *DEBIAN]
        (tmp_path / image).write_text("\n".join(held))
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\nname=${{6#facestack/}}\ncat {tmp_path}/${{name%%:*}}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sbom, "FOLDER", tmp_path / "sbom")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def test_what_an_image_holds_of_debian_is_added(docker: Path, written: Path) -> None:
    sbom.main(["--images"])
    for image in IMAGES:
        bill = read(sbom.FOLDER / f"{image}.cdx.json")
        found = {one["purl"]: one for one in bill["components"]}
        without = {one["purl"] for one in read(written / f"{image}.cdx.json")["components"]}
        deb = "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&upstream=gcc-12"
        assert found.keys() - without == {deb, "pkg:generic/python@3.11.9"}
        assert without <= found.keys()
        assert (found[deb]["name"], found[deb]["version"]) == ("libstdc++6", "12.2.0-14+deb12u1")
        assert bill["dependencies"][0]["dependsOn"].count(deb) == 1


def test_an_image_with_other_distributions_than_locked_is_refused(docker: Path) -> None:
    (docker / "people").write_text("pkg:pypi/anyio@4.0\n")
    with pytest.raises(SystemExit, match=r"people:\S+ holds other distributions than its lock"):
        sbom.main(["--images"])
    assert not (sbom.FOLDER / "people.cdx.json").exists()


def test_an_image_that_is_not_there_is_said(
    docker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (docker / "people").unlink()
    with pytest.raises(SystemExit, match=r"look into \S+people:\S+, run 'make images': Command"):
        sbom.main(["--images"])
    assert "people: No such file or directory" in capfd.readouterr().err
