"""What tests of scripts/ share: programs that they need, and a server that answers as they say."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts import programs
from scripts.manifests import schemas, tools
from services.testing.servers import give_up


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Return what gives a program's path; without it the test is skipped, and says what to run."""

    @cache
    def need(name: str) -> str:
        try:
            if name == "kubeconform":
                list(tools.kubeconform(""))
            return programs.binary(name)
        except programs.ProgramError as error:
            give_up(str(error))

    return need


@pytest.fixture(scope="session")
def kubectl(tool: Callable[[str], str]) -> str:
    """Return the path of kubectl."""
    return tool("kubectl")


@pytest.fixture(scope="session")
def flux_build(tool: Callable[[str], str]) -> str:
    """Return the path of what renders as Flux does."""
    return tool("flux-build")


@pytest.fixture(scope="session")
def schema_folder(tool: Callable[[str], str]) -> Path:
    """Return the folder with the schemas, beside which kubeconform and kube-score are there."""
    for name in ("kubeconform", "kube-score"):
        tool(name)
    return schemas.CACHE


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Return what starts a server for as long as the test runs, and gives its URL."""
    with ExitStack() as servers:

        def start(handler: type[BaseHTTPRequestHandler]) -> str:
            server = servers.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            servers.callback(thread.join)
            servers.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start
