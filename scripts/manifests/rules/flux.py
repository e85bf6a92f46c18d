"""What Flux must never delete, and what it may make anew."""

from collections.abc import Iterator
from typing import Final

from scripts.manifests.model import FLUX_API, Finding, Manifests, at, items, marked, title
from scripts.manifests.rules.fields import Must, broken, exactly

_RETAIN: Final = (
    Must(
        "spec.persistentVolumeClaimRetentionPolicy",
        exactly({"whenDeleted": "Retain", "whenScaled": "Retain"}),
        "set whenDeleted and whenScaled to Retain: the volumes stay",
    ),
)


def kept(manifests: Manifests) -> Iterator[Finding]:
    """Check that neither a namespace nor a volume is deleted with what is in it."""
    advice = f"set {FLUX_API}/prune: disabled: all that is in it would go too"
    for document in manifests.kind("Namespace", "PersistentVolumeClaim"):
        if not marked(document, "prune", "disabled"):
            yield Finding(title(document), "metadata.labels", advice)
    for document in manifests.kind("StatefulSet"):
        yield from broken(title(document), document, "", _RETAIN)
        for claim in items(document, "spec.volumeClaimTemplates"):
            if not marked(claim, "prune", "disabled"):
                field = f"spec.volumeClaimTemplates[{at(claim, 'metadata.name')}].metadata.labels"
                yield Finding(title(document), field, advice)


def replaceable(manifests: Manifests) -> Iterator[Finding]:
    """Check that Flux may make a Job anew, whose template nobody can change."""
    for document in manifests.kind("Job"):
        if not marked(document, "force", "enabled"):
            yield Finding(title(document), "metadata.labels", f"set {FLUX_API}/force: enabled")
