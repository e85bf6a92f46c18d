"""Wires the webhooks together and runs them."""

import asyncio
import socket
from typing import Final

import uvloop

from services.common import logs
from services.common.availability import AvailabilityLog
from services.common.clock import database_now
from services.common.database import Database
from services.common.errors import RefusedError
from services.common.http_server import serve_probes
from services.common.lifecycle import Lifecycle
from services.common.repeating import repeat
from services.common.settings import load
from services.common.sockets import listen
from services.webhooks.adapters.endpoints import EndpointsFile
from services.webhooks.adapters.rows import DatabaseWebhookDeliveries
from services.webhooks.adapters.sender import HttpSender
from services.webhooks.service import Webhooks
from services.webhooks.settings import WebhooksSettings

_LOOK_SECONDS: Final = 0.5
_FILE_SECONDS: Final = 5.0
_REMOVE_SECONDS: Final = 600.0


async def run(
    settings: WebhooksSettings, listener: socket.socket, endpoints: EndpointsFile
) -> None:
    """Deliver until SIGTERM."""
    database = Database(settings)
    at_once = settings.endpoint_concurrency
    sender = HttpSender(seconds=settings.endpoint_timeout_seconds, at_once=at_once)
    webhooks = Webhooks(
        deliveries=DatabaseWebhookDeliveries(database, database_now, kept_ms=settings.kept_ms),
        sender=sender,
        endpoints=endpoints,
        at_once=at_once,
    )
    lifecycle = Lifecycle({"database": database.check}, drain_seconds=settings.drain_seconds)
    lifecycle.install_signal_handlers()
    away = AvailabilityLog("database")

    try:
        await asyncio.gather(
            repeat(lifecycle, "make", webhooks.make, _LOOK_SECONDS, away),
            repeat(lifecycle, "deliver", webhooks.deliver, _LOOK_SECONDS, away),
            repeat(lifecycle, "read endpoints", endpoints.look, _FILE_SECONDS, away),
            repeat(lifecycle, "remove", webhooks.remove_old, _REMOVE_SECONDS, away),
            serve_probes(listener, lifecycle),
        )
        await webhooks.finish()
    finally:
        await sender.close()
        await database.close()


def main() -> None:
    """Run the process."""
    settings = load(WebhooksSettings)
    logs.configure("webhooks", settings.log_level)
    try:
        endpoints = EndpointsFile(settings.webhooks_file)
    except RefusedError as error:
        raise SystemExit(f"webhooks: WEBHOOKS_FILE: {error}") from None
    listener = listen(settings.host, settings.probe_port)
    uvloop.run(run(settings, listener, endpoints))
