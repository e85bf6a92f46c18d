"""Wires the redeemer together and runs it."""

import asyncio
import socket
from typing import Final

import uvloop

from services.common import logs
from services.common.availability import AvailabilityLog
from services.common.clock import database_now, now_ms
from services.common.database import Database
from services.common.http_server import serve_probes
from services.common.lifecycle import Lifecycle
from services.common.nsqd import doorbell_for
from services.common.objects import ObjectStore
from services.common.repeating import repeat
from services.common.settings import load
from services.common.sockets import listen
from services.redeemer.adapters.garbage import DatabaseDueGarbage
from services.redeemer.adapters.repairs import DatabaseRepairs
from services.redeemer.adapters.retention import DatabaseOldAudit, DatabaseOldPictures
from services.redeemer.service.collecting import Collector
from services.redeemer.service.repairing import Redeemer
from services.redeemer.service.retention import AuditRetention, PictureRetention
from services.redeemer.settings import RedeemerSettings

RETENTION_SECONDS: Final = 600.0
"""Pause between two looks for what is old, which is told in days."""

LOG_SECONDS: Final = 60.0
"""How long what was deleted may be in SQLite's log."""


async def run(settings: RedeemerSettings, listener: socket.socket) -> None:
    """Sweep until SIGTERM."""
    database = Database(settings)
    doorbell = doorbell_for(settings)
    redeemer = Redeemer(
        rows=DatabaseRepairs(
            database,
            database_now,
            rules=settings.rules,
            ring_again_ms=round(1000 * settings.ring_again_seconds),
        ),
        doorbell=doorbell,
        enough_rings=settings.max_queued_rings,
    )
    notes = DatabaseDueGarbage(database, database_now)
    objects = ObjectStore(settings)
    collector = Collector(garbage=notes, objects=objects)
    thumbnails = collector.collect_thumbnails
    # Without NSQ it is ready nevertheless: it still moves what has failed or was abandoned.
    lifecycle = Lifecycle({"database": database.check}, drain_seconds=settings.drain_seconds)
    lifecycle.install_signal_handlers()
    away = AvailabilityLog("database")

    def stops() -> bool:
        return lifecycle.draining

    old_audit = DatabaseOldAudit(database, database_now, now_ms, kept_ms=settings.audit_ms)
    too_old = {"audit": AuditRetention(rows=old_audit, stops=stops).remove_old}
    if settings.keep_ms is not None:
        old = DatabaseOldPictures(database, database_now, now_ms, kept_ms=settings.keep_ms)
        pictures = PictureRetention(rows=old, objects=objects, stops=stops)
        too_old["retention"] = pictures.erase_old
    try:
        await asyncio.gather(
            repeat(lifecycle, "sweep", redeemer.sweep, settings.sweep_seconds, away),
            repeat(lifecycle, "count", redeemer.count, settings.count_seconds, away),
            repeat(lifecycle, "collect", collector.collect, settings.sweep_seconds, away),
            repeat(lifecycle, "empty_log", database.empty_log, LOG_SECONDS, away),
            *(
                repeat(lifecycle, operation, erase, RETENTION_SECONDS, away)
                for operation, erase in too_old.items()
            ),
            repeat(lifecycle, "thumbnails", thumbnails, settings.thumbnails_seconds, away),
            serve_probes(listener, lifecycle),
        )
    finally:
        await doorbell.close()
        await database.close()


def main() -> None:
    """Run the process."""
    settings = load(RedeemerSettings)
    logs.configure("redeemer", settings.log_level)
    listener = listen(settings.host, settings.probe_port)
    uvloop.run(run(settings, listener))
