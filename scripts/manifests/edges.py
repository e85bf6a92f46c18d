"""Writes who may connect to whom, as the network policies say, into docs/security.md."""

import sys
from typing import Final

from scripts.manifests.rendering import ROOT, load, overlays
from scripts.manifests.rules import network

PAGE: Final = ROOT / "docs" / "security.md"
START: Final = "<!-- edges: written by `make manifests ARGS=--edges` -->\n"
END: Final = "<!-- end of edges -->\n"


def table() -> str:
    """Return the table: from, to, the pod's port, and the overlays that have the connection."""
    found: dict[tuple[str, str, int], set[str]] = {}
    for folder in overlays():
        manifests = load(folder).pipeline
        names = {workload.name for workload in manifests.workloads}
        for source, target, port, _ in network.edges(manifests):
            near = source if source in names else "clients"
            far = "API server" if target == network.ANYWHERE else target
            found.setdefault((near, far, port), set()).add(folder.name)
    everywhere = {folder.name for folder in overlays()}
    rows = "".join(
        f"| {near} | {far} | {port} | {'all' if on == everywhere else ', '.join(sorted(on))} |\n"
        for (near, far, port), on in sorted(found.items())
    )
    return f"| From | To | Port | Overlays |\n|---|---|---|---|\n{rows}"


def main(*, check: bool) -> int:
    """Write the table, or say that the one that is there is old; return 0 when all is well."""
    before, _, rest = PAGE.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not end:
        print(f"{PAGE.name} lacks the lines {START.strip()} and {END.strip()}", file=sys.stderr)
        return 1
    page = f"{before}{START}{table()}{END}{after}"
    if not check:
        PAGE.write_text(page)
    elif page != PAGE.read_text():
        print(f"{PAGE.name} is old: run 'make manifests ARGS=--edges'", file=sys.stderr)
        return 1
    return 0
