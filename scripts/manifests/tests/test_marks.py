"""Marks that tell Flux what to leave alone, read as Flux reads them."""

from typing import Any

import pytest

from scripts.manifests.model import FLUX_API, marked


def document(**marks: str) -> dict[str, Any]:
    return {"metadata": {kind: {f"{FLUX_API}/prune": value} for kind, value in marks.items()}}


@pytest.mark.parametrize(
    "marks",
    [
        {"labels": "disabled"},
        {"annotations": "Disabled"},
        {"labels": "enabled", "annotations": "disabled"},
    ],
)
def test_a_label_or_an_annotation_is_enough_in_any_case(marks: dict[str, str]) -> None:
    assert marked(document(**marks), "prune", "disabled")


@pytest.mark.parametrize("marks", [{}, {"labels": "enabled"}, {"annotations": ""}])
def test_no_other_value_counts(marks: dict[str, str]) -> None:
    assert not marked(document(**marks), "prune", "disabled")
    assert not marked(document(labels="disabled"), "force", "disabled")
