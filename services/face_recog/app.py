"""Wires the face recogniser together."""

import asyncio
import socket
from typing import Final

from services.common import logs
from services.common.errors import RecogniserUnavailableError
from services.common.http_server import serve_probes
from services.common.jobs import end_on_sigterm
from services.common.lifecycle import Lifecycle
from services.common.objects import ObjectStore
from services.common.settings import load
from services.common.sockets import listen
from services.face_recog.adapters.pool import Pool
from services.face_recog.adapters.server import FaceRecogServer
from services.face_recog.service.deciding import Decider
from services.face_recog.service.gallery import Gallery
from services.face_recog.service.identifying import Identifier
from services.face_recog.settings import FaceRecogSettings

_ANSWER_SECONDS: Final = 1.0
"""For what is given back to reach its callers, before their calls are cut."""


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = load(FaceRecogSettings)
    logs.configure("face_recog", settings.log_level)
    end_on_sigterm()  # until the workers are there and it can drain
    probes = listen(settings.host, settings.probe_port)
    # gRPC opens its port itself, late and with a page of its own errors when it is taken.
    listen(settings.host, settings.port).close()
    try:
        # Not uvloop: grpc.aio drives its own event loop and is only supported on asyncio's.
        asyncio.run(_run(settings, probes))
    except (OSError, RecogniserUnavailableError) as error:
        raise SystemExit(f"face_recog: {error}") from None


async def _run(settings: FaceRecogSettings, probes: socket.socket) -> None:
    store = ObjectStore(settings)
    pool = Pool(
        engine=settings.choice,
        size=settings.pool_size,
        queue_size=settings.queue_size,
        work_seconds=settings.work_seconds,
        long_seconds=settings.long_seconds,
        memory_bytes=settings.worker_memory_bytes,
    )
    try:
        await pool.start()
        gallery = Gallery(
            store,
            pool,
            engine=pool.engine,
            parallel=settings.pool_size,
            tails=settings.tails,
            false_names=settings.false_names,
        )
        server = FaceRecogServer(
            Identifier(store, pool, gallery),
            Decider(gallery, pool.engine),
            connection_age=settings.connection_age_seconds,
            grace=settings.stop_seconds + _ANSWER_SECONDS,
        )
        lifecycle = Lifecycle(
            {"known people": gallery.check, "workers": pool.check},
            drain_seconds=settings.drain_seconds,
        )
        lifecycle.install_signal_handlers()
        await server.start(settings.host, settings.port, settings.tls_folder)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(serve_probes(probes, lifecycle))
            watch = tasks.create_task(gallery.watch(settings.watch_seconds))
            serve = tasks.create_task(announce(server, gallery, pool))
            await lifecycle.wait_draining()
            serve.cancel()
            await server.drain()
            await lifecycle.wait_stopping()
            watch.cancel()
            stopping = asyncio.create_task(server.stop())
            await asyncio.wait({stopping}, timeout=settings.stop_seconds)
            # A call that is cut where another replica answers looks like the picture's fault, and
            # costs it an attempt.
            pool.give_back()
            await stopping
    finally:
        await pool.close()


async def announce(server: FaceRecogServer, gallery: Gallery, pool: Pool) -> None:
    """Tell the server's callers when it can serve, from the first snapshot on."""
    await gallery.wait_ready()
    while True:
        await pool.wait_available()
        await server.set_serving(serving=True)
        await pool.wait_unavailable()
        await server.set_serving(serving=False)
