"""The local runner's command line: ``run`` and ``demo``."""

import argparse
import asyncio
import fcntl
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from services.common.settings import load
from services.local.demo import Demo, Row
from services.local.errors import LocalError
from services.local.programs import Plan, make_plan
from services.local.samples import SAMPLES, Endpoint, load_photos
from services.local.settings import LocalSettings
from services.local.supervisor import Supervisor

_MARK: Final = ".facestack-demo"
"""Stands in a folder that the demo made, and is locked while a demo runs there."""

_INTERRUPTED: Final = 128 + signal.SIGINT


def main() -> None:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m services.local", description=__doc__)
    parser.add_argument("command", choices=["run", "demo"])
    command = parser.parse_args().command
    settings = load(LocalSettings)
    console = Console(highlight=False)
    try:
        code = asyncio.run((_run if command == "run" else _demo)(settings, console))
    except LocalError as error:
        complaint = Text.assemble((f"{command}: ", "bold red"), str(error))
        Console(stderr=True).print(complaint, soft_wrap=True)
        code = 1
    raise SystemExit(code)


async def _run(settings: LocalSettings, console: Console) -> int:
    # The services run elsewhere, so what the file says reaches them this way.
    from_file = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    plan = make_plan(settings, settings.data_folder, {**from_file, **os.environ})
    _make_folder(plan.folder)

    async def stay(supervisor: Supervisor) -> int:
        console.print(_addresses(plan))
        await supervisor.wait()
        return 0

    return await _supervised(plan, console, stay, interrupted=0)


async def _demo(settings: LocalSettings, console: Console) -> int:
    photos = load_photos(settings.samples_folder)
    any_ports = settings.model_copy(update={"receiver_port": 0, "frontend_port": 0})
    with _own_folder(settings.demo_folder) as folder:
        plan = make_plan(any_ports, folder, os.environ, with_keys=True)
        demo = Demo(
            plan.api_url,
            plan.administrator_key,
            [plan.face_recog_metrics_url],
            plan.put_picture,
            photos,
            settings.samples_folder,
        )

        async def show(_: Supervisor) -> int:
            console.print(f"Submitting {len(SAMPLES)} pictures ...")
            rows = await _show_progress(demo, console)
            console.print(_table(rows))
            wrong = [(row, faults) for row in rows if (faults := row.faults(rows))]
            for row, faults in wrong:
                console.print(f"[bold red]wrong:[/] {row.sample.name}: {'; '.join(faults)}")
            if wrong:
                console.print(f"{len(wrong)} of {len(rows)} rows are wrong. Logs: {plan.logs}")
                return 1
            console.print(f"[bold green]All {len(rows)} rows are as they should be.[/]")
            return 0

        code = await _supervised(plan, console, show, interrupted=_INTERRUPTED)
    if code == 0:
        console.print(
            f"For your own pictures: [bold]make run[/], then open"
            f" http://{settings.host}:{settings.frontend_port}"
        )
    return code


async def _supervised(
    plan: Plan,
    console: Console,
    work: Callable[[Supervisor], Awaitable[int]],
    *,
    interrupted: int,
) -> int:
    """Start everything, do the work, stop everything; return the work's result.

    On the first Ctrl-C or SIGTERM everything is drained and ``interrupted`` returned, on a second
    one it ends at once.
    """

    def say(line: str) -> None:
        service, _, rest = line.partition(" ")
        console.print(Text.assemble((f"{service:>15} ", "bold yellow"), rest), soft_wrap=True)

    async def start_and_work() -> int:
        console.print(f"Starting {len(plan.programs)} services ...")
        with console.status("") as status:
            waiting = ["database", *(program.name for program in plan.programs)]

            def ready(name: str) -> None:
                waiting.remove(name)
                status.update(f"waiting for {', '.join(waiting)} ...")

            await supervisor.start(ready)
        console.print(f"All {len(plan.programs)} services are ready.")
        return await work(supervisor)

    loop = asyncio.get_running_loop()
    begin = loop.time()
    supervisor = Supervisor(plan, say=say)
    task = asyncio.create_task(start_and_work())
    signals = 0

    def on_signal() -> None:
        nonlocal signals, begin
        signals += 1
        if signals == 1:
            begin = loop.time()
            console.print("Stopping: finishing what is in flight ...")
            task.cancel()
        else:
            supervisor.kill()

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        return interrupted
    finally:
        await supervisor.stop()
        if signals:
            console.print(f"Stopped in {loop.time() - begin:.1f} s.")


def _addresses(plan: Plan) -> Panel:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("Page", f"[bold]{plan.page_url}[/]")
    grid.add_row("API", plan.api_url)
    grid.add_row("API, described", plan.docs_url)
    if plan.administrator_key:
        grid.add_row("Administrator's key", Text(plan.administrator_key))
        grid.add_row("", "Others can reach this, so page and API ask who calls.")
        grid.add_row("", "On the page: name administrator, and the key as password;")
        grid.add_row("", "from elsewhere over HTTPS only, or browsers keep no log-in.")
    here, folder = Path.cwd(), plan.folder
    short = folder.relative_to(here) if folder.is_relative_to(here) else folder
    grid.add_row("Data and logs", Text(str(short)))
    return Panel(grid, title="Facestack", subtitle="Ctrl-C stops it", box=box.ROUNDED, expand=False)


async def _show_progress(demo: Demo, console: Console) -> list[Row]:
    with Progress(
        SpinnerColumn(),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    ) as progress:
        bar = progress.add_task("", total=len(SAMPLES))
        return await demo.run(
            on_step=lambda step: progress.update(bar, description=step),
            on_row=lambda _: progress.advance(bar),
        )


_SHORT: Final[dict[Endpoint, str]] = {
    "POST /image/post": "single",
    "POST /images/post": "bulk",
    "POST /images": "upload",
}
_COLOURS: Final = {"processed": "green", "rejected": "yellow"}


def _table(rows: list[Row]) -> Table:
    """Return the result; it fits into 80 columns."""
    legend = "   ".join(f"{short}: {endpoint}" for endpoint, short in _SHORT.items())
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=legend,
        caption_justify="left",
    )
    for heading in ("picture", "how", "status"):
        table.add_column(heading, no_wrap=True)
    table.add_column("who")
    for heading in ("distance", "ms"):
        table.add_column(heading, justify="right")
    for row in rows:
        status = row.image["status"]
        who = row.people or [row.image["error"] or "nobody"]
        if row.duplicate:
            who = [*who, f"(image {row.image['id']} again)"]
        table.add_row(
            row.sample.name,
            _SHORT[row.sample.endpoint],
            Text(status, style=_COLOURS.get(status, "red")),
            Text("\n".join(who)),
            "\n".join(f"{distance:.2f}" for distance in row.distances),
            "" if row.duplicate else str(row.milliseconds),
            style="bold red" if row.faults(rows) else None,
        )
    return table


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise LocalError(f"cannot write to {folder}: {error.strerror}") from None


@contextmanager
def _own_folder(folder: Path) -> Iterator[Path]:
    """Yield the demo's folder, empty, and keep other demos out of it."""
    if folder.exists() and not (folder / _MARK).exists() and any(folder.iterdir()):
        raise LocalError(
            f"{folder} was not made by the demo and is not empty: remove it yourself,"
            " or set DEMO_FOLDER to another one"
        )
    _make_folder(folder)
    with (folder / _MARK).open("ab") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LocalError(f"another demo is running in {folder}") from None
        for entry in folder.iterdir():
            if entry.name == _MARK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        yield folder
