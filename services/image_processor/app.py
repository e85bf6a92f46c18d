"""Wires the image processor together and runs it."""

import asyncio
import random
import socket
import time

import uvloop

from services.common import logs
from services.common.availability import AvailabilityLog
from services.common.clock import database_now
from services.common.database import Database
from services.common.facerecog.client import RecogniserClient
from services.common.http_server import serve_probes
from services.common.lifecycle import Lifecycle
from services.common.objects import ObjectStore
from services.common.settings import load
from services.common.sockets import listen
from services.image_processor.adapters.encoding_rows import DatabaseEncodingRows
from services.image_processor.adapters.face_finder import GrpcFaceFinder
from services.image_processor.adapters.nsq_queue import NsqQueue
from services.image_processor.adapters.row_poller import RowPoller
from services.image_processor.adapters.rows import DatabaseClaims
from services.image_processor.metrics import BREAKER_STATE
from services.image_processor.service.breaker import Breaker
from services.image_processor.service.encoding import Encoder
from services.image_processor.service.pictures import PictureRecognition, StoredPictures
from services.image_processor.service.processing import Processor, pause_while_open
from services.image_processor.settings import ImageProcessorSettings


class LoopTime:
    """Time as the process has it."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)


async def run(settings: ImageProcessorSettings, listener: socket.socket) -> None:
    """Work until SIGTERM, then finish what is in flight."""
    database = Database(settings)
    store = ObjectStore(settings)
    client = RecogniserClient(
        settings.face_recog_target,
        timeout=settings.face_recog_timeout_seconds,
        tls=settings.tls_folder,
    )
    faces = GrpcFaceFinder(client)
    rows = DatabaseClaims(database, database_now, rules=settings.rules, backoff=settings.backoff)
    database_outage, store_outage = AvailabilityLog("database"), AvailabilityLog("object store")
    queue = (
        NsqQueue(
            settings.nsqlookupd_urls,
            max_in_flight=settings.concurrency,
            message_timeout=settings.message_timeout_seconds,
            topic=settings.nsq_topic,
            channel=settings.nsq_channel,
        )
        if settings.nsqlookupd_urls
        else RowPoller(rows.pending, poll_seconds=settings.poll_seconds, database=database_outage)
    )
    loop_time = LoopTime()
    breaker = Breaker(
        client.ping,
        on_change=pause_while_open(queue, BREAKER_STATE.set),
        time=loop_time,
        random=random.random,
        limits=settings.breaker_limits,
    )
    processor = Processor(
        queue=queue,
        rows=rows,
        recognition=PictureRecognition(
            pictures=store, faces=faces, breaker=breaker, store=store_outage
        ),
        breaker=breaker,
        database=database_outage,
        store=store_outage,
        concurrency=settings.concurrency,
        renew_seconds=settings.renew_seconds,
    )
    encoder = Encoder(
        rows=DatabaseEncodingRows(database, database_now),
        stored_pictures=StoredPictures(pictures=store, recogniser=faces, breaker=breaker),
        engine=client.engine,
        breaker=breaker,
        database=database_outage,
        time=loop_time,
        concurrency=settings.concurrency,
    )
    # Without face_recog it is ready nevertheless: it pauses and goes on by itself.
    lifecycle = Lifecycle(
        {"database": database.check, "object store": store.check},
        drain_seconds=settings.drain_seconds,
    )
    lifecycle.install_signal_handlers()
    probes = asyncio.create_task(serve_probes(listener, lifecycle))
    encoding = asyncio.create_task(encoder.run(lifecycle.wait_draining()))
    try:
        await processor.run(lifecycle.wait_draining(), grace_seconds=settings.grace_seconds)
        await encoding
        await probes
    finally:
        encoding.cancel()
        probes.cancel()
        await breaker.close()
        await queue.close()
        await client.close()
        await database.close()


def main() -> None:
    """Run the process."""
    settings = load(ImageProcessorSettings)
    logs.configure("image_processor", settings.log_level)
    listener = listen(settings.host, settings.probe_port)
    uvloop.run(run(settings, listener))
