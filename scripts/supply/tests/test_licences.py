"""The page of licences is of today, and nothing is on it that nobody has allowed."""

import fnmatch
import subprocess
from collections.abc import Callable
from email.message import Message
from importlib import metadata
from typing import Final

import pytest

from scripts.supply import licences, locks
from scripts.supply.__main__ import main

Stated = list[tuple[str, str]]
UNSURE: Final = "which is no name of SPDX: read its licence"


@pytest.fixture
def stating(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stated], None]:
    """Return a function that gives every distribution this metadata."""

    def state(stated: Stated) -> None:
        message = Message()
        for name, value in stated:
            message[name] = value
        monkeypatch.setattr(metadata, "metadata", lambda name: message)

    return state


def test_the_page_is_of_today() -> None:
    assert licences.page() == licences.PAGE.read_text()


@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        ([("License-Expression", "MIT"), ("License", "GPL-3.0-only")], "MIT"),
        ([("License-Expression", "GPL-3.0-only OR MIT")], "GPL-3.0-only OR MIT"),
        (
            [("License-Expression", "Apache-2.0 WITH LLVM-exception OR MIT")],
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ),
        ([("License", "Copyright: all of a text ..."), ("License", "MIT")], "MIT"),
        ([("License", "Apache 2.0")], "Apache-2.0"),
        ([("Classifier", "License :: OSI Approved :: MIT License")], "MIT"),
    ],
)
def test_a_licence_is_read_from_the_metadata(
    stating: Callable[[Stated], None], stated: Stated, licence: str
) -> None:
    stating(stated)
    assert licences.licence("something") == licence


@pytest.mark.parametrize(
    ("distribution", "stated", "said"),
    [
        ("something", [("License-Expression", "GPL-3.0-only")], "which is not allowed"),
        ("something", [("License-Expression", "MIT AND GPL-2.0-only")], "which is not allowed"),
        ("something", [], f"nothing, {UNSURE}"),
        ("something", [("License", "Free for all")], f"Free for all, {UNSURE}"),
        ("pillow-heif", [("License", "Proprietary")], "Proprietary, no longer BSD-3-Clause"),
    ],
)
def test_a_licence_that_nobody_has_allowed_is_refused(
    stating: Callable[[Stated], None], distribution: str, stated: Stated, said: str
) -> None:
    stating(stated)
    with pytest.raises(licences.LicenceError, match=said):
        licences.licence(distribution)


def test_a_licence_that_is_refused_is_said_and_nothing_is_written(
    stating: Callable[[Stated], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stating([("License", "GPL-3.0-only")])
    before = licences.PAGE.read_text()
    assert main(["licences"]) == 1
    assert "licences: httpx is under GPL-3.0-only, which is not allowed" in capsys.readouterr().err
    assert licences.PAGE.read_text() == before


def test_metadata_of_another_version_than_the_locked_one_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = [one for one in metadata.distributions() if one.name != "httpx"]
    monkeypatch.setattr(metadata, "distributions", lambda: others)
    with pytest.raises(licences.LicenceError, match=r"httpx is missing here, and .* is locked"):
        licences.page()


def test_what_else_comes_from_elsewhere_is_on_the_page() -> None:
    listed = [other["what"] for other in licences._POLICY["others"]]
    ls = ["git", "-c", f"safe.directory={locks.ROOT}", "ls-files", "*.onnx", "*.dat", "*.png"]
    files = subprocess.check_output(ls, cwd=locks.ROOT, text=True).split()
    images = subprocess.check_output(
        [locks.ROOT / "e2e/no-registry/images/build", "--list"], text=True
    ).splitlines()
    names = [line.split()[1] for line in images]
    assert files
    assert names
    for one in [*files, *names]:
        assert any(fnmatch.fnmatch(one, what) or one.startswith(f"{what}:") for what in listed), one
