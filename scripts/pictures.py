"""Draw two pictures of docs/images from the manifests; with --check, only say whether they are old.

The layout is ours: graphviz draws the same input otherwise in every version, and a hundred arrows
that cross are no picture. Here a server has a line of its own, and whoever may ask it a dot there.
"""

import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from scripts.manifests.model import Document, Manifests, Workload, at, items
from scripts.manifests.rules.network import ANYWHERE, Edge, edges
from scripts.manifests.tools import MissingToolError, binary

ROOT: Final = Path(__file__).resolve().parents[1]
CLUSTER: Final = "kind"
"""Which one is drawn: all that the pipeline needs is in it."""

CLIENTS: Final = "clients"

# All in pixels.
WIDTH: Final = 980
MARGIN: Final = 16
LEFT: Final = 32
_LINE: Final = 18

_STYLE: Final = """\
  <style>
    text {font-family: system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #0f172a}
    .name {font-size: 14px; font-weight: 600} .note {font-size: 11.5px; fill: #475569}
    .port {font-size: 11px; fill: #475569; paint-order: stroke; stroke: #fff; stroke-width: 4px}
    .page {fill: #f8fafc} .frame {fill: #fff; stroke: #94a3b8; stroke-dasharray: 6 5}
    rect {stroke-width: 1.5} path {fill: none; stroke: #94a3b8; stroke-width: 1.6}
    .outside {fill: #fff; stroke: #94a3b8} .service {fill: #e0ecff; stroke: #3b6fd6}
    .store {fill: #e7f6ec; stroke: #2f9158} .job {fill: #fef3d7; stroke: #b7791f}
    .unit {fill: #f3e8ff; stroke: #8b5cc7} .tip {fill: #94a3b8; stroke: none}
    @media (prefers-color-scheme: dark) {
      text {fill: #e2e8f0} .note, .port {fill: #a8b5c7} .port {stroke: #161f2e}
      .page {fill: #0f172a} .frame {fill: #161f2e; stroke: #64748b}
      .outside {fill: #1e293b} .service {fill: #1c3158; stroke: #6f9bf0}
      .store {fill: #173a27; stroke: #55b87f} .job {fill: #46340f; stroke: #d9a441}
      .unit {fill: #38245a; stroke: #b48af0}
    }
  </style>
  <marker id="tip" viewBox="0 0 10 10" refX="4" refY="5" markerWidth="6" markerHeight="6"
    orient="auto"><path class="tip" d="M0 0 10 5 0 10z"/></marker>
"""
_COLOURS: Final = ("#3b6fd6", "#c2553d", "#2f9158", "#8b5cc7", "#b7791f", "#0e8a9c")


class Box(NamedTuple):
    """A box by its left side and its middle, with its name and notes below that."""

    x: float
    y: float
    width: float
    kind: str
    lines: Sequence[str]

    @property
    def height(self) -> float:
        """Return how high it is."""
        return _height(self.lines)

    def draw(self) -> str:
        """Return it as SVG."""
        top, first = self.y - self.height / 2, self.y - _LINE / 2 * (len(self.lines) - 1) + 5
        texts = [
            _text(self.x + self.width / 2, first + _LINE * i, line, "note" if i else "name")
            for i, line in enumerate(self.lines)
        ]
        size = f'width="{self.width:g}" height="{self.height:g}" rx="10"'
        return "\n".join([f'<rect class="{self.kind}" x="{self.x:g}" y="{top:g}" {size}/>', *texts])


def _height(lines: Sequence[str]) -> float:
    return _LINE * max(2, len(lines)) + 8


