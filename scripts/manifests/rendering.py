"""Renders overlays as ``kubectl kustomize`` does, with the facts of their cluster in them."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from scripts.gitops.flux import BuildError, build_folder
from scripts.gitops.source import Source
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
        return with_facts(done.stdout, facts(folder.name))
    except BuildError as error:
        raise RenderError(f"{folder}: {error.problem}") from None


def with_facts(text: str, known: Mapping[str, str]) -> str:
    """Return manifests with facts in them, by Flux's own code."""
    if not known:
        return text
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "all.yaml").write_text(text)
        (Path(place) / "kustomization.yaml").write_text("resources: [all.yaml]\n")
        built = build_folder(Source(Path(place)), ".", known)
    return yaml.safe_dump_all((one.document for one in built), sort_keys=False)


def parse(rendered: str) -> list[Document]:
    """Return the documents of a rendered overlay."""
    return [document for document in yaml.load_all(rendered, yaml.CSafeLoader) if document]
