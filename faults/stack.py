"""The pipeline as a cluster has it, on one machine: real servers and two image processors."""

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pymysql
import pytest

from faults.disks import Disk, why_none
from faults.network import Network
from faults.nodes import Node
from faults.pictures import Pictures
from faults.plan import Targets
from services.common import folders
from services.common.database import Database
from services.common.object_keys import KNOWN_PEOPLE, PICTURES
from services.common.settings import DatabaseSettings
from services.local.processes import free_port
from services.migrations.__main__ import migrate
from services.testing.clocks import Clock
from services.testing.processes import Service
from services.testing.servers import MariaDb, Nsqd, Nsqlookupd, ServerProcess, VersityGw

_ROOT: Final = Path(__file__).resolve().parents[1]
_CHEAP_CLOCK: Final = {"FAKETIME_NO_CACHE": "0", "FAKETIME_CACHE_DURATION": "1"}
"""Looking once a second where the clock stands; at every question it takes much of the machine."""

_BUCKET: Final = "facestack"
_MACHINE: Final = "machine"  # with SQLite rows and pictures are on one disk
_DISKS: Final = {"mariadb": 512, "nsqd": 16, "versitygw": 128, _MACHINE: 128}
"""Sizes in MiB; MariaDB's own files take 150, and 100 more after 5,000 pictures."""

PROCESSORS: Final = ("image_processor_1", "image_processor_2")
SERVICES: Final = ("face_recog", "receiver", *PROCESSORS, "redeemer")


@dataclass(frozen=True)
class Switches:
    """What is broken on purpose, so that the account must be wrong."""

    redeemer: bool = True
    unique_key: bool = True
    processor: tuple[str, ...] = ("services.image_processor",)
    """The module that is run as the image processor, and its arguments."""


