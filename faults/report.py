"""What a run says at its end."""

from collections import Counter
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from faults.accounting import Loss, Told
from faults.campaign import Order, Result
from faults.plan import Kind

_MOST: Final = 20
"""Findings that are shown; a broken run has hundreds of one kind."""


def report(console: Console, order: Order, result: Result, folder: Path) -> None:
    """Print the tables and the verdict."""
    console.print(_faults(result))
    account = result.account
    told = account.told
    console.print(
        f"{sum(told.values()):,} submissions and deletions:"
        f" {told.get(Told.ACKNOWLEDGED, 0):,} acknowledged, {told.get(Told.REFUSED, 0):,} refused,"
        f" {told.get(Told.UNKNOWN, 0):,} without an answer that says which"
    )
    console.print(
        f"{account.pictures:,} pictures acknowledged, {account.deleted:,} of them deleted again;"
        " of all:"
    )
    for loss in Loss:
        count = account.count(loss)
        console.print(f"  {loss:<14} {count:>5,}", style="bold red" if count else "green")
    for finding in account.findings[:_MOST]:
        console.print(f"{finding.loss}: {finding.path}: {finding.detail}", style="red")
    if len(account.findings) > _MOST:
        console.print(f"... and {len(account.findings) - _MOST} more", style="red")
    for complaint in result.complaints:
        console.print(complaint, style="red")
    if result.final_after is None:
        console.print(f"not all final {order.patience:g} s after the last fault", style="red")
    else:
        console.print(
            f"all final {result.final_after:.1f} s after the last fault and submission,"
            f" the slowest {max(result.waits.values(), default=0):.1f} s after it was acknowledged"
        )
    took = f"{len(result.struck)} faults in {result.seconds:.0f} s, seed {order.seed}"
    if result.good:
        console.print(f"Nothing was lost: {took}.", style="bold green")
    else:
        console.print(f"Red: {took}; the logs are in {folder / 'logs'}.", style="bold red")


def _faults(result: Result) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption="from the end of a fault until everything that was open then was final",
        caption_justify="left",
    )
    table.add_column("fault", no_wrap=True)
    table.add_column("times", justify="right")
    table.add_column("worst s", justify="right")
    table.add_column("what it struck")
    for kind in Kind:
        struck = Counter(
            strike.fault.target for strike in result.struck if strike.fault.kind is kind
        )
        if struck:
            what = ", ".join(
                f"{target} x{count}" if count > 1 else target
                for target, count in sorted(struck.items())
            )
            table.add_row(kind.value, str(struck.total()), f"{result.worst.get(kind, 0):.1f}", what)
    return table
