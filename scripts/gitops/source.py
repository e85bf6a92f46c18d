"""What Flux gets to see: the files that git has, in a folder of their own."""

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final

import yaml

ROOT: Final = Path(__file__).parents[2]
TREES: Final = ("base", "overlays", "apps", "flux")
"""The folders that Flux reads; a file in one of them that no cluster uses is a mistake."""

DOCUMENTATION: Final = ("README.md",)
CHOICES: Final = (
    "base/components/cert-manager/",
    "base/components/open-id-connect/",
    "base/components/signed-images/",
)
"""Folders that an overlay may take in, and none here does; tests of the manifests do."""


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

    def entries(self) -> list[str]:
        """Return the name of every cluster: of each folder in flux/ that has facts."""
        return sorted(path.parent.name for path in (self.folder / "flux").glob("*/cluster.yaml"))

    def used(self, path: str) -> set[str]:
        """Return the files that kustomize reads for a folder or a file, itself included."""
        found: set[str] = set()
        self._collect(PurePosixPath(path), found)
        return found

    def problems(self, files: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield what kustomize could not read among files: which, and why."""
        for name in sorted(files):
            place = self.folder / name
            problem = _parsing_problem(place.read_bytes()) if name.endswith(".yaml") else None
            if problem:
                yield name, problem
            elif place.name == "kustomization.yaml":
                for reference in _references(place):
                    if "://" in reference:
                        yield name, f"{reference} is outside of git: copy it here, at one version"
                    elif not (place.parent / reference).exists():
                        yield name, f"names {reference}, which is not in git"

    def _collect(self, path: PurePosixPath, found: set[str]) -> None:
        place = self.folder / path
        if place.is_dir():
            path /= "kustomization.yaml"
            place = self.folder / path
        name = _normal(path)
        if name in found or not place.is_file():
            return
        found.add(name)
        if path.name == "kustomization.yaml":
            for reference in _references(place):
                self._collect(path.parent / reference, found)


def _normal(path: PurePosixPath) -> str:
    """Return a path without what .. takes back."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def normal(path: str) -> str:
    """Return a path from the repository's root as this package writes it: ``flux/kind``."""
    return _normal(PurePosixPath(path))


# Where a kustomization names files: of itself, of the entries of a list, of generators.
_LISTS: Final = ("resources", "components", "crds", "configurations", "generators", "transformers")
_ENTRIES: Final = ("patches", "replacements")
_GENERATORS: Final = ("configMapGenerator", "secretGenerator")


@cache
def _parsing_problem(content: bytes) -> str | None:
    try:
        list(yaml.parse(content, yaml.CSafeLoader))
    except yaml.YAMLError as error:
        return f"is no YAML: {' '.join(str(error).split())}"
    return None


def _references(kustomization: Path) -> Iterator[str]:
    try:
        content = yaml.load(kustomization.read_text(), yaml.CSafeLoader)
    except yaml.YAMLError:
        return  # the build says so
    if not isinstance(content, dict):
        return
    for field in _LISTS:
        yield from (str(reference) for reference in content.get(field) or [])
    for field in _ENTRIES:
        for entry in content.get(field) or []:
            if isinstance(entry, dict) and "path" in entry:
                yield str(entry["path"])
    for field in _GENERATORS:
        for entry in content.get(field) or []:
            for file in [*(entry.get("files") or []), *(entry.get("envs") or [])]:
                yield str(file).rpartition("=")[2]


@contextmanager
def working_tree() -> Iterator[Source]:
    """Give the files as they are now, without those that git ignores."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *TREES)
    with tempfile.TemporaryDirectory(prefix="gitops-") as folder:
        for name in filter(None, listed.decode().split("\0")):
            original, copy = ROOT / name, Path(folder) / name
            if original.is_file():  # and not deleted, but for the commit
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(original, copy)
        yield Source(Path(folder))


@contextmanager
def commit(revision: str) -> Iterator[Source]:
    """Give the files of a commit."""
    there = set(_git("ls-tree", "--name-only", revision).decode().split())
    archive = _git("archive", revision, "--", *(tree for tree in TREES if tree in there))
    with tempfile.TemporaryDirectory(prefix="gitops-") as folder:
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        yield Source(Path(folder))


def _git(*arguments: str) -> bytes:
    done = subprocess.run(
        # As root in a folder of somebody else's git refuses without this.
        ["git", "-c", f"safe.directory={ROOT}", *arguments],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"validate: git {arguments[0]}: {done.stderr.decode().strip()}")
    return done.stdout