class Stack:
    """All processes, disks and connections, below one folder.

    On ``sqlite`` it is the pipeline of one machine: no server, rows polled, a folder of objects.
    ``without`` names what this machine does not let us do, and why.
    """

    def __init__(self, folder: Path, *, sqlite: bool, switches: Switches) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.nodes: dict[str, Node] = {}
        self.disks: dict[str, Disk] = {}
        self.links: list[str] = []
        self.without: dict[str, str] = {}
        self.network: Network | None = None
        self.sqlite = sqlite
        self._switches = switches
        self._ports: dict[str, int] = {}
        self._database_url = ""
        self.api_url = ""

    async def start(self, pictures: Pictures) -> None:
        """Start everything and return when all of it is ready."""
        self.logs.mkdir(parents=True, exist_ok=True)
        if reason := why_none():
            self.without["disk"] = reason
        if self.sqlite:
            self.without["clock"] = "SQLite crawls under libfaketime"
        await self._start_network()
        if self.sqlite:
            environment = await self._without_servers()
        else:
            environment = await self._start_servers()
        await asyncio.to_thread(self._prepare_objects, pictures)
        await asyncio.to_thread(migrate, DatabaseSettings(database_url=self._database_url))
        await self._prepare_database()
        await self._start_services(environment)

    async def stop(self) -> None:
        """End every process and unmount every disk, whatever state they are in."""
        await asyncio.gather(*(node.close() for node in self.nodes.values()))
        if self.network:
            await self.network.close()
        for disk in self.disks.values():
            disk.remove()

    def observe(self) -> Database:
        """Connect to the database past every proxy."""
        return Database(
            DatabaseSettings(database_url=self._database_url, database_timeout_seconds=3)
        )

    def put(self, path: str, content: bytes) -> None:
        """Lay a picture into the object store by hand, and see that it is on the disk."""
        self._put(PICTURES + path, content)

    def _put(self, key: str, content: bytes) -> None:
        file = self._objects / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        folders.sync(self._objects, key)

    def targets(self) -> Targets:
        """Return what can be struck here."""
        return Targets(
            processes=[name for name in self.nodes if name != "toxiproxy"],
            links=self.links,
            disks=list(self.disks),
            # Nobody promised that the object store outlives a power cut.
            synced=[name for name in self.disks if name != "versitygw"],
            clocks=[name for name, node in self.nodes.items() if node.clock],
        )

    def on_disk(self, name: str) -> list[Node]:
        """Return the processes that have files open on a disk."""
        if name == _MACHINE:
            return [node for node in self.nodes.values() if node.name in SERVICES]
        return [self.nodes[name]]

    def complaints(self) -> list[str]:
        """Return what no process should have done."""
        return [line for node in self.nodes.values() for line in node.complaints]

    @property
    def _objects(self) -> Path:
        if self.sqlite:
            return self.folder / _MACHINE / "store"
        return self.folder / "versitygw" / "buckets" / _BUCKET

    def _disk(self, name: str) -> Path:
        """Return the folder of a server's data: a disk of its own where that can be had."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        if "disk" not in self.without:
            self.disks[name] = Disk(self.folder / f"{name}.image", folder, mebibytes=_DISKS[name])
        return folder

    async def _start_network(self) -> None:
        if not (binary := _found("toxiproxy-server")):
            self.without["network"] = "toxiproxy-server is missing: run 'make servers'"
            return
        port = free_port()
        command = [binary, "-host", "127.0.0.1", "-port", str(port)]
        proxy = ServerProcess(command, port=port, log=self.logs / "toxiproxy.log")
        self.nodes["toxiproxy"] = Node("toxiproxy", proxy, port)
        await self.nodes["toxiproxy"].start()
        self.network = Network(f"http://127.0.0.1:{port}")

    async def _through(self, client: str, server: str, port: int) -> int:
        """Return the port under which the client reaches the server's port."""
        if self.network is None:
            return port
        name = f"{client} to {server}"
        self.links.append(name)
        return await self.network.link(name, port)

    async def _start_server(self, name: str, server: ServerProcess) -> None:
        server.log = self.logs / f"{name}.log"
        self.nodes[name] = Node(name, server, server.port, may_die=True)
        await self.nodes[name].start()

    async def _start_servers(self) -> dict[str, dict[str, str]]:
        mariadb = await asyncio.to_thread(MariaDb, self._disk("mariadb"))
        lookupd = Nsqlookupd(self.folder)
        registered = await self._through("nsqd", "nsqlookupd", lookupd.port)
        # Where nsqd says that it is, is a proxy, so that its readers come through it.
        nsqd = Nsqd(self._disk("nsqd"), None, f"--lookupd-tcp-address=127.0.0.1:{registered}")
        told = await self._through("image processors", "nsqd", nsqd.port)
        nsqd.command.append(f"--broadcast-tcp-port={told}")
        versitygw = VersityGw(self._disk("versitygw"))
        servers: dict[str, ServerProcess] = {
            "mariadb": mariadb,
            "nsqlookupd": lookupd,
            "nsqd": nsqd,
            "versitygw": versitygw,
        }
        await asyncio.gather(*(self._start_server(*item) for item in servers.items()))
        self._database_url = mariadb.url(_BUCKET)
        with pymysql.connect(host="127.0.0.1", port=mariadb.port, user="root") as connection:
            connection.cursor().execute(f"CREATE DATABASE {_BUCKET} CHARACTER SET utf8mb4")
        return {
            name: await self._told(name, mariadb, lookupd, nsqd, versitygw) for name in SERVICES
        }

    async def _told(
        self, name: str, mariadb: MariaDb, lookupd: Nsqlookupd, nsqd: Nsqd, versitygw: VersityGw
    ) -> dict[str, str]:
        """Return a service's environment: only what it talks to, through proxies of its own."""
        told: dict[str, str] = {}
        if name != "face_recog":
            port = await self._through(name, "mariadb", mariadb.port)
            told["DATABASE_URL"] = mariadb.url(_BUCKET).replace(str(mariadb.port), str(port))
        port = await self._through(name, "versitygw", versitygw.port)
        told["S3_ENDPOINT"] = f"http://127.0.0.1:{port}"
        told["OBJECT_STORE_URL"] = f"s3://{_BUCKET}"
        for setting, value in (
            ("S3_ACCESS_KEY_ID_FILE", versitygw.access_key_id),
            ("S3_SECRET_ACCESS_KEY_FILE", versitygw.secret_access_key),
        ):
            file = self.folder / setting.lower()
            file.write_text(value)
            told[setting] = str(file)
        if name in PROCESSORS:
            port = await self._through(name, "nsqlookupd", lookupd.http_port)
            told["NSQLOOKUPD_URLS"] = f'["http://127.0.0.1:{port}"]'
        elif name in {"receiver", "redeemer"}:
            port = await self._through(name, "nsqd", nsqd.http_port)
            told["NSQD_URL"] = f"http://127.0.0.1:{port}"
        return told

    async def _without_servers(self) -> dict[str, dict[str, str]]:
        file = self._disk(_MACHINE) / "facestack.db"
        self._database_url = f"sqlite+aiosqlite:///{file}"
        told = {
            "DATABASE_URL": self._database_url,
            "OBJECT_STORE_URL": self._objects.as_uri(),
        }
        return {name: dict(told) for name in SERVICES}

    def _prepare_objects(self, pictures: Pictures) -> None:
        for person, content in pictures.known.items():
            self._put(f"{KNOWN_PEOPLE}{person}/known.jpg", content)

    async def _prepare_database(self) -> None:
        """Have the database write down every change of a status."""
        database = self.observe()
        try:
            async with database.transaction() as connection:
                for statement in _journal(sqlite=self.sqlite):
                    await connection.exec_driver_sql(statement)
                if not self._switches.unique_key:
                    await connection.exec_driver_sql("ALTER TABLE images DROP INDEX uq_images_path")
        finally:
            await database.close()

    async def _start_services(self, environment: dict[str, dict[str, str]]) -> None:
        grpc, receiver = free_port(), free_port()
        for name in ("receiver", *PROCESSORS):
            port = await self._through(name, "face_recog", grpc)
            environment[name]["FACE_RECOG_TARGET"] = f"127.0.0.1:{port}"
        self.api_url = f"http://127.0.0.1:{await self._through('clients', 'receiver', receiver)}"
        started: dict[str, Service] = {}
        for name in SERVICES:
            if name == "redeemer" and not self._switches.redeemer:
                continue
            module, *arguments = (
                self._switches.processor if name in PROCESSORS else (f"services.{name}",)
            )
            clock = self._clock(name)
            service = Service(
                module,
                self.logs / f"{name}.log",
                port=grpc if name == "face_recog" else receiver,
                drain_seconds=0.2,
                grace_seconds=5,
                stop_seconds=5,
                pool_size=2,
                **environment[name],
                **((clock.environment | _CHEAP_CLOCK) if clock else {}),
            )
            service.command += arguments
            started[name] = service
            self.nodes[name] = Node(name, service, service.port, clock)
        await asyncio.gather(*(self.nodes[name].start() for name in started))
        for service in started.values():
            await asyncio.to_thread(service.wait_ready)

    def _clock(self, name: str) -> Clock | None:
        if "clock" in self.without:
            return None
        folder = self.folder / f"{name}.clock"
        folder.mkdir()
        try:
            return Clock(folder)
        except (pytest.skip.Exception, pytest.fail.Exception) as missing:
            self.without["clock"] = str(missing)
            return None


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{_ROOT / '.tools' / 'bin'}:{os.environ['PATH']}")


