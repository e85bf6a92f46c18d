"""Every pod of the upstream tests, of every level and version, is judged as upstream does."""

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.manifests import schemas
from scripts.manifests.pod_security import BASELINE, RESTRICTED, Pod, violations


@pytest.fixture(scope="module")
def vectors(schema_folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((schema_folder / schemas.VECTORS).read_text())
    return found


def judge(vector: dict[str, Any]) -> list[tuple[str, str, str]]:
    pod = vector["pod"]
    return list(violations(Pod(pod["metadata"], pod["spec"], vector["minor"]), vector["level"]))


@pytest.mark.parametrize("level", [BASELINE, RESTRICTED])
@pytest.mark.parametrize("verdict", ["pass", "fail"])
def test_every_upstream_pod_is_judged_right(
    vectors: list[dict[str, Any]], level: str, verdict: str
) -> None:
    mine = [v for v in vectors if (v["level"], v["verdict"]) == (level, verdict)]
    assert {v["minor"] for v in mine} == set(range(schemas.MINOR + 1))
    wrong = [
        f"v1.{v['minor']} {v['name']}: {found}"
        for v in mine
        if bool(found := judge(v)) != (verdict == "fail")
    ]
    assert wrong == []


def test_a_refused_pod_breaks_the_control_it_was_made_for(vectors: list[dict[str, Any]]) -> None:
    for vector in vectors:
        if vector["verdict"] == "fail":
            made_for = vector["name"].rstrip("0123456789").split("_")[0]
            assert made_for in {control.split("_")[0].lower() for control, _, _ in judge(vector)}
