"""Wires the service of people together and runs it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from services.common import logs, metrics, ops
from services.common.clock import database_now
from services.common.database import Database, DatabaseUnavailableError
from services.common.facerecog.client import RecogniserClient
from services.common.settings import load
from services.people.adapters.index import ExactIndex
from services.people.adapters.recogniser import GrpcRecogniser
from services.people.adapters.rows import DatabaseRows
from services.people.service import StoredFaces, Worker
from services.people.settings import PeopleSettings

log = structlog.get_logger(__name__)

_COUNT_SECONDS: Final = 5.0


async def run(settings: PeopleSettings, listener: socket.socket) -> None:
    """Follow and decide until SIGTERM."""
    database = Database(settings)
    client = RecogniserClient(
        settings.face_recog_target, timeout=settings.face_recog_timeout_seconds
    )
    rows = DatabaseRows(database, database_now)
    faces = StoredFaces(rows, ExactIndex())
    # Without face_recog it is ready nevertheless: changes wait in the database.
    lifecycle = ops.Lifecycle(
        {"database": database.check, "stored faces": faces.check},
        drain_seconds=settings.drain_seconds,
    )
    lifecycle.install_signal_handlers()
    worker = Worker(rows, faces, GrpcRecogniser(client), stops=lambda: lifecycle.draining)
    away = logs.Outage("database")

    async def work() -> None:
        while not lifecycle.draining and await worker.step():
            pass

    try:
        await asyncio.gather(
            _repeat(lifecycle, "follow", faces.follow, settings.poll_seconds, away),
            _repeat(lifecycle, "decide", work, settings.poll_seconds, away),
            _repeat(lifecycle, "count", worker.count, _COUNT_SECONDS, away),
            ops.serve_probes(listener, lifecycle),
        )
    finally:
        await client.close()
        await database.close()


async def _repeat(
    lifecycle: ops.Lifecycle,
    operation: str,
    action: Callable[[], Awaitable[object]],
    seconds: float,
    away: logs.Outage,
) -> None:
    """Run the action with a pause between, whatever it raises, until the process drains."""
    while not lifecycle.draining:
        try:
            with metrics.observe(operation):
                await action()
            away.passed()
        except DatabaseUnavailableError as error:
            away.failed(error)
        except Exception:
            log.exception("unexpected error", operation=operation)
        with suppress(TimeoutError):
            await asyncio.wait_for(lifecycle.wait_draining(), seconds)


def main() -> None:
    """Run the process."""
    settings = load(PeopleSettings)
    logs.configure("people", settings.log_level)
    listener = ops.listen(settings.host, settings.probe_port)
    # Not uvloop: grpc.aio drives its own event loop and is only supported on asyncio's.
    asyncio.run(run(settings, listener))
