"""Wires the receiver together and runs it."""

import argparse
import asyncio
import gc
import socket
import sys
from typing import Final

import uvloop
from fastapi import FastAPI

from services.common import logs
from services.common.availability import AvailabilityLog
from services.common.facerecog.client import RecogniserClient
from services.common.facerecog.stored_faces import StoredFacesClient
from services.common.health import HealthChecks, at_start
from services.common.http_server import serve_http, serve_probes
from services.common.lifecycle import Lifecycle
from services.common.nsqd import doorbell_for
from services.common.objects import ObjectStore
from services.common.probes import probe_routes
from services.common.repeating import repeat
from services.common.settings import load
from services.common.sockets import listen
from services.common.spools import Spools
from services.receiver.adapters import keys_command
from services.receiver.adapters.decoding import PillowDecoder
from services.receiver.adapters.hashing import Argon2Hasher
from services.receiver.adapters.http.api import behind_door, new_app
from services.receiver.adapters.http.audit import add_audit
from services.receiver.adapters.http.docs_page import docs_routes
from services.receiver.adapters.http.encoding import add_encoding
from services.receiver.adapters.http.erasing import add_erasing
from services.receiver.adapters.http.events import add_events, write
from services.receiver.adapters.http.faces import add_faces
from services.receiver.adapters.http.files import FileResponses
from services.receiver.adapters.http.groups import add_groups
from services.receiver.adapters.http.images import add_images
from services.receiver.adapters.http.keys import add_keys
from services.receiver.adapters.http.merges import add_merges
from services.receiver.adapters.http.people import add_people
from services.receiver.adapters.http.rates import Rates
from services.receiver.adapters.http.regions import add_regions
from services.receiver.adapters.http.rooms import Rooms
from services.receiver.adapters.http.search import add_search
from services.receiver.adapters.http.sessions import add_sessions
from services.receiver.adapters.http.status import add_status
from services.receiver.adapters.http.submissions import add_submissions
from services.receiver.adapters.http.thumbnails import add_thumbnails
from services.receiver.adapters.http.users import add_users
from services.receiver.adapters.http.webhooks import add_webhooks
from services.receiver.adapters.key_files import key_file
from services.receiver.adapters.recogniser import GrpcFaceChecker
from services.receiver.adapters.regions import XmpRegions
from services.receiver.adapters.rows.api_keys import DatabaseApiKeys
from services.receiver.adapters.rows.attempts import DatabaseAttempts
from services.receiver.adapters.rows.audit import AuditedDatabase, DatabaseAudit
from services.receiver.adapters.rows.backups import DatabaseBackups
from services.receiver.adapters.rows.deliveries import DatabaseDeliveries
from services.receiver.adapters.rows.encoding import DatabaseEncoding
from services.receiver.adapters.rows.erasures import DatabaseErasures
from services.receiver.adapters.rows.events import DatabaseEvents
from services.receiver.adapters.rows.faces import DatabaseFaces
from services.receiver.adapters.rows.garbage import DatabaseGarbage
from services.receiver.adapters.rows.groups import DatabaseGroups
from services.receiver.adapters.rows.images import DatabaseImages
from services.receiver.adapters.rows.known_pictures import DatabaseKnownPictures
from services.receiver.adapters.rows.merges import DatabaseMerges
from services.receiver.adapters.rows.people import DatabasePeople
from services.receiver.adapters.rows.personal_data import DatabasePersonalData
from services.receiver.adapters.rows.search import DatabaseSearchableFaces
from services.receiver.adapters.rows.sessions import DatabaseSessions
from services.receiver.adapters.rows.users import DatabaseUsers
from services.receiver.adapters.stored_faces import GrpcNearestFaces
from services.receiver.service.access import Access
from services.receiver.service.auditing import WRITE_SECONDS, Auditing
from services.receiver.service.erasing import Erasing
from services.receiver.service.faces import Drawing
from services.receiver.service.following import Following
from services.receiver.service.groups import Grouped
from services.receiver.service.images import Images
from services.receiver.service.keys import KeyCheck, Keyring
from services.receiver.service.logging_in import LogIn
from services.receiver.service.merging import Merging
from services.receiver.service.people import Enrolment
from services.receiver.service.regions import Regions
from services.receiver.service.ringing import Ringer
from services.receiver.service.searching import Search
from services.receiver.service.sessions import Sessions
from services.receiver.service.submitting import Submissions
from services.receiver.service.thumbnails import Thumbnails
from services.receiver.service.users import Users
from services.receiver.settings import KeysSettings, ReceiverSettings

