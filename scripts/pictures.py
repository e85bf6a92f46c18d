"""Write the pictures of pages, in Mermaid's language, from what Flux applies to a cluster."""

from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Final

from scripts.gitops.flux import Cluster, Kustomization, load
from scripts.gitops.source import Source
from scripts.manifests.model import Manifests, Workload, at, items
from scripts.manifests.rules.network import ANYWHERE, edges
from scripts.manifests.tools import MissingToolError

ROOT: Final = Path(__file__).resolve().parents[1]
CLUSTER: Final = "kind"
"""Which one is drawn: all that the pipeline needs is in it."""


_COLOURS: Final = ("#3b6fd6", "#c2553d", "#2f9158", "#8b5cc7", "#b7791f", "#0e8a9c")
"""The arrows to one server have one, so that they can be followed where they cross."""

_BOXES: Final = {"service": "#3b6fd6", "store": "#2f9158", "job": "#b7791f", "unit": "#8b5cc7"}
"""What the border of a box says: of ours, of others, what ends, or an optional unit."""


def kubernetes(cluster: Cluster) -> Iterator[str]:
    """Yield the lines of the namespace: workloads, volumes, and who may ask whom at which port."""
    manifests = Manifests((one.document for _, one in cluster.objects()), cluster.facts).pipeline
    names: dict[str, list[Workload]] = {}  # a Job may have that of a CronJob
    for workload in manifests.workloads:
        names.setdefault(workload.name, []).append(workload)
    asked: dict[str, dict[str, set[int]]] = {}
    for edge in edges(manifests):
        source = edge.source if edge.source in names else "clients"
        far = "API-server" if edge.target == ANYWHERE else "outside"
        target = edge.target if edge.target in names else far
        asked.setdefault(target, {}).setdefault(source, set()).add(edge.port)
    ports = {target: set().union(*askers.values()) for target, askers in asked.items()}
    claims = manifests.kind("PersistentVolumeClaim")
    volumes = {
        at(one, "metadata.name"): at(one, "spec.resources.requests.storage") for one in claims
    }
    # So that arrows seldom cross boxes.
    yield '%%{init: {"flowchart": {"rankSpacing": 90, "nodeSpacing": 40}}}%%'
    yield "flowchart TB"
    yield "subgraph face [namespace face]"
    for name, workloads in names.items():
        lines = [*(_is(each, volumes) for each in workloads), _ports(ports.get(name, set()))]
        yield _box(name, _kind(workloads[0]), *lines)
    yield "end"
    for end in sorted(ports.keys() - names.keys()):
        yield _box(end, "", _ports(ports[end]))
    arrows = 0
    for (target, askers), colour in zip(sorted(asked.items()), cycle(_COLOURS), strict=False):
        for source, numbers in sorted(askers.items()):
            some = "" if numbers == ports[target] else f"-- {_listed(numbers)} "
            yield f"{source} {some}--> {target}"
        links = ",".join(str(arrows + i) for i in range(len(askers)))
        yield f"linkStyle {links} stroke:{colour},stroke-width:2px"
        arrows += len(askers)
    yield from _borders()


def _is(workload: Workload, volumes: Mapping[str, str]) -> str:
    """Return in some words what a workload is."""
    words = [workload.kind]
    if schedule := at(workload.document, "spec.schedule"):
        words.append(f"at {schedule}")
    if (replicas := at(workload.document, "spec.replicas") or 1) > 1:
        words.append(f"{replicas} pods")
    claims = [at(one, "persistentVolumeClaim.claimName") for one in items(workload.pod, "volumes")]
    words += [f"volume of {volumes[claim]}" for claim in claims if claim in volumes]
    return ", ".join(words)


def _kind(workload: Workload) -> str:
    if workload.kind in {"Job", "CronJob"}:
        return "job"
    return "service" if workload.containers[0].spec["image"].startswith("facestack/") else "store"


def _ports(numbers: set[int]) -> str:
    return f"port{'s' * (len(numbers) > 1)} {_listed(numbers)}" if numbers else ""


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def gitops(cluster: Cluster) -> Iterator[str]:
    """Yield the lines of a push: the way through Flux, then the layers and units, in order."""
    root, *others = cluster.kustomizations.values()
    yield "flowchart TB"
    yield 'subgraph way [" "]'
    yield "direction LR"
    yield _box("source-controller", "service", "fetches what the branch has")
    yield _box("kustomize-controller", "service", "renders, applies, prunes, waits")
    yield _box(root.name, "service", root.path)
    yield f"push([git push]) --> source-controller --> kustomize-controller --> {root.name}"
    yield "end"
    yield "subgraph layers [Each waits until those before it are Ready at the same revision.]"
    for one in others:
        kind = "unit" if one.path.startswith("apps/") else "store"
        yield _box(one.name, kind, one.path, _content(one))
    yield "end"
    yield "way --> layers"
    for one in others:
        for earlier in one.waits_for:
            yield f"{earlier} --> {one.name}"
    yield from _borders()


def _content(one: Kustomization) -> str:
    """Return the workloads that a Kustomization applies, or else the kinds of its objects."""
    if at(one.spec, "decryption"):
        return "the passwords that git has, encrypted"
    objects = Manifests(applied.document for applied in one.objects)
    names = [workload.name for workload in objects.workloads]
    kinds = [str(document["kind"]) for document in objects.documents]
    return ", ".join(dict.fromkeys(names or kinds))


def _box(name: str, kind: str, *lines: str) -> str:
    text = "<br>".join([f"<b>{name}</b>", *filter(None, lines)])
    return f'{name}["{text}"]{f":::{kind}" if kind else ""}'


def _borders() -> Iterator[str]:
    for kind, colour in _BOXES.items():
        yield f"classDef {kind} stroke:{colour},stroke-width:2px"


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
