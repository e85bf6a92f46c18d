"""Wires the service of people together and runs it."""

import asyncio
import socket
from functools import partial
from typing import Final

from services.common import logs
from services.common.availability import AvailabilityLog
from services.common.clock import database_now
from services.common.database import Database
from services.common.facerecog.client import VIEW_SECONDS, RecogniserClient
from services.common.http_server import serve_probes
from services.common.lifecycle import Lifecycle
from services.common.repeating import repeat
from services.common.settings import load
from services.common.sockets import listen
from services.people.adapters.group_rows import DatabaseGrouping
from services.people.adapters.recogniser import open_view
from services.people.adapters.rows import DatabaseStoredFaces
from services.people.adapters.server import SearchServer
from services.people.service.deciding import Worker
from services.people.service.grouping import Grouper
from services.people.service.stored_faces import StoredFaces
from services.people.settings import PeopleSettings

_COUNT_SECONDS: Final = 5.0


async def run(settings: PeopleSettings, listener: socket.socket) -> None:
    """Follow and decide until SIGTERM."""
    database = Database(settings)
    client = RecogniserClient(
        settings.face_recog_target, timeout=VIEW_SECONDS, tls=settings.tls_folder
    )
    rows = DatabaseStoredFaces(database, database_now)
    faces = StoredFaces(rows)
    server = SearchServer(faces)
    # Without face_recog it is ready nevertheless: changes wait in the database.
    lifecycle = Lifecycle(
        {"database": database.check, "stored faces": faces.check},
        drain_seconds=settings.drain_seconds,
    )
    lifecycle.install_signal_handlers()
    worker = Worker(rows, faces, partial(open_view, client), stops=lambda: lifecycle.draining)
    grouper = Grouper(
        DatabaseGrouping(database, database_now),
        rows,
        client.strangers,
        stops=lambda: lifecycle.draining,
    )
    away = AvailabilityLog("database")

    async def work() -> None:
        while not lifecycle.draining and await worker.step():
            pass

    async def follow() -> None:
        await faces.follow()
        await server.set_serving(serving=True)

    async def serve() -> None:
        await lifecycle.wait_draining()
        await server.drain()
        await lifecycle.wait_stopping()
        await server.stop()

    try:
        await server.start(settings.host, settings.port, settings.tls_folder)
        await asyncio.gather(
            serve(),
            repeat(lifecycle, "follow", follow, settings.poll_seconds, away),
            repeat(lifecycle, "decide", work, settings.poll_seconds, away),
            repeat(lifecycle, "group", grouper.step, settings.poll_seconds, away),
            repeat(lifecycle, "count", worker.count, _COUNT_SECONDS, away),
            serve_probes(listener, lifecycle),
        )
    finally:
        await grouper.close()
        await client.close()
        await database.close()


def main() -> None:
    """Run the process."""
    settings = load(PeopleSettings)
    logs.configure("people", settings.log_level)
    listener = listen(settings.host, settings.probe_port)
    # gRPC opens its port itself, with a page of its own errors when it is taken.
    listen(settings.host, settings.port).close()
    # Not uvloop: grpc.aio drives its own event loop and is only supported on asyncio's.
    asyncio.run(run(settings, listener))
