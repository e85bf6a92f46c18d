"""Renders folders by Flux's own code, with the facts of a cluster in them or others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from scripts.gitops.flux import build_folder
from scripts.gitops.source import Source
from scripts.manifests.model import Document
from scripts.programs import ROOT

OVERLAYS: Final = sorted(path.parent.name for path in ROOT.glob("overlays/*/kustomization.yaml"))


def facts(cluster: str) -> dict[str, str]:
    """Return what is so on one cluster only.

    The network of the pods is left out: a layer of Flux writes it over what an overlay says.
    """
    file = ROOT / "flux" / "clusters" / cluster / "cluster.yaml"
    found: dict[str, str] = yaml.safe_load(file.read_text())["data"]
    found.pop("pod_network", None)
    return found


def render(folder: Path, given: Mapping[str, str] | None = None) -> list[Document]:
    """Return what Flux makes of a folder: with facts every variable must be one of these."""
    path = folder.relative_to(ROOT).as_posix()
    return [one.document for one in build_folder(Source(ROOT), path, given)]
