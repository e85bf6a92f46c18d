"""Renders overlays by Flux's own code, with the facts of their cluster in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from scripts.gitops.flux import build_folder
from scripts.gitops.source import Source
from scripts.manifests.model import Document, Manifests

ROOT: Final = Path(__file__).parents[2]


def overlays() -> list[Path]:
    """Return every overlay there is."""
    return sorted(path.parent for path in (ROOT / "overlays").glob("*/kustomization.yaml"))


def facts(cluster: str) -> Mapping[str, str]:
    """Return what is so on one cluster only; nothing for one that Flux does not manage.

    The network of the pods is left out: a layer of Flux writes it over what an overlay says.
    """
    file = ROOT / "flux" / "clusters" / cluster / "cluster.yaml"
    if not file.is_file():
        return {}
    found: dict[str, str] = yaml.load(file.read_text(), yaml.CSafeLoader)["data"]
    found.pop("pod_network", None)
    return found


def render(folder: Path, given: Mapping[str, str] | None = None, root: Path = ROOT) -> str:
    """Return what Flux makes of a folder below root, with the facts of its namesake or others.

    BuildError: Flux refuses it.
    """
    known = facts(folder.name) if given is None else given
    built = build_folder(Source(root), str(folder.relative_to(root)), known)
    return yaml.dump_all((one.document for one in built), Dumper=yaml.CSafeDumper)


def load(folder: Path) -> Manifests:
    """Return what is rendered, as the rules look at it."""
    return Manifests(parse(render(folder)), facts(folder.name))


def parse(rendered: str) -> list[Document]:
    """Return the documents of a rendered overlay."""
    return [document for document in yaml.load_all(rendered, yaml.CSafeLoader) if document]
