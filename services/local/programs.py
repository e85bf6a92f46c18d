"""Which programs a run consists of, where they listen and what they are told."""

import itertools
import secrets
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.common.settings import is_loopback, read_secret
from services.local.errors import LocalError
from services.local.processes import free_port
from services.local.settings import LocalSettings

# Settings that would send a service to another database, store or queue than the local one.
_FOREIGN: Final = (
    "DATABASE_PASSWORD_FILE",
    "DATABASE_USERS_FOLDER",
    "NSQD_URL",
    "NSQLOOKUPD_URLS",
    "S3_ENDPOINT",
    "S3_ACCESS_KEY_ID_FILE",
    "S3_SECRET_ACCESS_KEY_FILE",
    # Nor to other keys than the run's own.
    "ACCESS",
    "ADMINISTRATOR_KEY_FILE",
    "FRONTEND_KEY_FILE",
    "RECEIVER_KEY_FILE",
)

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class Program:
    """One process: its name, its environment, and where it says whether it is ready."""

    name: str
    environment: Mapping[str, str]
    probe_url: str


@dataclass(frozen=True)
class Plan:
    """All programs of a run, and the addresses that people and the demo use."""

    folder: Path
    environment: Mapping[str, str]
    programs: tuple[Program, ...]
    page_url: str
    api_url: str
    docs_url: str
    face_recog_metrics_url: str
    administrator_key: str = field(repr=False)
    """Empty where everybody may do everything."""

    @property
    def pictures(self) -> Path:
        """The folder in which a path that is submitted is looked up."""
        return self.folder / "store" / "pictures"

    def put_picture(self, path: str, content: bytes) -> None:
        """Write a picture to that folder."""
        file = self.pictures / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except OSError as error:
            raise LocalError(f"cannot write {file}: {error.strerror}") from None

    @property
    def logs(self) -> Path:
        """The folder of the services' logs."""
        return self.folder / "logs"


def make_plan(
    settings: LocalSettings,
    folder: Path,
    environment: Mapping[str, str],
    *,
    with_keys: bool = False,
) -> Plan:
    """Choose ports and write every service's environment, or raise :class:`LocalError`.

    Keys are asked for ``with_keys``, and wherever somebody else may reach the services.

    Everything the run writes is below the folder. What the environment says of one service's
    settings reaches it, unless it would send it to another database, store or queue.
    """
    folder = folder.resolve()
    receiver_port, frontend_port = taken = _check_ports(settings)
    others = (port for port in iter(free_port, None) if port not in taken)
    grpc_port, people_port, *probe_ports = itertools.islice(others, 9)
    api = f"http://{_reachable(settings.host)}:{receiver_port}"
    page = f"http://{_reachable(settings.host)}:{frontend_port}"
    common = {
        **{name: value for name, value in environment.items() if name.upper() not in _FOREIGN},
        "HOST": LOOPBACK,
        "LOG_LEVEL": settings.log_level,
        "DRAIN_SECONDS": str(settings.drain_seconds),
        "DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'facestack.db'}",
        "OBJECT_STORE_URL": (folder / "store").as_uri(),
        "FACE_RECOG_TARGET": f"{LOOPBACK}:{grpc_port}",
        "PEOPLE_TARGET": f"{LOOPBACK}:{people_port}",
        "RECEIVER_URL": api,
        # All of the stop has ten seconds; what is not finished by then is repeated later.
        "GRACE_SECONDS": "4",
        "STOP_SECONDS": "1",
    }

    def probed(name: str, probe_port: int, **more: str) -> Program:
        environment = {**common, "PROBE_PORT": str(probe_port), **more}
        return Program(name, environment, f"http://{LOOPBACK}:{probe_port}")

    def served(name: str, port: int, probe_port: int, **more: str) -> Program:
        ports = {"PORT": str(port), "PROBE_PORT": str(probe_port)}
        environment = {**common, "HOST": settings.host, **ports, **more}
        return Program(name, environment, f"http://{_reachable(settings.host)}:{probe_port}")

    access = {"ACCESS": "open"}
    page_access = {}
    administrator_key = ""
    if with_keys or not is_loopback(settings.host):
        key_file, frontend_key = _make_key(folder, "administrator"), _make_key(folder, "frontend")
        administrator_key = read_secret(key_file)
        access = {
            "ACCESS": "keys",
            "ADMINISTRATOR_KEY_FILE": str(key_file),
            "FRONTEND_KEY_FILE": str(frontend_key),
        }
        page_access = {"RECEIVER_KEY_FILE": str(frontend_key)}
    webhooks = []
    if settings.webhooks_file is not None:
        endpoints = str(settings.webhooks_file.resolve())
        webhooks = [probed("webhooks", probe_ports[4], WEBHOOKS_FILE=endpoints)]
    face_recog = probed("face_recog", probe_ports[0], PORT=str(grpc_port))
    receiver = served("receiver", receiver_port, probe_ports[5], **access)
    return Plan(
        folder=folder,
        environment=common,
        programs=(
            face_recog,
            receiver,
            probed("image_processor", probe_ports[1]),
            probed("redeemer", probe_ports[2]),
            probed("people", probe_ports[3], PORT=str(people_port)),
            *webhooks,
            served("frontend", frontend_port, probe_ports[6], **page_access),
        ),
        page_url=page,
        api_url=api,
        docs_url=f"{receiver.probe_url if administrator_key else api}/docs",
        face_recog_metrics_url=f"{face_recog.probe_url}/metrics",
        administrator_key=administrator_key,
    )


def _make_key(folder: Path, whose: str) -> Path:
    """Return the file with a key, which stays the same from one run to the next."""
    file = folder / "keys" / whose
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            new = file.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_text(secrets.token_urlsafe(32))
            new.replace(file)
    except OSError as error:
        raise LocalError(f"cannot write {file}: {error.strerror}") from None
    return file


def _reachable(host: str) -> str:
    """Return an address to call for one to listen on."""
    return {"0.0.0.0": LOOPBACK, "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def _check_ports(settings: LocalSettings) -> list[int]:
    wanted = {
        "RECEIVER_PORT": (settings.receiver_port, "receiver (the API)"),
        "FRONTEND_PORT": (settings.frontend_port, "frontend (the page)"),
    }
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    ports: list[int] = []
    with ExitStack() as held:
        for setting, (chosen, role) in wanted.items():
            port = chosen or free_port()
            listener = held.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((settings.host, port))
                listener.listen()  # two sockets may be bound to one port, but not both listen
            except OSError as error:
                raise LocalError(
                    f"the {role} cannot listen on {settings.host}:{port}: {error.strerror}:"
                    f" end what uses the port, or set {setting} to another one"
                ) from None
            ports.append(port)
    return ports
