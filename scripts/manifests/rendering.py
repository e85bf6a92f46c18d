"""Renders overlays exactly as ``kubectl kustomize`` prints them."""

import subprocess
from pathlib import Path
from typing import Final

import yaml

from scripts.manifests.model import Document

ROOT: Final = Path(__file__).parents[2]


class RenderError(Exception):
    """Kustomize refuses a folder; the message is its own."""


def overlays() -> list[Path]:
    """Return every overlay there is."""
    return sorted(path.parent for path in (ROOT / "overlays").glob("*/kustomization.yaml"))


def render(folder: Path, kubectl: str) -> str:
    """Return what ``kubectl kustomize FOLDER`` prints."""
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RenderError(f"{folder}: {done.stderr.strip().removeprefix('error: ')}")
    return done.stdout


def parse(rendered: str) -> list[Document]:
    """Return the documents of a rendered overlay."""
    return [document for document in yaml.load_all(rendered, yaml.CSafeLoader) if document]
