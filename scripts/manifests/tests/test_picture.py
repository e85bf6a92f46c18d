"""The picture in docs/kubernetes.md shows the design's connections and the base's workloads."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from scripts.manifests.design import API_SERVER, EDGES
from scripts.manifests.rendering import ROOT

PICTURE = ROOT / "docs/images/kubernetes.svg"
BASE = ROOT / "base"


@pytest.fixture(scope="module")
def picture() -> ET.Element:
    return ET.fromstring(PICTURE.read_text())


def test_it_shows_every_connection_of_the_design_once(picture: ET.Element) -> None:
    drawn = [e.attrib["data-edge"] for e in picture.iter() if "data-edge" in e.attrib]
    designed = {f"{source} {target} {port}" for source, target, port in EDGES}
    designed |= {f"{source} API-server {port}" for source, port in API_SERVER.items()}
    assert sorted(drawn) == sorted(designed)


def test_every_arrow_is_a_connection(picture: ET.Element) -> None:
    arrows = picture.iterfind(".//*[@marker-end]/*")
    assert [arrow.attrib.get("d") for arrow in arrows if "data-edge" not in arrow.attrib] == []


def _replicas(folder: Path) -> str:
    """Return a workload as the picture names it: with its number where it runs more than once."""
    for file in (*folder.glob("deployment.yaml"), *folder.glob("statefulset.yaml")):
        first = next(yaml.safe_load_all(file.read_text()))
        if first["spec"]["replicas"] > 1:
            return f"{folder.name} x{first['spec']['replicas']}"
    return folder.name


def test_it_names_every_workload_with_its_replicas(picture: ET.Element) -> None:
    folders = {job.parent for job in BASE.glob("*/job.yaml")}
    folders |= {s.parent for s in BASE.glob("*/deployment.yaml")}
    folders |= {s.parent for s in BASE.glob("*/statefulset.yaml")}
    named = {element.text for element in picture.iter() if element.text}
    assert {_replicas(folder) for folder in folders} <= named
