"""Faces as their rows hold them."""

from dataclasses import asdict
from typing import Any

from services.common.faces import MEASURED, Box, DecidedBy, Says, SeenFace
from services.common.tables import BOX


def machine_says(face: SeenFace, says: Says) -> dict[str, Any]:
    """Return what a new face's row says of it and who it is, by a machine, but for where it is."""
    return {
        **{name: getattr(face, name) for name in MEASURED if name != "box"},
        **asdict(says),
        "decided_by": DecidedBy.MACHINE,
    }


def box_in(row: Any) -> Box:
    """Return where a face is, by its row."""
    return Box(*(getattr(row, side.name) for side in BOX))


def measured_in(row: Any) -> dict[str, Any]:
    """Return what a face's row says was measured of it, as ``MeasuredFace`` takes it."""
    return {name: box_in(row) if name == "box" else getattr(row, name) for name in MEASURED}
