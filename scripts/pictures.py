"""Write the pictures of pages, in Mermaid's language, from what Flux applies to a cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scripts.gitops.flux import Cluster, load
from scripts.gitops.source import Source
from scripts.manifests.model import Manifests, at
from scripts.manifests.rules.network import ANYWHERE, edges
from scripts.manifests.tools import MissingToolError

ROOT: Final = Path(__file__).resolve().parents[1]
CLUSTER: Final = "kind"
"""Which one is drawn: all that the pipeline needs is in it."""


def kubernetes(cluster: Cluster) -> Iterator[str]:
    """Yield the lines of the namespace: workloads, and who may ask whom at which port."""
    manifests = Manifests((one.document for _, one in cluster.objects()), cluster.facts).pipeline
    inside = {workload.name: workload for workload in manifests.workloads}
    # Labels of arrows need the room.
    yield '%%{init: {"flowchart": {"rankSpacing": 80, "nodeSpacing": 25}}}%%'
    yield "flowchart TB"
    yield "subgraph face [namespace face]"
    for name, workload in inside.items():
        replicas = at(workload.document, "spec.replicas") or 1
        yield _box(name, f"{workload.kind}, {replicas} pods" if replicas > 1 else workload.kind)
    yield "end"
    ports: dict[tuple[str, str], set[int]] = {}
    for edge in edges(manifests):
        source = edge.source if edge.source in inside else "clients"
        far = "API-server" if edge.target == ANYWHERE else "outside"
        target = edge.target if edge.target in inside else far
        ports.setdefault((source, target), set()).add(edge.port)
    for (source, target), numbers in sorted(ports.items()):
        yield f"{source} -- {', '.join(map(str, sorted(numbers)))} --> {target}"


def gitops(cluster: Cluster) -> Iterator[str]:
    """Yield the lines of a push: the way through Flux, then the layers and units, in order."""
    root, *others = cluster.kustomizations.values()
    yield "flowchart TB"
    yield 'subgraph way [" "]'
    yield "direction LR"
    yield _box("source-controller", "fetches what the branch has")
    yield _box("kustomize-controller", "renders, applies, prunes, waits")
    yield _box(root.name, root.path)
    yield f"push([git push]) --> source-controller --> kustomize-controller --> {root.name}"
    yield "end"
    for one in others:
        objects = Manifests(applied.document for applied in one.objects)
        names = [workload.name for workload in objects.workloads]
        kinds = [str(document["kind"]) for document in objects.documents]
        yield _box(one.name, one.path, ", ".join(dict.fromkeys(names or kinds)))
        for earlier in one.waits_for or ["way"]:
            yield f"{earlier} --> {one.name}"


def _box(name: str, *lines: str) -> str:
    return f'{name}["{"<br>".join([f"<b>{name}</b>", *filter(None, lines)])}"]'


PICTURES: Final = {"README.md": gitops, "docs/gitops.md": gitops, "docs/kubernetes.md": kubernetes}
"""What is drawn where a page has its block of Mermaid."""


def drawn(page: str, cluster: Cluster) -> str:
    """Return a page with its picture as it is now."""
    before, fence, rest = (ROOT / page).read_text().partition("```mermaid\n")
    lines = ["%% Written by `make pictures`.", *PICTURES[page](cluster)]
    return "".join([before, fence, *(f"{line}\n" for line in lines), rest[rest.index("```") :]])


def main() -> None:
    """Write the pictures into the pages."""
    cluster = load(Source(ROOT), CLUSTER)
    if cluster.problems:
        raise SystemExit(f"pictures: {cluster.problems[0]}")
    for page in PICTURES:
        (ROOT / page).write_text(drawn(page, cluster))


if __name__ == "__main__":
    try:
        main()
    except MissingToolError as error:
        raise SystemExit(f"pictures: {error}") from None
