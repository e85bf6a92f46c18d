"""Render and check overlays; or, with --clusters, what Flux would apply to each cluster."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import Final

import yaml

from scripts.git import GitError
from scripts.gitops import source
from scripts.gitops.checks import Row, validate
from scripts.gitops.flux import BuildError
from scripts.manifests import edges, tools
from scripts.manifests.model import Finding
from scripts.manifests.rendering import load, overlays, render
from scripts.manifests.rules import check

_TOOLS: Final = {
    "kubeconform": tools.kubeconform,
    "Pod Security": tools.pod_security,
    "kube-score": tools.kube_score,
    "checkov": tools.checkov,
}


def _overlays(names: list[str]) -> Iterator[Row]:
    """Yield what our own rules and each tool say of overlays, and exceptions that none needs."""
    found: dict[tuple[str, str], list[Finding]] = {}
    for folder in (one for one in overlays() if one.name in names):
        manifests = load(folder)
        manifest = yaml.dump_all(manifests.documents, Dumper=yaml.CSafeDumper)
        said = {"rules": check(manifests), **{tool: run(manifest) for tool, run in _TOOLS.items()}}
        for tool, findings in said.items():
            found[folder.name, tool] = list(findings)
            left = tools.remaining(folder.name, tool, found[folder.name, tool])
            yield f"{folder.name}: {tool}", f"{len(manifests.documents)} objects", list(left)
    if {name for name, _ in found} == {one.name for one in overlays()}:
        yield "exceptions", "whether each is needed", list(tools.unused(found))


def _report(rows: Iterable[Row]) -> int:
    """Print what was checked, then each fault with all that has it; return 0 when there is none."""
    wrong: dict[Finding, list[str]] = {}
    for name, looked_at, findings in rows:
        verdict = f"{len(findings)} wrong" if findings else "ok"
        print(f"{name}: {looked_at}: {verdict}", flush=True)
        for finding in dict.fromkeys(findings):
            wrong.setdefault(finding, []).append(name)
    for finding, names in wrong.items():
        print(f"{', '.join(names)}: {finding}")
    return 1 if wrong else 0


def main() -> int:
    """Do what the arguments say; return 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(prog="python -m scripts.manifests", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of overlays or of clusters")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--print", action="store_true", help="print what is rendered, only")
    other.add_argument("--edges", action="store_true", help=f"write the table in {edges.PAGE.name}")
    other.add_argument("--clusters", action="store_true", help="check clusters, not overlays")
    parser.add_argument("--check", action="store_true", help="with --edges: say whether it is old")
    parser.add_argument("--commit", help="with --clusters: a commit, not the files as they are")
    arguments = parser.parse_args()
    if arguments.commit and not arguments.clusters:
        parser.error("--commit is for --clusters")

    def chosen(known: list[str]) -> list[str]:
        if unknown := set(arguments.names) - set(known):
            parser.error(f"there is no {min(unknown)}: choose from {', '.join(known)}")
        return sorted(arguments.names) or known

    if arguments.clusters:
        opened = source.commit(arguments.commit) if arguments.commit else source.working_tree()
        with opened as tree:
            return _report(validate(tree, chosen(tree.clusters())))
    names = chosen([folder.name for folder in overlays()])
    if arguments.edges:
        return edges.main(check=arguments.check)
    if arguments.print:
        for folder in (one for one in overlays() if one.name in names):
            sys.stdout.write(render(folder))
        return 0
    return _report(_overlays(names))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BuildError, GitError, tools.MissingToolError) as error:
        sys.exit(f"manifests: {error}")
