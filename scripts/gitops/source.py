"""What Flux gets to see: the files that git has, in a folder of their own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scripts.programs import ROOT, git

TREES: Final = ("apps", "base", "flux", "overlays")
"""The folders that Flux reads."""

CLUSTERS: Final = "flux/clusters"


class Source:
    """A folder with the files of one state of the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> set[str]:
        """Return every file in the trees, as a path from the repository's root."""
        return {
            path.relative_to(self.folder).as_posix()
            for tree in TREES
            for path in (self.folder / tree).rglob("*")
            if path.is_file()
        }

    def clusters(self) -> list[str]:
        """Return the name of every cluster."""
        return sorted(path.name for path in (self.folder / CLUSTERS).glob("*") if path.is_dir())


@contextmanager
def working_tree() -> Iterator[Source]:
    """Give the files as they are now, without those that git ignores."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *TREES)
    with tempfile.TemporaryDirectory(prefix="gitops-") as folder:
        for name in filter(None, listed.split("\0")):
            original, copy = ROOT / name, Path(folder) / name
            if original.is_file():  # and not deleted, but for the commit
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(original, copy)
        yield Source(Path(folder))


@contextmanager
def commit(revision: str) -> Iterator[Source]:
    """Give the files of a commit."""
    with tempfile.TemporaryDirectory(prefix="gitops-") as folder:
        archive = f"{folder}/all.tar"
        git("archive", f"--output={archive}", revision, "--", *TREES)
        shutil.unpack_archive(archive, folder, filter="data")
        yield Source(Path(folder))
