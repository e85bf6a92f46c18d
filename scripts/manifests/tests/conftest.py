import pytest

from scripts.manifests.model import Document
from scripts.manifests.rendering import overlays, parse, render


@pytest.fixture(scope="session")
def rendered(flux_build: str) -> dict[str, str]:
    """Every overlay, rendered, by name."""
    return {folder.name: render(folder) for folder in overlays()}


@pytest.fixture(scope="session")
def overlay_documents(rendered: dict[str, str]) -> dict[str, list[Document]]:
    """The documents of every overlay, by name; a test that changes them puts them back."""
    return {name: parse(manifest) for name, manifest in rendered.items()}
