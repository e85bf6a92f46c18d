"""Render and check every overlay, or those that the arguments name."""

import argparse
import sys
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from scripts.manifests import edges, tools
from scripts.manifests.model import Finding
from scripts.manifests.rendering import RenderError, load, overlays, render
from scripts.manifests.rules import check

_TOOLS = {
    "kubeconform": tools.kubeconform,
    "Pod Security": tools.pod_security,
    "kube-score": tools.kube_score,
    "checkov": tools.checkov,
}


def _check(folder: Path) -> dict[str, list[Finding]]:
    """Return the findings of our own rules and of each tool."""
    manifests = load(folder)
    manifest = yaml.dump_all(manifests.documents, Dumper=yaml.CSafeDumper)
    found = {"rules": list(check(manifests))}
    return found | {name: list(run(manifest)) for name, run in _TOOLS.items()}


def main() -> int:
    """Print what is wrong and a table; return 0 when nothing is."""
    parser = argparse.ArgumentParser(prog="python -m scripts.manifests", description=__doc__)
    known = {folder.name: folder for folder in overlays()}
    parser.add_argument("overlays", nargs="*", metavar="OVERLAY", help=", ".join(known))
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--print", action="store_true", help="print what is rendered, only")
    other.add_argument("--edges", action="store_true", help=f"write the table in {edges.PAGE.name}")
    parser.add_argument("--check", action="store_true", help="with --edges: say whether it is old")
    arguments = parser.parse_args()
    names = arguments.overlays or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"no overlay is called {', '.join(unknown)}: choose from {', '.join(known)}")
    if arguments.edges:
        return edges.main(check=arguments.check)
    if arguments.print:
        for name in names:
            sys.stdout.write(render(known[name]))
        return 0
    console = Console(highlight=False)
    table = Table("overlay", "rules", *_TOOLS, "seconds")
    everything: dict[tuple[str, str], list[Finding]] = {}
    wrong: list[str] = []
    for name in names:
        started = time.monotonic()
        with console.status(f"checking overlays/{name}"):
            found = _check(known[name])
        cells = []
        for tool, findings in found.items():
            everything[name, tool] = findings
            left = list(tools.remaining(name, tool, findings))
            wrong += [f"{name}: {tool}: {finding}" for finding in left]
            cells.append(f"{len(left)} wrong" if left else "ok")
        table.add_row(name, *cells, f"{time.monotonic() - started:.1f}")
    if set(names) == set(known):
        wrong += map(str, tools.unused(everything))
    for line in wrong:
        console.print(line, markup=False, soft_wrap=True)
    console.print(table)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RenderError, tools.MissingToolError) as error:
        sys.exit(f"manifests: {error}")