def _text(x: float, y: float, text: str, kind: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _frame(top: float, bottom: float) -> str:
    size = f'width="{WIDTH - 2 * MARGIN}" height="{bottom - top:g}" rx="14"'
    return f'<rect class="frame" x="{MARGIN}" y="{top:g}" {size}/>'


def _svg(height: float, label: str, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img"'
    page = f'<rect class="page" width="{WIDTH}" height="{height:g}" rx="14"/>'
    body = "\n".join(["<!-- Drawn by `make pictures`. -->", page, *parts])
    return f'{head} aria-label="{escape(label)}">\n{_STYLE}{body}\n</svg>\n'


def _rendered(folder: str) -> Manifests:
    command = [binary("kubectl"), "kustomize", str(ROOT / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pictures: {folder}: {done.stderr.strip()}")
    return Manifests(one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one)


def _depths(after: Mapping[str, Iterable[str]]) -> Mapping[str, int]:
    """Return the longest way to each name, sorted by it; a way that goes in a circle ends there."""

    def depth(name: str, below: frozenset[str] = frozenset()) -> int:
        ways = (one for one in after[name] if one not in below)
        return max((depth(one, below | {name}) + 1 for one in ways), default=0)

    found = {name: depth(name) for name in sorted(after)}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _workload(workload: Workload, volumes: Mapping[str, str]) -> tuple[str, Sequence[str]]:
    """Return which kind of box a workload is, and what stands in it."""
    replicas = at(workload.document, "spec.replicas")
    words = [workload.kind]
    if schedule := at(workload.document, "spec.schedule"):
        words.append(f"at {schedule}")
    elif isinstance(replicas, int) and replicas > 1:
        words.append(f"{replicas} pods")
    claims = [at(one, "persistentVolumeClaim.claimName") for one in items(workload.pod, "volumes")]
    words += [f"volume of {volumes[claim]}" for claim in claims if claim]
    own = workload.containers[0].spec["image"].startswith("facestack/")
    kind = "job" if workload.kind in {"Job", "CronJob"} else "service" if own else "store"
    return kind, [workload.name, ", ".join(words)]


def _connections(manifests: Manifests) -> Sequence[Edge]:
    """Return the edges, with one name for whoever is outside."""
    names = {workload.name for workload in manifests.workloads}
    outside = {ANYWHERE: "API server"}
    return sorted(
        {
            Edge(
                edge.source if edge.source in names else CLIENTS,
                edge.target if edge.target in names else outside.get(edge.target, "outside"),
                edge.port,
            )
            for edge in edges(manifests)
        }
    )


def kubernetes() -> str:
    """Return the picture of the namespace: workloads, volumes, and who may ask whom."""
    manifests = _rendered(f"overlays/{CLUSTER}")
    connections = _connections(manifests)
    sizes = {
        at(one, "metadata.name"): at(one, "spec.resources.requests.storage")
        for one in manifests.kind("PersistentVolumeClaim")
    }
    inside = {one.name: _workload(one, sizes) for one in manifests.workloads}
    askers: dict[str, set[str]] = {name: set() for name in [CLIENTS, *inside]}
    for edge in connections:
        askers.setdefault(edge.target, set()).add(edge.source)
    rows = [name for name in _depths(askers) if name in inside]
    ends = [name for name in askers if name not in {CLIENTS, *inside}]
    boxes: dict[str, Box] = {}
    y = 60.0
    for name in [CLIENTS, *rows, *ends]:
        boxes[name] = Box(LEFT, y, 204, *inside.get(name, ("outside", [name])))
        y += 52 + 24 * (name in {CLIENTS, rows[-1]})
    middle = 0.5 * boxes[rows[-1]].height + 14
    notes = (
        "namespace face",
        "Every line leads to a port of a server, from those with a dot on it.",
        "All ask DNS, too. Nothing else gets through.",
    )
    return _svg(
        y,
        "The namespace face: its workloads, their volumes, and who may ask whom, at which port.",
        [
            _frame(boxes[rows[0]].y - middle, boxes[rows[-1]].y + middle),
            *(
                _text(WIDTH - MARGIN, 44 + 19 * i, note, "note" if i else "name", "end")
                for i, note in enumerate(notes)
            ),
            *_rails(connections, boxes),
            *(box.draw() for box in boxes.values()),
        ],
    )


def _rails(connections: Sequence[Edge], boxes: Mapping[str, Box]) -> Iterable[str]:
    """Yield a line for each port that is asked, and one for each that asks, up to its last dot."""
    order = list(boxes)
    ports = sorted(
        {(edge.target, edge.port) for edge in connections},
        key=lambda port: (order.index(port[0]), port[1]),
    )
    right = LEFT + boxes[order[0]].width
    step = (WIDTH - LEFT - right - 64) / len(ports)
    x = {port: round(right + 64 + step * i) for i, port in enumerate(ports)}
    for name, box in boxes.items():
        if dots := [x[edge.target, edge.port] for edge in connections if edge.source == name]:
            yield f'<path d="M{right:g} {box.y - 11:g}H{max(dots)}"/>'
    for i, (target, port) in enumerate(ports):
        colour = _COLOURS[i % len(_COLOURS)]
        rail = x[target, port]
        asking = [e.source for e in connections if (e.target, e.port) == (target, port)]
        # Several ports of one box end one below the other.
        later = sum(other == target and number > port for other, number in ports)
        end = boxes[target].y + 12 - 14 * later
        top = min(boxes[source].y - 11 for source in asking)
        line = f"M{rail} {top:g}V{end - 8:g}q0 8-8 8H{right + 9:g}"
        yield f'<path style="stroke:{colour};stroke-width:2" d="{line}"/>'
        yield f'<path style="fill:{colour};stroke:none" d="m{right + 1:g} {end:g} 10-5v10z"/>'
        for source in asking:
            yield f'<circle cx="{rail}" cy="{boxes[source].y - 11:g}" r="4.5" fill="{colour}"/>'
        yield _text(right + 16, end + 4, str(port), "port", "start")


def gitops() -> str:
    """Return the picture of a push: the way through Flux, then the layers and units, in order."""
    flux = {
        at(one, "metadata.name"): one
        for one in _rendered(f"flux/clusters/{CLUSTER}").kind("Kustomization")
    }
    [root] = [name for name, one in flux.items() if at(one, "metadata.labels")]
    way = [
        ["git push", "to the branch"],
        ["source-controller", "fetches what the branch has"],
        ["kustomize-controller", "renders, applies, prunes, waits"],
        [root, _path(flux.pop(root))],
    ]
    step = (WIDTH - 2 * MARGIN + 26) / len(way)
    top_boxes = [
        Box(MARGIN + step * i, 60, step - 26, "service" if i else "outside", lines)
        for i, lines in enumerate(way)
    ]
    after = {
        name: [at(one, "name") for one in items(layer, "spec.dependsOn")]
        for name, layer in flux.items()
    }
    boxes = _places(flux, after)
    first, last = next(iter(boxes.values())), top_boxes[-1]
    start = last.x + last.width / 2
    bottom = max(box.y + box.height / 2 for box in boxes.values()) + MARGIN
    note = "Each waits until those before it are Ready at the same revision."
    return _svg(
        bottom + MARGIN,
        "The way of a push: through Flux's controllers, then the layers and units of a cluster.",
        [
            _frame(118, bottom),
            _text(WIDTH - LEFT, 142, note, "note", "end"),
            *(_arrow(f"M{box.x - 26:g} {box.y:g}H{box.x - 8:g}") for box in top_boxes[1:]),
            _arrow(f"M{start:g} 82V102H{first.x + 60:g}V{first.y - first.height / 2 - 8:g}"),
            *(_between(boxes[one], boxes[name]) for name in boxes for one in after[name]),
            *(box.draw() for box in [*top_boxes, *boxes.values()]),
        ],
    )


def _places(flux: Mapping[str, Document], after: Mapping[str, Sequence[str]]) -> Mapping[str, Box]:
    """Return a box for each Kustomization: layers on the left, a unit below one it waits for."""
    width = 284
    columns: dict[str, int] = {}
    boxes: dict[str, Box] = {}
    rows: dict[int, list[str]] = {}
    for name, depth in _depths(after).items():
        rows.setdefault(depth, []).append(name)
    top = 168.0
    for names in rows.values():
        lines = {name: [name, _path(flux[name]), *_content(flux[name])] for name in names}
        height = max(map(_height, lines.values()))
        free = [1, 2]
        for name in sorted(names, key=lambda name: (_is_unit(flux[name]), name)):
            above = [columns[one] for one in after[name] if _is_unit(flux[one])]
            columns[name] = min(above or free) if _is_unit(flux[name]) else 0
            free = [column for column in free if column != columns[name]]
            kind = "unit" if _is_unit(flux[name]) else "store"
            x = LEFT + columns[name] * (width + 32)
            boxes[name] = Box(x, top + height / 2, width, kind, lines[name])
        top += height + 34
    return boxes


def _between(one: Box, other: Box) -> str:
    """Return the arrow from what is waited for to what waits."""
    if one.x == other.x:
        x = one.x + one.width / 2
        return _arrow(f"M{x:g} {one.y + one.height / 2:g}V{other.y - other.height / 2 - 8:g}")
    right = one.x + one.width
    return _arrow(f"M{right:g} {one.y:g}H{other.x - 18:g}V{other.y:g}H{other.x - 8:g}")


def _arrow(way: str) -> str:
    return f'<path d="{way}" marker-end="url(#tip)"/>'


def _path(layer: Document) -> str:
    return str(at(layer, "spec.path")).removeprefix("./")


def _is_unit(layer: Document) -> bool:
    return _path(layer).startswith("apps/")


def _content(layer: Document) -> Sequence[str]:
    """Return, in a line or a few, the workloads of a folder, or else the kinds of its objects."""
    if at(layer, "spec.decryption"):
        return ["the passwords that git has, encrypted"]
    objects = _rendered(_path(layer))
    names = [one.name for one in objects.workloads]
    kinds = [str(one["kind"]) for one in objects.documents]
    return textwrap.wrap(", ".join(dict.fromkeys(names or kinds)), 44)


def main() -> None:
    """Write the pictures, or compare them."""
    for draw in (kubernetes, gitops):
        file = ROOT / f"docs/images/{draw.__name__}.svg"
        if sys.argv[1:] != ["--check"]:
            file.write_text(draw())
        elif not file.exists() or file.read_text() != draw():
            raise SystemExit(f"docs/images/{draw.__name__}.svg is old: run 'make pictures'")


if __name__ == "__main__":
    try:
        main()
    except MissingToolError as error:
        sys.exit(f"pictures: {error}")
