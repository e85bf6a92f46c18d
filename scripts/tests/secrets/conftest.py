"""A repository with two clusters, and the programs that encrypt."""

import base64
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from scripts.secrets import Store, manage
from services.testing.servers import find_binary

ROOT = Path(__file__).parents[3]


@dataclass
class Site:
    """A copy of what the passwords depend on."""

    root: Path
    keys: Path

    def store(self, cluster: str = "kind") -> Store:
        return Store(self.root, cluster, self.keys / f"{cluster}.agekey")

    def call(self, *arguments: str, cluster: str = "kind") -> None:
        """Do what `make secrets` does, and raise what it would tell."""
        key = f"--key={self.keys / f'{cluster}.agekey'}"
        manage([cluster, key, *arguments], self.root)

    def make(self, cluster: str = "kind") -> None:
        self.call("--new=1", cluster=cluster)

    def values(self, name: str, cluster: str = "kind") -> dict[str, str]:
        return decoded(self.store(cluster).read(name))

    def files(self) -> dict[str, str]:
        found = (file for file in self.root.rglob("*") if file.is_file())
        return {file.relative_to(self.root).as_posix(): file.read_text() for file in found}


def decoded(text: str) -> dict[str, str]:
    """Return the values of a Secret."""
    data = yaml.safe_load(text)["data"].items()
    return {key: base64.b64decode(value).decode() for key, value in data}


@pytest.fixture
def tools() -> None:
    """What encrypts, or the test is skipped."""
    for name in ("sops", "age-keygen"):
        find_binary(name)


@pytest.fixture
def site(tmp_path: Path, tools: None) -> Site:
    """A cluster without secrets."""
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "base" / "credentials", root / "base" / "credentials")
    for overlay in ("kind", "minikube", "aws"):
        shutil.copytree(ROOT / "overlays" / overlay, root / "overlays" / overlay)
    shutil.copytree(ROOT / "flux" / "clusters", root / "flux" / "clusters")
    return Site(root, tmp_path / "keys")


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kubectl that has no context."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
