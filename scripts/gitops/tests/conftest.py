import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.manifests import tools


def need(find: Callable[[], str | Path]) -> str:
    """Return what is found, or skip the test, or fail it where nothing may be missing."""
    try:
        return str(find())
    except tools.MissingToolError as error:
        if os.environ.get("REQUIRE_SERVERS") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kubectl() -> str:
    return need(lambda: tools.binary("kubectl"))


@pytest.fixture(scope="session")
def schemas() -> str:
    need(lambda: tools.binary("kubeconform"))
    return need(tools.schema_folder)
