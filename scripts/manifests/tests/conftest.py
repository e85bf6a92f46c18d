from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.manifests import tools
from scripts.manifests.model import Document
from scripts.manifests.rendering import overlays, parse, render
from services.testing.servers import give_up


def or_skip(find: Callable[..., Any], *arguments: str) -> Any:
    """Return what is found, or skip the test, or fail it where nothing may be missing."""
    try:
        return find(*arguments)
    except tools.MissingToolError as error:
        give_up(str(error))


@pytest.fixture(scope="session")
def flux_build() -> None:
    or_skip(tools.binary, "flux-build")


@pytest.fixture(scope="session")
def schema_folder() -> Path:
    return Path(or_skip(tools.schema_folder))


@pytest.fixture(scope="session")
def tool(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Ask for a program by its name: the test is skipped without it."""

    def need(name: str) -> None:
        or_skip(tools.binary, name)
        if name == "kubeconform":
            request.getfixturevalue("schema_folder")

    return need


@pytest.fixture(scope="session")
def rendered(flux_build: None) -> dict[str, str]:
    """Every overlay, rendered, by name."""
    return {folder.name: render(folder) for folder in overlays()}


@pytest.fixture(scope="session")
def overlay_documents(rendered: dict[str, str]) -> dict[str, list[Document]]:
    """The documents of every overlay, by name; a test that changes them puts them back."""
    return {name: parse(manifest) for name, manifest in rendered.items()}
