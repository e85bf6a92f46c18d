"""git, as everything in scripts/ calls it."""

import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]


class GitError(Exception):
    """Git refuses; the message is its own."""


def git(*arguments: str, root: Path = ROOT) -> str:
    """Return what git prints in a repository."""
    # As root in a folder of somebody else's git refuses without this.
    command = ["git", "-C", str(root), "-c", f"safe.directory={root}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GitError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
