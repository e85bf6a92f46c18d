"""Build what Flux would apply to each cluster, or to those that are named, and check it."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from rich.console import Console
from rich.table import Table

from scripts.gitops import source
from scripts.gitops.checks import check, unused_files
from scripts.gitops.flux import Builder, BuildError, load
from scripts.manifests import tools
from scripts.manifests.model import Finding


def validate(tree: source.Source, names: list[str]) -> Iterator[tuple[str, list[Finding], str]]:
    """Yield each cluster's name, what is wrong with it, and what was looked at in how many words.

    When all clusters are asked for, the last is about files that none of them uses.
    """
    builder = Builder(tree, tools.binary("kubectl"))
    for name in names:
        try:
            cluster = load(builder, name)
        except BuildError as error:
            yield name, [_finding(error)], "cannot be built"
            continue
        if cluster.problems:
            # What else there is to say would follow from these.
            # Layers of one overlay share its faults.
            found = {str(error): _finding(error) for error in cluster.problems}
            yield name, list(found.values()), "cannot be built"
            continue
        count = len(list(cluster.objects()))
        looked_at = f"{len(cluster.kustomizations)} Kustomizations, {count} objects"
        yield name, list(check(cluster, builder)), looked_at
    if names == tree.entries():
        left = list(unused_files(tree, builder.files))
        yield "files", left, f"{len(tree.files())} files"


def _finding(error: BuildError) -> Finding:
    return Finding(error.file, "build", error.problem)


def main() -> int:
    """Print what is wrong and a table; return 0 when nothing is."""
    parser = argparse.ArgumentParser(prog="scripts/validate", description=__doc__)
    parser.add_argument("clusters", nargs="*", metavar="CLUSTER", help="a folder of flux/")
    parser.add_argument("--commit", help="check a commit, not the files as they are now")
    arguments = parser.parse_args()
    tree: AbstractContextManager[source.Source] = (
        source.commit(arguments.commit) if arguments.commit else source.working_tree()
    )
    console = Console(highlight=False)
    table = Table("cluster", "checked", "", "seconds")
    wrong = 0
    with tree as found:
        entries = found.entries()
        if unknown := set(arguments.clusters) - set(entries):
            problem = f"there is no flux/{min(unknown)}/cluster.yaml: choose from"
            parser.error(f"{problem} {', '.join(entries)}")
        started = time.monotonic()
        said: set[str] = set()
        for name, findings, looked_at in validate(found, sorted(arguments.clusters) or entries):
            for finding in findings:
                if str(finding) not in said:
                    console.print(f"{name}: {finding}", markup=False, soft_wrap=True)
                said.add(str(finding))
            wrong += len(findings)
            verdict = f"{len(findings)} wrong" if findings else "ok"
            table.add_row(name, looked_at, verdict, f"{time.monotonic() - started:.1f}")
            started = time.monotonic()
    console.print(table)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except tools.MissingToolError as error:
        sys.exit(f"validate: {error}")
