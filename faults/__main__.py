"""Strike the whole pipeline with faults: ``make faults``.

As root it runs in a network and with mounts of its own, which end with it.
"""

import argparse
import asyncio
import fcntl
import logging
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from faults.campaign import Campaign, CampaignError, Order
from faults.plan import Kind
from faults.report import report
from faults.stack import Switches
from services.local.errors import LocalError
from services.testing.samples import sample

_ROOT: Final = Path(__file__).resolve().parents[1]
_APART: Final = "FACESTACK_FAULTS_APART"
_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=40, help="how many (default: 40)")
    parser.add_argument(
        "--pictures", type=int, default=1000, help="at least so many acknowledged (default: 1000)"
    )
    parser.add_argument("--seed", type=int, help="repeat the faults of an earlier run")
    parser.add_argument("--sqlite", action="store_true", help="the pipeline of one machine")
    parser.add_argument(
        "--kinds", nargs="+", choices=[kind.name for kind in Kind], help="only these faults"
    )
    parser.add_argument("--targets", nargs="+", help="strike only these; names as they are shown")
    parser.add_argument(
        "--patience",
        type=float,
        default=60,
        help="seconds after the last fault until all must be final (default: 60)",
    )
    parser.add_argument("--folder", type=Path, default=_ROOT / "var" / "faults")
    wrong = parser.add_argument_group("what is broken on purpose, so that the run must end red")
    wrong.add_argument("--no-redeemer", action="store_true")
    wrong.add_argument("--no-unique-key", action="store_true")
    wrong.add_argument("--no-fence", action="store_true", help="late results are taken")
    wrong.add_argument("--fin-first", action="store_true", help="FIN before the commit")
    return parser.parse_args()


def _switches(arguments: argparse.Namespace) -> Switches:
    module: tuple[str, ...] = ("services.image_processor",)
    if arguments.no_fence:
        module = ("faults.broken", "no-fence")
    elif arguments.fin_first:
        module = ("faults.broken", "fin-first")
    return Switches(
        redeemer=not arguments.no_redeemer,
        unique_key=not arguments.no_unique_key,
        processor=module,
    )


def _go_apart() -> None:
    """Run again in a network and with mounts of our own, so that nothing is left behind.

    The ports of a server that is restarted are then nobody else's meanwhile, and libfaketime's
    shared memory goes too.
    """
    if os.geteuid() != 0 or _APART in os.environ or not shutil.which("unshare"):
        return
    command = ["unshare", "--mount", "--net", "--propagation", "private"]
    apart = 'ip link set lo up && mount -t tmpfs none /dev/shm && exec "$0" "$@"'
    command += ["sh", "-c", apart, sys.executable, "-m", "faults", *sys.argv[1:]]
    os.execvpe(command[0], command, {**os.environ, _APART: "1"})  # noqa: S606


@contextmanager
def _empty(folder: Path) -> Iterator[Path]:
    """Yield the folder, empty, and keep other runs out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = os.open(folder / ".faults", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"faults: another run is using {folder}") from None
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        yield run
    finally:
        os.close(mark)


async def _run(order: Order, folder: Path, console: Console) -> bool:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101, this is one
    for signum in _ENDINGS:
        loop.add_signal_handler(signum, task.cancel)
    samples = sample("grace_hopper.jpg").parent
    with console.status("") as status:
        campaign = Campaign(order, folder, samples, say=console.print, show=status.update)
        result = await campaign.run()
    report(console, order, result, folder)
    return result.good


def _first(error: Exception) -> Exception:
    """Return what a group of tasks ended with."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def main() -> None:
    """Run it; the exit status is 0 when nothing was lost and 1 when something was."""
    arguments = _arguments()
    _go_apart()
    order = Order(
        seed=random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed,
        faults=arguments.faults,
        pictures=arguments.pictures,
        patience=arguments.patience,
        sqlite=arguments.sqlite,
        kinds=[Kind[name] for name in arguments.kinds] if arguments.kinds else tuple(Kind),
        targets=arguments.targets,
        switches=_switches(arguments),
    )
    # It tells of each connection that a fault has ended.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    console = Console(soft_wrap=True)
    console.print(
        f"{order.faults} faults over at least {order.pictures:,} pictures, seed {order.seed}"
    )
    with _empty(arguments.folder.resolve()) as folder:
        try:
            good = asyncio.run(_run(order, folder, console))
        except asyncio.CancelledError:
            raise SystemExit("faults: interrupted") from None
        except (LocalError, CampaignError, ExceptionGroup) as error:
            reason = _first(error)
            if not isinstance(reason, LocalError | CampaignError):
                raise
            raise SystemExit(f"faults: {reason}; the logs are in {folder / 'logs'}") from None
        except pytest.skip.Exception as error:  # a server that is not installed
            raise SystemExit(f"faults: {error.msg}") from None
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
