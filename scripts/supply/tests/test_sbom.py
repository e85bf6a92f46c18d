"""The bills of materials are valid, complete, and the same every time."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import cyclonedx.schema
import jsonschema_rs
import pytest
from packaging.requirements import Requirement

from scripts.supply import locks, sbom
from scripts.supply.__main__ import main

SCHEMAS: Final = Path(cyclonedx.schema.__file__).parent / "_res"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sbom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sbom, "FOLDER", folder)
        assert main(["sbom"]) == 0
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


def test_each_image_has_one_with_every_version_and_hash_of_its_lock_file(written: Path) -> None:
    files = {file.name.removesuffix(".cdx.json") for file in written.iterdir()}
    assert files == {*locks.images(), "python"}
    for name in files:
        lock = (locks.FOLDER / f"{'dev' if name == 'python' else name}.txt").read_text()
        components = read(written / f"{name}.cdx.json")["components"]
        held = {f"{component['name']}=={component['version']}" for component in components}
        lines = [Requirement(line.rstrip("\\")) for line in lock.splitlines() if "==" in line]
        locked = {
            f"{line.name}{line.specifier}"
            for line in lines
            if (line.marker is None or line.marker.evaluate())
            # It only builds, and is in no image.
            and (line.name != "setuptools" or name == "python")
        }
        assert held == locked
        hashes = {hash_["content"] for component in components for hash_ in component["hashes"]}
        assert hashes <= set(re.findall(r"--hash=sha256:(\S+)", lock))
        assert all(component["hashes"] for component in components)


def test_the_same_input_gives_the_same_bytes(written: Path) -> None:
    again = [sys.executable, "-m", "scripts.supply", "sbom", "face-recog", "python"]
    subprocess.run(again, cwd=locks.ROOT, env=os.environ | {"PYTHONHASHSEED": "1"}, check=True)
    for name in ("face-recog.cdx.json", "python.cdx.json"):
        assert (sbom.FOLDER / name).read_bytes() == (written / name).read_bytes()


def test_an_image_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sbom, "FOLDER", tmp_path)
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'no such image' >&2\nexit 125\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert main(["sbom", "--images", "people"]) == 1
    said = capsys.readouterr().err
    assert re.match(r"sbom: cannot look into facestack/people:\S+, run 'make images'", said)
    assert main(["sbom", "peple"]) == 1
    assert "no image is called peple: choose from backup, credentials" in capsys.readouterr().err
