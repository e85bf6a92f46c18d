"""What Flux must never delete, and what it may make anew."""

from collections.abc import Iterator
from typing import Final

from scripts.manifests.model import Document, Finding, Manifests, at, items, mapping, title
from scripts.manifests.rules.fields import Must, broken, exactly

_API: Final = "kustomize.toolkit.fluxcd.io"
_RETAIN: Final = (
    Must(
        "spec.persistentVolumeClaimRetentionPolicy",
        exactly({"whenDeleted": "Retain", "whenScaled": "Retain"}),
        "set whenDeleted and whenScaled to Retain: the volumes stay",
    ),
)


def _mark(document: Document, name: str) -> str:
    """Return what a label or an annotation of Flux says; it reads them without regard to case."""
    found = [mapping(document, f"metadata.{kind}").get(f"{_API}/{name}") for kind in _KINDS]
    return str(next(filter(None, found), None)).lower()


_KINDS: Final = ("labels", "annotations")


def kept(manifests: Manifests) -> Iterator[Finding]:
    """Check that neither a namespace nor a volume is deleted with what is in it."""
    advice = f"set {_API}/prune: disabled: all that is in it would go too"
    for document in manifests.kind("Namespace", "PersistentVolumeClaim"):
        if _mark(document, "prune") != "disabled":
            yield Finding(title(document), "metadata.labels", advice)
    for document in manifests.kind("StatefulSet"):
        yield from broken(title(document), document, "", _RETAIN)
        for claim in items(document, "spec.volumeClaimTemplates"):
            if _mark(claim, "prune") != "disabled":
                field = f"spec.volumeClaimTemplates[{at(claim, 'metadata.name')}].metadata.labels"
                yield Finding(title(document), field, advice)


def replaceable(manifests: Manifests) -> Iterator[Finding]:
    """Check that Flux may make a Job anew, whose template nobody can change."""
    for document in manifests.kind("Job"):
        if _mark(document, "force") != "enabled":
            yield Finding(title(document), "metadata.labels", f"set {_API}/force: enabled")
