"""Run the benchmarks, or those that the arguments name."""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from rich.console import Console

from scripts.bench import commits, openblas, pipeline, recognition, submissions
from services.common import logs

_ALL: Final[Mapping[str, Callable[[Console, Path], None]]] = {
    "commits": commits.run,
    "dlib": openblas.run,
    "pipeline": pipeline.run,
    "recognition": recognition.run,
    "submissions": submissions.run,
}


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(_ALL))
    names = parser.parse_args().names or list(_ALL)
    if unknown := set(names) - set(_ALL):
        parser.error(f"no benchmark is called {', '.join(unknown)}: choose from {', '.join(_ALL)}")
    logs.configure("bench", "WARNING")
    console = Console(highlight=False, width=110)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="facestack-bench-") as folder:
            _ALL[name](console, Path(folder))


if __name__ == "__main__":
    main()
