"""A repository with two clusters, and the programs that encrypt."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scripts.secrets.passwords import Passwords
from scripts.secrets.store import Store
from services.testing.servers import find_binary

ROOT = Path(__file__).parents[3]


@dataclass
class Site:
    """A copy of what the passwords depend on; ``said`` is what a user would read."""

    root: Path
    keys: Path
    said: list[str] = field(default_factory=list)

    def store(self, cluster: str = "kind") -> Store:
        return Store(self.root, cluster, self.keys / f"{cluster}.agekey")

    def passwords(self, cluster: str = "kind") -> Passwords:
        return Passwords(self.store(cluster), say=self.said.append)

    def make(self, cluster: str = "kind") -> None:
        passwords = self.passwords(cluster)
        passwords.prepare()
        passwords.encrypt_anew()
        passwords.make(new=True)
        passwords.store.settle()

    def rotate(self, *names: str, outage: bool = False) -> None:
        passwords = self.passwords()
        passwords.rotate(names, outage=outage)
        passwords.store.settle()

    def finish(self) -> None:
        passwords = self.passwords()
        passwords.finish(unchecked=True)
        passwords.store.settle()

    def values(self, name: str, cluster: str = "kind") -> dict[str, str]:
        return dict(self.store(cluster).read(name).values)

    def files(self) -> dict[str, str]:
        found = (file for file in self.root.rglob("*") if file.is_file())
        return {file.relative_to(self.root).as_posix(): file.read_text() for file in found}


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
