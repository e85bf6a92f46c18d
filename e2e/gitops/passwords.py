"""`make secrets` in the tests' repository, and who may log in to the database afterwards."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from e2e.cluster import NO_REGISTRY, ROOT, Cluster, run
from e2e.gitops.delivery import READY_SECONDS, Delivery
from e2e.gitops.flux import ENTRY, ENTRY_FOLDER
from e2e.waiting import wait_until

USERS: Final = {
    "root": "mariadb-admin",
    "receiver": "database-receiver",
    "image_processor": "database-image-processor",
    "redeemer": "database-redeemer",
    "people": "database-people",
    "webhooks": "database-webhooks",
    "backup": "database-backup",
}
"""The database's users, and the Secrets with their passwords."""

KEYS: Final = ("administrator-key", "frontend-key")
"""Secrets with keys of the receiver."""

_RESTARTED: Final = (
    "receiver",
    "image-processor",
    "redeemer",
    "people",
    "webhooks",
    "frontend",
)
_STAMP: Final = "facestack.dev/credentials"
_TOOLS: Final = ROOT / ".tools" / "bin"


class Passwords:
    """The passwords of the cluster, in git and as the cluster has them."""

    def __init__(self, delivery: Delivery, key: Path) -> None:
        run(NO_REGISTRY / "build-tools", _TOOLS, "sops", "age-keygen")
        self._delivery = delivery
        self._cluster: Cluster = delivery.cluster
        self.key = key

    def make_secrets(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run what `make secrets` runs, as somebody with this cluster as current context."""
        environment = self._cluster.environment
        done = subprocess.run(
            [sys.executable, "-m", "scripts.secrets", ENTRY, f"--key={self.key}", *arguments],
            cwd=self._delivery.repository.folder,
            env={**environment, "PATH": f"{_TOOLS}:{environment['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"   make secrets {' '.join(arguments)}: {done.stdout}{done.stderr}", flush=True)
        return done

    def recipient(self) -> str:
        """Return the public key that belongs to the private one."""
        return _public(self.key)

    def new_key(self, file: Path) -> str:
        """Make another private key and return the public one."""
        make = [str(_TOOLS / "age-keygen"), "-o", str(file)]
        subprocess.run(make, check=True, capture_output=True)
        return _public(file)

    def values(self) -> dict[str, dict[str, str]]:
        """Return what the cluster's Secrets hold."""
        items = self._cluster.get("secrets")["items"]
        wanted = {*USERS.values(), *KEYS, "object-store"}
        return {
            secret["metadata"]["name"]: secret["data"]
            for secret in items
            if secret["metadata"]["name"] in wanted
        }

    def logins(self) -> dict[str, str]:
        """Return each user's current password."""
        template = "go-template={{.data.password | base64decode}}"
        return {
            user: self._cluster.kubectl("get", "secret", name, "-o", template).stdout
            for user, name in USERS.items()
        }

    def taken(self, logins: dict[str, str]) -> dict[str, bool]:
        """Tell for each user whether the database takes the password."""
        return {user: self._takes(user, password) for user, password in logins.items()}

    def _takes(self, user: str, password: str) -> bool:
        client = (
            "read -r MYSQL_PWD; export MYSQL_PWD; "
            f"exec mariadb --host=127.0.0.1 --user={user} --execute='SELECT 1' facestack"
        )
        command = ("exec", "-i", "mariadb-0", "--", "sh", "-c", client)
        done = self._cluster.kubectl(*command, input=f"{password}\n", check=False)
        assert done.returncode == 0 or "Access denied" in done.stderr, done.stderr
        return done.returncode == 0

    def stamp(self) -> str:
        """Return the stamp that the repository has."""
        facts = self._delivery.repository.folder / ENTRY_FOLDER / "cluster.yaml"
        return str(yaml.safe_load(facts.read_text())["data"]["credentials"])

    def wait_rolled_out(self) -> None:
        """Return when every pod of the services has started with the stamp of the repository."""
        stamp = self.stamp()

        def rolled_out() -> bool:
            selector = f"app.kubernetes.io/name in ({', '.join(_RESTARTED)})"
            pods = self._cluster.get("pods", "-l", selector)["items"]
            old = [pod["metadata"]["name"] for pod in pods if _stamp_of(pod) != stamp]
            assert pods
            assert not old, old
            assert not (waiting := self._cluster.not_ready()), waiting
            return True

        wait_until(rolled_out, READY_SECONDS, "all pods to have the new passwords")


def _public(key: Path) -> str:
    return subprocess.check_output([_TOOLS / "age-keygen", "-y", key], text=True).strip()


def _stamp_of(pod: dict[str, Any]) -> str | None:
    annotations = pod["metadata"].get("annotations") or {}
    stamp: str | None = annotations.get(_STAMP)
    return stamp
