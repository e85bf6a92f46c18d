"""git, kubectl and other programs, as everything in scripts/ calls them."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
INSTALL: Final = "scripts/manifest-tools"


class ProgramError(Exception):
    """A program is missing, or refuses; the message says what to do, or is its own."""


class KubectlError(ProgramError):
    """Kubectl refuses."""


def binary(name: str, install: str = INSTALL) -> str:
    """Return the path of a program; ``install`` is what brings it."""
    if found := shutil.which(name, path=f"{ROOT}/.tools/bin:{os.environ['PATH']}"):
        return found
    raise ProgramError(f"{name} is not installed: run '{install}'")


def ask(given: str, name: str, *arguments: str) -> Any:
    """Return what a program says, as JSON, of what it gets on its standard input."""
    command = [binary(name), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise RuntimeError(f"{name} ended with {done.returncode} and said: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def git(*arguments: str, root: Path = ROOT) -> str:
    """Return what git prints in a repository."""
    # As root in a folder of somebody else's git refuses without this.
    command = ["git", "-C", str(root), "-c", f"safe.directory={root}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProgramError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Kubectl:
    """kubectl, with the context that the user chose or, without one, the current."""

    context: str | None = None

    def get(self, *arguments: str, given: str | None = None) -> str:
        """Run it and return what it printed."""
        context = [f"--context={self.context}"] if self.context else []
        command = [binary("kubectl"), *context, *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KubectlError(done.stderr.strip())
        return done.stdout

    def where(self) -> str:
        """Return the name of the context and the address of its cluster."""
        form = "jsonpath={.contexts[0].name} at {.clusters[0].cluster.server}"
        return self.get("config", "view", "--minify", f"--output={form}")

    def follows(self, cluster: str) -> bool:
        """Tell whether the cluster follows its folder of git; KubectlError: it follows another."""
        form = "--output=jsonpath={.data.cluster}"
        how = ("--namespace=flux-system", "--ignore-not-found", "--request-timeout=10s", form)
        found = self.get("get", "configmap", "cluster", *how)
        if found not in {"", cluster}:
            folders = f"flux/clusters/{found}, not flux/clusters/{cluster}"
            raise KubectlError(f"{self.where()} follows {folders}: choose its CONTEXT=")
        return bool(found)
