"""Make, rotate and check secrets: ``python -m scripts.secrets --help``."""

import argparse
import os
import sys
from pathlib import Path

from scripts.manifests.tools import MissingToolError
from scripts.secrets.errors import SecretsError
from scripts.secrets.passwords import Passwords, default_key
from scripts.secrets.running import Running
from scripts.secrets.store import Store, clusters

_ROOT = Path(__file__).parents[2]


def main(arguments: list[str] | None = None, root: Path = _ROOT) -> int:
    """Return 0 when it is done, or all is well."""
    options = _parser().parse_args(arguments)
    try:
        return _check(root) if options.check else _manage(options, root)
    except (SecretsError, MissingToolError) as error:
        print(f"secrets: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.secrets")
    parser.add_argument("cluster", nargs="?", default="", help="a folder of flux/clusters/")
    parser.add_argument("--context", default="", help="of kubectl, for the running cluster")
    parser.add_argument("--new", default="", help="make new ones, whatever some cluster has")
    parser.add_argument("--rotate", default="", help="Secrets, or 'database' for the services'")
    parser.add_argument("--finish", default="", help="1, or 'unchecked' to ask no cluster")
    parser.add_argument("--outage", default="", help="rotate what cannot be without one")
    parser.add_argument("--key", default="", help="file with the private age key")
    parser.add_argument("--check", action="store_true", help="look at what is committed")
    return parser


def _manage(options: argparse.Namespace, root: Path) -> int:
    key = Path(options.key).expanduser() if options.key else default_key(options.cluster)
    store = Store(root, options.cluster, key)
    alerts = {"address": os.environ.get("ALERTS", ""), "token": os.environ.get("ALERTS_TOKEN", "")}
    passwords = Passwords(
        store,
        running=Running(options.context) if options.context else None,
        alerts={name: text for name, text in alerts.items() if text},
    )
    if options.rotate and options.finish:
        raise SecretsError("one thing at a time: ROTATE begins a rotation, FINISH ends it")
    before = _state(store)
    passwords.prepare()
    try:
        passwords.encrypt_anew()
        if options.rotate:
            passwords.rotate(options.rotate.replace(",", " ").split(), outage=bool(options.outage))
        elif options.finish:
            passwords.finish(unchecked=options.finish == "unchecked")
        else:
            passwords.make(new=bool(options.new))
    finally:
        # What was written before something failed must have its stamp, too, or no pod would roll.
        store.settle()
    if _state(store) == before:
        print("nothing to do: all is there and fits")
    else:
        print(f"next: git add .sops.yaml flux/clusters/{store.cluster} && git commit && git push")
    return 0


def _state(store: Store) -> dict[Path, bytes]:
    """Return all files that this may change."""
    files = [store.root / ".sops.yaml", *store.folder.parent.glob("**/*.yaml")]
    return {file: file.read_bytes() for file in files if file.is_file()}


def _check(root: Path) -> int:
    problems = [
        problem
        for cluster in clusters(root)
        for problem in Store(root, cluster, default_key(cluster)).problems()
    ]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
