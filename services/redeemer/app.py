"""Wires the redeemer together and runs it."""

import asyncio
import socket
from typing import Final

import uvloop

from services.common import logs, ops
from services.common.clock import database_now
from services.common.database import Database
from services.common.doorbell import NsqDoorbell, PolledRows
from services.common.objects import ObjectStore
from services.common.repeating import repeat
from services.common.settings import load
from services.redeemer.adapters import DatabaseGarbage, DatabasePictures, DatabaseRows
from services.redeemer.collecting import Collector
from services.redeemer.service import Redeemer
from services.redeemer.settings import RedeemerSettings
from services.redeemer.thumbnails import Thumbnails

LOG_SECONDS: Final = 60.0
"""How long what was deleted may be in SQLite's log."""

COUNT_SECONDS: Final = 10.0
"""Counting a million rows takes a moment, so not every sweep does it."""

THUMBNAILS_SECONDS: Final = 86_400.0
"""A store lists 5,000 a second, and there is only something to find after a rollout."""


async def run(settings: RedeemerSettings, listener: socket.socket) -> None:
    """Sweep until SIGTERM."""
    database = Database(settings)
    doorbell = NsqDoorbell(settings.nsqd_url) if settings.nsqd_url else PolledRows()
    redeemer = Redeemer(rows=DatabaseRows(database, database_now), doorbell=doorbell)
    store = ObjectStore(settings)
    collector = Collector(garbage=DatabaseGarbage(database, database_now), objects=store)
    thumbnails = Thumbnails(rows=DatabasePictures(database), objects=store)
    # Without NSQ it is ready nevertheless: it still moves what has failed or was abandoned.
    lifecycle = ops.Lifecycle({"database": database.check}, drain_seconds=settings.drain_seconds)
    lifecycle.install_signal_handlers()
    away = logs.Outage("database")
    try:
        await asyncio.gather(
            repeat(lifecycle, "sweep", redeemer.sweep, settings.sweep_seconds, away),
            repeat(lifecycle, "count", redeemer.count, COUNT_SECONDS, away),
            repeat(lifecycle, "collect", collector.collect, settings.sweep_seconds, away),
            repeat(lifecycle, "empty_log", database.empty_log, LOG_SECONDS, away),
            repeat(lifecycle, "thumbnails", thumbnails.collect, THUMBNAILS_SECONDS, away),
            ops.serve_probes(listener, lifecycle),
        )
    finally:
        await doorbell.close()
        await database.close()


def main() -> None:
    """Run the process."""
    settings = load(RedeemerSettings)
    logs.configure("redeemer", settings.log_level)
    listener = ops.listen(settings.host, settings.probe_port)
    uvloop.run(run(settings, listener))