_PARALLEL_COMMITS: Final = 2
"""One is on its way to the database while the other's answers are sent; more make small batches."""


_ERASE_SECONDS: Final = 1.0
"""Between two looks at who is to be forgotten."""


_TIDY_SECONDS: Final = 60.0
"""Between two looks at which sessions have ended."""


class Receiver:
    """The application and what it holds open; to be made inside the event loop."""

    def __init__(self, settings: ReceiverSettings, hasher: Argon2Hasher | None = None) -> None:
        self._database = AuditedDatabase(settings)
        self._hasher = hasher or Argon2Hasher()
        self._client = RecogniserClient(
            settings.face_recog_target,
            timeout=settings.face_recog_timeout_seconds,
            tls=settings.tls_folder,
        )
        self._stored_faces = StoredFacesClient(
            settings.people_target,
            timeout=settings.people_timeout_seconds,
            tls=settings.tls_folder,
        )
        self._doorbell = doorbell_for(settings)
        self._ringer = Ringer(self._doorbell)
        store = ObjectStore(settings)
        rows = DatabaseImages(self._database)
        submissions = Submissions(
            rows, store, self._ringer, parallel=1 if self._database.is_sqlite else _PARALLEL_COMMITS
        )
        garbage = DatabaseGarbage(self._database, storing_ms=settings.storing_ms)
        images = Images(rows, garbage, store, submissions, self._ringer)
        decoder = PillowDecoder()
        recogniser = GrpcFaceChecker(self._client)
        enrolment = Enrolment(
            people=DatabasePeople(self._database),
            known_pictures=DatabaseKnownPictures(self._database),
            garbage=garbage,
            pictures=store,
            images=images,
            recogniser=recogniser,
            cropper=decoder,
        )
        # Paths are taken and results are shown with the database alone, and only a receiver that
        # gets requests can say what else is away. Calls by gRPC wait for connections by themselves.
        self.lifecycle = Lifecycle(
            {"database": self._database.check, "object store": at_start(store.check)},
            drain_seconds=settings.drain_seconds,
        )
        self._health = HealthChecks(
            {
                "database": self._database.check,
                "object store": store.check,
                "face_recog": recogniser.check,
                "queue": self._ringer.check,
            }
        )
        self._following = Following(
            DatabaseEvents(self._database),
            write,
            max_listeners=settings.max_connections // 4,
        )
        merging = Merging(
            enrolment=enrolment,
            merges=DatabaseMerges(self._database),
            garbage=garbage,
            pictures=store,
        )
        self.erasing = Erasing(
            rows=DatabaseErasures(self._database),
            kept=DatabasePersonalData(self._database),
            pictures=store,
            images=images,
            who=enrolment.who,
            stops=lambda: self.lifecycle.draining,
        )
        spools = Spools(settings.max_spool_bytes)
        files = FileResponses()
        encoding = DatabaseEncoding(self._database)
        drawing = Drawing(
            faces=DatabaseFaces(self._database),
            images=images,
            enrolment=enrolment,
            recogniser=recogniser,
        )
        search = Search(
            recogniser,
            GrpcNearestFaces(self._stored_faces),
            DatabaseSearchableFaces(self._database),
        )
        thumbnails = Thumbnails(pictures=store, garbage=garbage, shrinker=decoder)
        grouped = Grouped(DatabaseGroups(self._database), enrolment)
        rates = Rates(settings)
        app = new_app()
        add_submissions(
            app,
            submissions,
            images,
            spools,
            rates,
            max_json_bytes=settings.max_json_bytes,
            max_upload_bytes=settings.max_upload_bytes,
        )
        add_images(app, images, rows, enrolment, files)
        add_regions(app, Regions(images, XmpRegions()), spools)
        add_faces(app, enrolment, drawing, spools)
        add_groups(app, grouped, spools)
        add_people(app, enrolment, files, spools)
        add_search(app, search, spools)
        add_merges(app, merging, spools)
        add_erasing(app, self.erasing, spools)
        add_thumbnails(app, thumbnails, images, enrolment)
        add_status(
            app,
            rows,
            enrolment,
            encoding=encoding,
            backups=DatabaseBackups(
                self._database, max_age_seconds=86_400 * settings.backup_max_age_days
            ),
            health=self._health,
        )
        add_encoding(app, encoding)
        add_events(app, self._following, self.lifecycle)
        add_webhooks(app, DatabaseDeliveries(self._database))
        self._access = self._add_access(app, settings, spools)
        is_open = settings.access == "open"
        self.docs = docs_routes(app, is_open=is_open)
        if is_open:
            app.router.routes.extend(self.docs)
        app.router.routes.extend(probe_routes(self.lifecycle, for_everybody=True))
        self.rooms = Rooms(settings.max_in_flight)
        self.app = behind_door(
            app,
            self.rooms,
            self._access,
            self.auditing,
            rates=rates,
            settings=settings,
            lifecycle=self.lifecycle,
        )

    def _add_access(self, app: FastAPI, settings: ReceiverSettings, spools: Spools) -> Access:
        self._keys = DatabaseApiKeys(self._database)
        add_keys(app, Keyring(self._keys), spools)
        self._log_in, sessions = self._add_log_in(app, settings, spools)
        audit = DatabaseAudit(self._database)
        add_audit(app, audit)
        self.auditing = Auditing(audit)
        return Access(
            is_open=settings.access == "open",
            keys=KeyCheck(self._keys),
            administrator_key=key_file(settings.administrator_key_file),
            frontend_key=key_file(settings.frontend_key_file),
            sessions=sessions,
        )

    def _add_log_in(
        self, app: FastAPI, settings: ReceiverSettings, spools: Spools
    ) -> tuple[LogIn, Sessions]:
        sessions = DatabaseSessions(
            self._database,
            idle_ms=1000 * settings.session_idle_seconds,
            longest_ms=1000 * settings.session_seconds,
        )
        users = DatabaseUsers(self._database)
        has_key = settings.administrator_key_file is not None
        log_in = LogIn(
            users=users,
            sessions=sessions,
            attempts=DatabaseAttempts(self._database),
            hasher=self._hasher,
            roles=settings.roles_of_groups,
            administrator_key=key_file(settings.administrator_key_file),
        )
        add_users(app, Users(users, self._hasher, has_key=has_key), spools)
        add_sessions(app, log_in, sessions, spools)
        return log_in, Sessions(sessions)

    async def erase(self) -> None:
        """Go on with everybody who is being forgotten and due."""
        while await self.erasing.step():
            pass

    async def tidy(self) -> None:
        """Remove what is left of log-ins that are over."""
        await self._log_in.tidy()

    async def close(self) -> None:
        """Send the rings that wait, and close connections."""
        await self._following.close()
        self._hasher.close()
        await self._access.close()
        await self._keys.close()
        await self._health.close()
        await self._ringer.flush()
        await self._doorbell.close()
        await self._client.close()
        await self._stored_faces.close()
        await self.auditing.close()
        await self._database.close()


