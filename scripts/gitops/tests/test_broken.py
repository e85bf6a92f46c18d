"""Repositories with one fault each are refused, and told the file and the reason, word for word."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from scripts.gitops.source import Source, working_tree
from scripts.gitops.tests.changes import change, copy, said
from scripts.manifests.rules.fields import checks

FILES: Final = sorted((Path(__file__).parent / "broken").glob("*.yaml"))


@pytest.fixture(scope="module")
def whole() -> Iterator[Source]:
    with working_tree() as source:
        yield source


@pytest.mark.usefixtures("flux_build", "schema_folder")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_broken_repository_is_refused_with_the_reason(
    whole: Source, tmp_path: Path, file: Path
) -> None:
    fault: dict[str, Any] = yaml.safe_load(file.read_text())
    source = copy(whole, tmp_path)
    for step in fault["changes"]:
        change(source, step)
    clusters = fault.get("clusters", "kind")
    found = said(source, *([] if clusters == "all" else [clusters]))
    assert fault["said"]
    # Of a fault in what all have in common, a new unit says one line more.
    if fault.get("all units"):
        assert set(found) >= set(fault["said"])
    else:
        assert found == fault["said"]


@pytest.mark.usefixtures("flux_build", "schema_folder")
def test_what_is_in_git_is_whole(whole: Source) -> None:
    assert said(whole) == []


@pytest.mark.usefixtures("flux_build", "schema_folder")
@pytest.mark.parametrize("exception", checks()["exceptions"], ids=lambda line: str(line["check"]))
def test_each_exception_from_kube_score_is_needed(
    whole: Source, monkeypatch: pytest.MonkeyPatch, exception: dict[str, Any]
) -> None:
    others = [line for line in checks()["exceptions"] if line is not exception]
    monkeypatch.setitem(checks(), "exceptions", others)
    assert any(f": {exception['check']}: " in line for line in said(whole))
