"""Renders overlays as ``kubectl kustomize`` does, with the facts of their cluster in them."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from scripts.gitops import substitution
from scripts.manifests.model import Document

ROOT: Final = Path(__file__).parents[2]


class RenderError(Exception):
    """Kustomize refuses a folder; the message is its own."""


def overlays() -> list[Path]:
    """Return every overlay there is."""
    return sorted(path.parent for path in (ROOT / "overlays").glob("*/kustomization.yaml"))


def facts(cluster: str) -> Mapping[str, str]:
    """Return what is so on one cluster only; nothing for one that Flux does not manage."""
    file = ROOT / "flux" / "clusters" / cluster / "cluster.yaml"
    if not file.is_file():
        return {}
    found: dict[str, str] = yaml.load(file.read_text(), yaml.CSafeLoader)["data"]
    return found


def render(folder: Path, kubectl: str) -> str:
    """Return what ``kubectl kustomize FOLDER`` prints, with the facts of its namesake in it."""
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RenderError(f"{folder}: {done.stderr.strip().removeprefix('error: ')}")
    try:
        return substitution.apply(done.stdout, facts(folder.name))
    except substitution.SubstitutionError as error:
        raise RenderError(f"{folder}: {error}") from None


def parse(rendered: str) -> list[Document]:
    """Return the documents of a rendered overlay."""
    return [document for document in yaml.load_all(rendered, yaml.CSafeLoader) if document]