async def run(settings: ReceiverSettings, listener: socket.socket, probes: socket.socket) -> None:
    """Serve until SIGTERM, then drain."""
    receiver = Receiver(settings)
    # What was loaded lives as long as the process, and requests leave no cycles worth looking for
    # every few hundred objects: without this, a third of the time goes into collecting nothing.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    receiver.lifecycle.install_signal_handlers()
    try:
        await asyncio.gather(
            serve_http(
                receiver.app, listener, receiver.lifecycle, settings, receiver.rooms.refuse_early
            ),
            serve_probes(probes, receiver.lifecycle, receiver.docs),
            repeat(
                receiver.lifecycle,
                "erase",
                receiver.erase,
                _ERASE_SECONDS,
                AvailabilityLog("database"),
            ),
            repeat(
                receiver.lifecycle,
                "audit",
                receiver.auditing.write,
                WRITE_SECONDS,
                AvailabilityLog("database"),
            ),
            repeat(
                receiver.lifecycle,
                "tidy",
                receiver.tidy,
                _TIDY_SECONDS,
                AvailabilityLog("database"),
            ),
        )
    finally:
        await receiver.close()


async def _run_command(command: argparse.Namespace) -> None:
    database = AuditedDatabase(load(KeysSettings))
    try:
        await keys_command.run(command, Keyring(DatabaseApiKeys(database)))
    finally:
        await database.close()


def main() -> None:
    """Run the process: the server, or with arguments a command."""
    if sys.argv[1:]:
        asyncio.run(_run_command(keys_command.read_arguments(sys.argv[1:])))
        return
    settings = load(ReceiverSettings)
    logs.configure("receiver", settings.log_level)
    listener = listen(settings.host, settings.port)
    probes = listen(settings.host, settings.probe_port)
    uvloop.run(run(settings, listener, probes))
