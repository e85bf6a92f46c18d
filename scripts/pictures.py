"""Write into pages what Flux applies to clusters: pictures in Mermaid's language, and a table."""

import re
from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Final

from scripts.gitops.flux import BuildError, Cluster, Kustomization, load
from scripts.gitops.source import Source
from scripts.manifests.model import Manifests, Workload, at, items
from scripts.manifests.rules.network import ANYWHERE, edges
from scripts.programs import ROOT, ProgramError

CLUSTER: Final = "kind"
"""Which one is drawn: all that the pipeline needs is in it."""

_COLOURS: Final = ("#3b6fd6", "#c2553d", "#2f9158", "#8b5cc7", "#b7791f", "#0e8a9c")
"""The arrows to one server have one, so that they can be followed where they cross."""

_BORDERS: Final = (
    "classDef service stroke:#3b6fd6,stroke-width:2px",
    "classDef store stroke:#2f9158,stroke-width:2px",
    "classDef job stroke:#b7791f,stroke-width:2px",
    "classDef unit stroke:#8b5cc7,stroke-width:2px",
)
"""What the border of a box says: of ours, of others, what ends, or an optional unit."""


def connections(manifests: Manifests) -> set[tuple[str, str, int]]:
    """Return who may ask whom at which port of the pod."""
    names = {workload.name for workload in manifests.workloads}
    return {
        (
            edge.source if edge.source in names else "clients",
            "API server" if edge.target == ANYWHERE else edge.target,
            edge.port,
        )
        for edge in edges(manifests)[0]
    }


def table(clusters: Mapping[str, Cluster]) -> Iterator[str]:
    """Yield the lines of a table: who may ask whom in the namespace, and on which clusters."""
    found: dict[tuple[str, str, int], list[str]] = {}
    for name, cluster in clusters.items():
        for connection in connections(cluster.manifests.pipeline):
            found.setdefault(connection, []).append(name)
    yield "| From | To | Port | Clusters |"
    yield "|---|---|---|---|"
    for (source, target, port), on in sorted(found.items()):
        where = "all" if len(on) == len(clusters) else ", ".join(on)
        yield f"| {source} | {target} | {port} | {where} |"


def kubernetes(clusters: Mapping[str, Cluster]) -> Iterator[str]:
    """Yield the lines of the namespace: workloads, volumes, and who may ask whom at which port."""
    manifests = clusters[CLUSTER].manifests.pipeline
    boxes: dict[str, list[Workload]] = {}  # a Job may have the name of a CronJob
    for workload in manifests.workloads:
        boxes.setdefault(workload.name, []).append(workload)
    asked: dict[str, dict[str, set[int]]] = {}
    for source, target, port in connections(manifests):
        askers = asked.setdefault(target.replace(" ", "-"), {})
        askers.setdefault(source, set()).add(port)
    ports = {target: _ports(set().union(*askers.values())) for target, askers in asked.items()}
    volumes = {
        at(claim, "metadata.name"): f"volume of {at(claim, 'spec.resources.requests.storage')}"
        for claim in manifests.kind("PersistentVolumeClaim")
    }
    # So that arrows seldom cross boxes.
    yield '%%{init: {"flowchart": {"rankSpacing": 90, "nodeSpacing": 40}}}%%'
    yield "flowchart TB"
    yield "subgraph face [namespace face]"
    for name, workloads in boxes.items():
        lines = [*(_is(each, volumes) for each in workloads), ports.get(name, "")]
        yield _box(name, _kind(workloads[0]), *lines)
    yield "end"
    for end in sorted(ports.keys() - boxes.keys()):
        yield _box(end, "", ports[end])
    arrows = 0
    for (target, askers), colour in zip(sorted(asked.items()), cycle(_COLOURS), strict=False):
        for source, numbers in sorted(askers.items()):
            some = _ports(numbers)
            yield f"{source} {'' if some == ports[target] else f'-- {some} '}--> {target}"
        links = ",".join(str(arrows + i) for i in range(len(askers)))
        yield f"linkStyle {links} stroke:{colour},stroke-width:2px"
        arrows += len(askers)
    yield from _BORDERS


def _is(workload: Workload, volumes: Mapping[str, str]) -> str:
    """Return in some words what a workload is."""
    words = [workload.kind]
    if schedule := at(workload.document, "spec.schedule"):
        words.append(f"at {schedule}")
    if (replicas := at(workload.document, "spec.replicas") or 1) > 1:
        words.append(f"{replicas} pods")
    claims = [at(one, "persistentVolumeClaim.claimName") for one in items(workload.pod, "volumes")]
    return ", ".join([*words, *(volumes[claim] for claim in claims if claim in volumes)])


def _kind(workload: Workload) -> str:
    if workload.kind in {"Job", "CronJob"}:
        return "job"
    return "service" if workload.containers[0].image[0].startswith("facestack/") else "store"


def _ports(numbers: set[int]) -> str:
    return f"port{'s' * (len(numbers) > 1)} {', '.join(map(str, sorted(numbers)))}"


def gitops(clusters: Mapping[str, Cluster]) -> Iterator[str]:
    """Yield the lines of a push: the way through Flux, then the layers and units, in order."""
    root, *others = clusters[CLUSTER].kustomizations.values()
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
        yield from (f"{earlier} --> {one.name}" for earlier in one.waits_for)
    yield from _BORDERS


def _content(one: Kustomization) -> str:
    """Return the workloads that a Kustomization applies, or else the kinds of its objects."""
    if at(one.spec, "decryption"):
        return "the passwords that git has, encrypted"
    objects = Manifests(applied.document for applied in one.objects)
    names = [workload.name for workload in objects.workloads]
    return ", ".join(dict.fromkeys(names or [str(each["kind"]) for each in objects.documents]))


def _box(name: str, kind: str, *lines: str) -> str:
    text = "<br>".join([f"<b>{name}</b>", *filter(None, lines)])
    return f'{name}["{text}"]{f":::{kind}" if kind else ""}'


PAGES: Final = {
    "README.md": gitops,
    "docs/gitops.md": gitops,
    "docs/kubernetes.md": kubernetes,
    "docs/security.md": table,
}
"""What is written into each page, between the mark and the end of its block or comment."""

_BLOCK: Final = re.compile(r"(Written by `make pictures`\.(?: -->)?\n).*?(```|<!-- end)", re.DOTALL)


def written(page: str, clusters: Mapping[str, Cluster]) -> str:
    """Return a page with what is written into it as it is now."""
    lines = "".join(f"{line}\n" for line in PAGES[page](clusters))
    text, count = _BLOCK.subn(lambda old: f"{old[1]}{lines}{old[2]}", (ROOT / page).read_text())
    if count != 1:
        raise SystemExit(f"pictures: {page} lacks its one block 'Written by `make pictures`.'")
    return text


def main() -> None:
    """Write all pages; SystemExit says what cannot be built or written."""
    source = Source(ROOT)
    clusters = {name: load(source, name).whole() for name in source.clusters()}
    for page, text in {page: written(page, clusters) for page in PAGES}.items():
        (ROOT / page).write_text(text)


if __name__ == "__main__":
    try:
        main()
    except (BuildError, ProgramError) as error:
        raise SystemExit(f"pictures: {error}") from None
