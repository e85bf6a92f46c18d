"""Raw connections of clients that are slow, broken or many, and what a pod has against them."""

import contextlib
import re
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from starlette.types import Scope

_BASE = Path(__file__).parents[2] / "base"
_UNITS = {"Mi": 2**20, "Gi": 2**30}


def _bytes(quantity: str) -> int:
    found = re.fullmatch(r"(\d+)(Mi|Gi)", quantity)
    if not found:
        raise ValueError(f"{quantity} is no quantity in Mi or Gi")
    return int(found[1]) * _UNITS[found[2]]


def pod(name: str) -> tuple[int, int]:
    """Return the memory and the temporary disk space of a workload's pod, in bytes."""
    manifests = yaml.safe_load_all((_BASE / name / "deployment.yaml").read_text())
    spec = next(manifests)["spec"]["template"]["spec"]
    volume = next(volume for volume in spec["volumes"] if volume["name"] == "tmp")
    return (
        _bytes(spec["containers"][0]["resources"]["limits"]["memory"]),
        _bytes(volume["emptyDir"]["sizeLimit"]),
    )


class Clients:
    """Raw connections to one server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[socket.socket] = []

    def send(self, data: bytes, count: int = 1) -> list[socket.socket]:
        """Open connections, send the same on each, and leave them open."""
        opened = []
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", self._port), timeout=30)
            opened.append(one)
            one.sendall(data)
        self._open += opened
        return opened

    def close(self) -> None:
        """Close all of them."""
        for client in self._open:
            client.close()


async def everybody(_: Scope) -> None:
    """Admit everybody at a door."""


def answer(connection: socket.socket) -> bytes:
    """Return everything that the server says until it closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open a socket for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
