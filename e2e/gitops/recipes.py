"""The recipes of docs/gitops.md, followed to the letter."""

import re
import subprocess
from pathlib import Path
from typing import Final

from e2e.cluster import ROOT, Cluster

_SECONDS: Final = 600


def recipe(title: str) -> str:
    """Return the commands that docs/gitops.md gives under this title."""
    text = (ROOT / "docs" / "gitops.md").read_text()
    paragraph = rf"^\*\*{re.escape(title)}[.,]\*\*.*?^```\n(.*?)^```$"
    found = re.search(paragraph, text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/gitops.md has no recipe {title!r}"
    return found[1]


def follow(cluster: Cluster, commands: str, folder: Path) -> None:
    """Run commands of a recipe in a folder, as somebody with this cluster as current context."""
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", commands],
        cwd=folder,
        env=cluster.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout, flush=True)
