import pytest
import yaml

from scripts.manifests.model import Document
from scripts.manifests.tests.rendering import OVERLAYS, facts, render
from scripts.programs import ROOT


@pytest.fixture(scope="session")
def overlay_documents(flux_build: str) -> dict[str, list[Document]]:
    """The documents of every overlay, by name; a test that changes them puts them back."""
    return {name: render(ROOT / "overlays" / name, facts(name)) for name in OVERLAYS}


@pytest.fixture(scope="session")
def rendered(overlay_documents: dict[str, list[Document]]) -> dict[str, str]:
    """Every overlay, rendered, by name."""
    return {name: yaml.safe_dump_all(them) for name, them in overlay_documents.items()}