def _journal(*, sqlite: bool) -> list[str]:
    """Return the statements after which table ``changes`` follows every status."""
    number = "INTEGER PRIMARY KEY" if sqlite else "BIGINT AUTO_INCREMENT PRIMARY KEY"
    write = "INSERT INTO changes (image_id, before_, after_) VALUES"
    same = "IS" if sqlite else "<=>"
    table = (
        f"CREATE TABLE changes (number {number}, image_id BIGINT NOT NULL,"
        " before_ VARCHAR(10), after_ VARCHAR(10))"
    )
    when = f"NOT (OLD.status {same} NEW.status AND OLD.processed_at {same} NEW.processed_at)"
    update = f"{write} (OLD.id, OLD.status, NEW.status);"
    bodies = {
        "INSERT": f"BEGIN {write} (NEW.id, NULL, NEW.status); END",
        "DELETE": f"BEGIN {write} (OLD.id, OLD.status, NULL); END",
        "UPDATE": f"WHEN {when} BEGIN {update} END"
        if sqlite
        else f"BEGIN IF {when} THEN {update} END IF; END",
    }
    return [
        table,
        *(
            f"CREATE TRIGGER changes_{event.lower()} AFTER {event} ON images FOR EACH ROW {body}"
            for event, body in bodies.items()
        ),
    ]
