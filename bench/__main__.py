"""Run the benchmarks, or those that the arguments name."""

import argparse
from typing import Final

from bench.alone import measure, run_alone

_MODULES: Final = (
    "accuracy",
    "commits",
    "drain",
    "engines",
    "gallery",
    "groups",
    "indexes",
    "overload",
    "pages",
    "people",
    "pipeline",
    "recognition",
    "submissions",
)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(_MODULES))
    parser.add_argument(
        "--short", action="store_true", help="only show that it runs: the figures mean nothing"
    )
    arguments = parser.parse_args()
    names = arguments.names or _MODULES
    if unknown := set(names) - set(_MODULES):
        known = ", ".join(_MODULES)
        parser.error(f"no benchmark is called {', '.join(unknown)}: choose from {known}")
    failed = [name for name in names if not run_alone(measure, name, arguments.short)]
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
