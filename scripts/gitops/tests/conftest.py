from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.manifests import tools
from services.testing.servers import give_up


def need(find: Callable[[], str | Path]) -> str:
    """Return what is found, or skip the test, or fail it where nothing may be missing."""
    try:
        return str(find())
    except tools.MissingToolError as error:
        give_up(str(error))


@pytest.fixture(scope="session")
def kubectl() -> str:
    return need(lambda: tools.binary("kubectl"))


@pytest.fixture(scope="session")
def flux_build() -> str:
    return need(lambda: tools.binary("flux-build"))


@pytest.fixture(scope="session")
def schemas(flux_build: str) -> str:
    need(lambda: tools.binary("kubeconform"))
    return need(tools.schema_folder)
