"""Build what Flux would apply to each cluster, or to those that are named, and check it."""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.table import Table

from scripts.git import GitError
from scripts.gitops import source
from scripts.gitops.checks import check, unused_files
from scripts.gitops.flux import PINNED, load, load_unit
from scripts.manifests import tools
from scripts.manifests.model import Finding


def validate(tree: source.Source, names: list[str]) -> Iterator[tuple[str, list[Finding], str]]:
    """Yield each cluster's name, what is wrong with it, and what was looked at in how many words.

    When all clusters are asked for, the last is about files that none of them uses.
    """
    used: set[str] = set()
    with ThreadPoolExecutor() as pool:  # one is built while another is checked
        for cluster in pool.map(lambda name: load(tree, name), names):
            count = len(list(cluster.objects()))
            looked_at = f"{len(cluster.kustomizations)} Kustomizations, {count} objects"
            yield cluster.name, list(check(cluster, tree)), looked_at
            used |= cluster.files
            if names == tree.clusters() and cluster.facts.get("source") == PINNED:
                used |= load(tree, cluster.name, pinned=False).files
    if names == tree.clusters():
        # A unit that no cluster has is there to be taken.
        for path in sorted(tree.folder.glob("apps/*/kustomization.yaml")):
            unit = path.parent.relative_to(tree.folder).as_posix()
            if f"{unit}/kustomization.yaml" in used:
                continue
            built = load_unit(tree, unit)
            yield (
                built.name,
                list(check(built, tree)) if built.problems else [],
                "built alone: no cluster has it",
            )
            used |= built.files
        yield "files", list(unused_files(tree, used)), f"{len(tree.files())} files"


def main() -> int:
    """Print what is wrong and a table; return 0 when nothing is."""
    parser = argparse.ArgumentParser(prog="scripts/validate", description=__doc__)
    parser.add_argument("clusters", nargs="*", metavar="CLUSTER", help="a folder of flux/clusters")
    parser.add_argument("--commit", help="check a commit, not the files as they are now")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    table = Table("cluster", "checked", "", "seconds")
    said: set[str] = set()
    wrong = 0
    with source.commit(arguments.commit) if arguments.commit else source.working_tree() as tree:
        names = tree.clusters()
        if unknown := set(arguments.clusters) - set(names):
            problem = f"there is no {source.CLUSTERS}/{min(unknown)}: choose from"
            parser.error(f"{problem} {', '.join(names)}")
        started = time.monotonic()
        for name, findings, looked_at in validate(tree, sorted(arguments.clusters) or names):
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
    except (tools.MissingToolError, GitError) as error:
        sys.exit(f"validate: {error}")
