"""Writes who may connect to whom, as the network policies say, into docs/security.md."""

import sys
from typing import Final

from scripts.manifests.rendering import ROOT, load, overlays
from scripts.manifests.rules import network

PAGE: Final = ROOT / "docs" / "security.md"
START: Final = "<!-- edges: written by `make manifests ARGS=--edges` -->\n"
END: Final = "<!-- end of edges -->\n"
_CALLED: Final = {network.ANYWHERE: "API server", network.PRIVATE: "clients"}


def table() -> str:
    """Return the table: from, to, the pod's port, and the overlays that have the connection."""
    found: dict[tuple[str, str, int], list[str]] = {}
    names = [folder.name for folder in overlays()]
    for folder in overlays():
        manifests = load(folder)
        pipeline = {workload.name for workload in manifests.pipeline.workloads}
        lines = set()
        for source, target, port, _ in network.edges(manifests.pipeline):
            far = _CALLED.get(target, target)
            lines.add((source if source in pipeline else "clients", far, port))
        for line in lines:
            found.setdefault(line, []).append(folder.name)
    rows = [
        f"| {source} | {target} | {port} | {'all' if on == names else ', '.join(on)} |\n"
        for (source, target, port), on in sorted(found.items())
    ]
    return "".join(["| From | To | Port | Overlays |\n|---|---|---|---|\n", *rows])


def main(*, check: bool) -> int:
    """Write the table, or say that the one that is there is old; return 0 when all is well."""
    page = PAGE.read_text()
    before, _, rest = page.partition(START)
    _, found, after = rest.partition(END)
    if not found:
        print(f"{PAGE.name} lacks the lines {START.strip()} and {END.strip()}", file=sys.stderr)
        return 1
    written = f"{before}{START}{table()}{END}{after}"
    if check and written != page:
        print(f"{PAGE.name} is old: run 'make manifests ARGS=--edges'", file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(written)
    return 0
