"""Typed settings from the environment or a ``.env`` file.

Each process builds one frozen object in its ``main`` with :func:`load`. A secret is never a
setting itself: the setting names the file that holds it.

A field is what somebody who operates this may have to turn, and its description says when; the last
part of its name is its unit. ``make settings`` writes ``docs/settings.md`` from the classes.
"""

import ssl
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Self, TypeVar

from pydantic import (
    AfterValidator,
    DirectoryPath,
    Field,
    FilePath,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.addresses import Network, read_networks
from services.common.claims import LEASE_MS, MAX_ATTEMPTS, Rules
from services.common.hosts import AllowedHosts

TOPIC: Final = "images"
CHANNEL: Final = "image_processor"
NSQ_NAME: Final = r"^[.a-zA-Z0-9_-]{1,64}$"
"""What NSQ takes (https://nsq.io/clients/tcp_protocol_spec.html), but for what it does not keep."""

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


def _check_secret(file: Path) -> Path:
    try:
        read_secret(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {error}") from None
    return file


SecretFile = Annotated[FilePath, AfterValidator(_check_secret)]


def _check_ca(file: Path) -> Path:
    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise ValueError("holds no certificate in PEM, or a damaged one") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    return file


def _check_tls(folder: Path) -> Path:
    if missing := [name for name in _TLS_FILES if not (folder / name).is_file()]:
        raise ValueError(f"has no {', '.join(missing)}: it needs {', '.join(_TLS_FILES)}")
    authority, certificate, key = (folder / name for name in _TLS_FILES)
    _check_ca(authority)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError):
        raise ValueError("tls.crt and tls.key are not a certificate and its key in PEM") from None
    return folder


_TLS_FILES: Final = ("ca.crt", "tls.crt", "tls.key")

CaFile = Annotated[FilePath, AfterValidator(_check_ca)]
TlsFolder = Annotated[DirectoryPath, AfterValidator(_check_tls)]


def _check_hosts(listed: str) -> str:
    AllowedHosts(listed)
    return listed


def _check_networks(listed: str) -> str:
    read_networks(listed)
    return listed


class FromEnvironment(BaseSettings):
    """Field ``log_level`` is read from ``LOG_LEVEL`` or from that line of ``.env``, and so on."""

    # Every group of settings needs it: the first base of a class decides.
    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)


class Settings(FromEnvironment):
    """What every process has."""

    host: str = Field(
        "0.0.0.0", description="Address to listen on; 127.0.0.1 for this machine alone."
    )
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR."
    )
    drain_seconds: float = Field(
        0.5,
        ge=0,
        description="How long to go on serving after SIGTERM, so that load balancers notice: more"
        " where one looks more seldom.",
    )


class HttpSettings(FromEnvironment):
    """What an HTTP server waits for, how much it takes at once, and which names it has."""

    max_connections: int = Field(
        1000,
        ge=8,
        description="Connections at once; for one more, that which waited longest is closed. Each"
        " may need two open files. A quarter of them may follow events.",
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        description="How long a connection stays open without a request: longer than the idle"
        " time-out of the load balancer in front, or that sends requests into a closing one.",
    )
    head_seconds: Seconds = Field(
        10.0,
        description="How long a client may take for a request's line and headers: more on bad"
        " lines, less under attack.",
    )
    body_idle_seconds: Seconds = Field(
        10.0,
        description="How long a client may send nothing of a request's body: more on lines with"
        " long gaps.",
    )
    body_seconds: Seconds = Field(
        300.0,
        description="How long a client may take for a whole body: more for large uploads on slow"
        " lines.",
    )
    max_upload_bytes: int = Field(
        100 * 1024 * 1024,
        ge=1024,
        description="Largest body of an upload of pictures, of which one may have 20 MiB; frontend"
        " and receiver need the same, and so does a proxy in front.",
    )
    max_spool_bytes: int = Field(
        768 * 1024 * 1024,
        ge=1024,
        description="Disk space in /tmp for bodies that arrive and are too large for memory; for"
        " more at once, the volume must have it, too.",
    )
    allowed_hosts: Annotated[str, AfterValidator(_check_hosts)] = Field(
        "",
        description="Names, separated by commas, by which clients may call the service beside"
        " localhost and IP addresses: those that your DNS has for it. `*.` and a name means all"
        " below that. A request for any other host is refused with 421: it may come from a page"
        " whose name somebody has point here.",
    )

    trusted_proxies: Annotated[str, AfterValidator(_check_networks)] = Field(
        "",
        description="Networks, such as 10.0.0.0/16, separated by commas, of proxies whose"
        " X-Forwarded-For says where a request came from: those of the load balancer in front."
        " Without it all that comes through one counts as from one address.",
    )

    @property
    def trusted(self) -> tuple[Network, ...]:
        """The networks of TRUSTED_PROXIES."""
        return read_networks(self.trusted_proxies)

    @model_validator(mode="after")
    def _check_bodies(self) -> Self:
        if self.max_upload_bytes > self.max_spool_bytes:
            raise ValueError(
                f"MAX_UPLOAD_BYTES {self.max_upload_bytes} is more than MAX_SPOOL_BYTES"
                f" {self.max_spool_bytes}, so the largest uploads would never fit: raise"
                " MAX_SPOOL_BYTES or lower MAX_UPLOAD_BYTES"
            )
        return self


class DatabaseSettings(FromEnvironment):
    """Where the rows are."""

    database_url: str = Field(
        pattern=r"^(sqlite\+aiosqlite:///.+|mysql\+asyncmy://[^@/:]+@[^@/:]+(:\d+)?/\w+)$",
        description="sqlite+aiosqlite:///FILE or mysql+asyncmy://USER@HOST:PORT/NAME.",
    )
    database_password_file: SecretFile | None = Field(
        None, description="File with the password of the user in DATABASE_URL."
    )
    database_ca_file: CaFile | None = Field(
        None,
        description="File with certificates of CAs: connections to MariaDB are encrypted, and it"
        " must show a certificate of one of them for the host in DATABASE_URL. For RDS the bundle"
        " of its region. Read anew for each connection.",
    )
    database_pool_size: int = Field(
        8,
        ge=2,
        description="Connections of one process at most: more where requests wait for one, fewer"
        " where those of all replicas exceed MariaDB's max_connections.",
    )
    database_timeout_seconds: Seconds = Field(
        10.0,
        description="How long a statement may take before MariaDB counts as away: more on slow"
        " disks with millions of rows.",
    )


class ObjectStoreSettings(FromEnvironment):
    """Where pictures and known people are."""

    object_store_url: str = Field(
        pattern=r"^(file:///.*|s3://[a-z0-9][a-z0-9.-]+/?)$",
        description="file:///FOLDER or s3://BUCKET.",
    )
    s3_endpoint: str | None = Field(
        None, pattern="^https?://", description="S3 server; AWS when not set."
    )
    s3_ca_file: CaFile | None = Field(
        None,
        description="File with certificates of CAs that the server at S3_ENDPOINT may have its own"
        " from, beside the public ones; for https. Read at the start.",
    )
    s3_region: str = Field("us-east-1", description="The bucket's region.")
    s3_access_key_id_file: SecretFile | None = Field(
        None, description="File with the key's id; without it the pod's own identity is used."
    )
    s3_secret_access_key_file: SecretFile | None = Field(
        None, description="File with the secret of that key."
    )
    object_store_timeout_seconds: int = Field(
        10,
        ge=1,
        le=300,
        description="How long one request to S3 may take, a picture of 20 MiB included: more on a"
        " slow line to the store.",
    )

    @model_validator(mode="after")
    def _check_encrypted(self) -> Self:
        if self.s3_ca_file and not (self.s3_endpoint or "").startswith("https://"):
            raise ValueError(
                f"S3_CA_FILE {self.s3_ca_file} is for https, and S3_ENDPOINT is"
                f" {self.s3_endpoint or 'not set'}: set an address that starts with https://, or"
                " leave S3_CA_FILE out"
            )
        return self


class NsqSettings(FromEnvironment):
    """What all who ring and who listen call the same."""

    nsq_topic: str = Field(
        TOPIC,
        pattern=NSQ_NAME,
        description="Topic of NSQ for images that wait, the same for receiver, redeemer and"
        " image_processor: another one for a second installation on the same NSQ. What waits in"
        " the old topic is notified of again in the new one.",
    )


class NsqdSettings(NsqSettings):
    """Where to ring."""

    nsqd_url: str | None = Field(
        None,
        pattern="^https?://",
        description="nsqd's HTTP interface; when not set, processors poll the rows.",
    )
    nsqd_timeout_seconds: Seconds = Field(
        3.0,
        description="How long nsqd may take for an answer before it counts as away: more where its"
        " disk is slow.",
    )


class ClaimSettings(FromEnvironment):
    """What image_processor, which claims images, and redeemer, which repairs, go by alike."""

    max_attempts: int = Field(
        MAX_ATTEMPTS,
        ge=1,
        le=100,
        description="How often an image is tried that ends in a fault, until it is dead: fewer"
        " where faults do not pass anyway, more where they last. The same for image_processor and"
        " redeemer.",
    )
    lease_seconds: float = Field(
        LEASE_MS / 1000,
        ge=3,
        le=600,
        description="How long a claim is an image_processor's without being renewed, which it does"
        " three times as often: so long nobody takes over from one that was killed. More where"
        " the database is away for longer at times, as in a failover; less to repair sooner. The"
        " same for image_processor and redeemer, and changed by more than 5 s while neither runs.",
    )

    @property
    def rules(self) -> Rules:
        """The same in the units of the rows."""
        return Rules(max_attempts=self.max_attempts, lease_ms=round(1000 * self.lease_seconds))


class TlsSettings(FromEnvironment):
    """How face_recog, people and their callers know one another."""

    tls_folder: TlsFolder | None = Field(
        None,
        description="Folder with ca.crt, tls.crt and tls.key, as a Secret of type kubernetes.io/tls"
        " has them: gRPC is encrypted, and either side must show a certificate of that CA, a server"
        " one for the name in its caller's target. Read anew when they change. Without it gRPC is"
        " in plain text, as on one machine.",
    )


class RecogniserTargetSettings(TlsSettings):
    """Where face_recog answers."""

    face_recog_target: str = Field(description="gRPC target, for example dns:///face-recog:50051.")


class RecogniserClientSettings(RecogniserTargetSettings):
    """Where face_recog answers, and by when."""

    face_recog_timeout_seconds: Seconds = Field(
        20.0,
        description="Deadline of one request, while a person waits for its answer: more where"
        " face_recog is slow or its queue long.",
    )


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on can only be reached from this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_secret(file: Path) -> str:
    """Read a secret from its file, without space around it, such as the newline of editors."""
    return file.read_text().strip()


def read_passwords(file: Path) -> Iterator[str]:
    """Yield the password in the file, and if that will not do, what else may: each is read late.

    While a password is rotated, the one before it lies in ``previous-NAME`` beside ``NAME``. The
    file itself may have changed meanwhile, so it is read a second time.
    """
    seen = set()
    for place in (file, file.with_name(f"previous-{file.name}"), file):
        try:
            password = read_secret(place)
        except FileNotFoundError:
            if place == file:
                raise
            continue
        if password not in seen:
            seen.add(password)
            yield password


S = TypeVar("S", bound=Settings)


def _said(settings: type[Settings], fault: ErrorDetails) -> str:
    """Return what is wrong, in words: of a form, what it is for rather than its expression."""
    if fault["type"] != "string_pattern_mismatch":
        return fault["msg"].removeprefix("Value error, ")
    meaning = (settings.model_fields[str(fault["loc"][0])].description or "").rstrip(".")
    return f"does not have the form that it needs ({meaning})"


def load(settings: type[S]) -> S:
    """Build the settings, or end the process with one line that names each wrong one."""
    try:
        return settings()
    except ValidationError as error:
        wrong = "; ".join(
            # What is wrong with several together names them itself.
            _said(settings, fault)
            if not fault["loc"]
            else f"{'.'.join(str(part) for part in fault['loc']).upper()}: {_said(settings, fault)}"
            + ("" if fault["type"] == "missing" else f", got {fault['input']!r}")
            for fault in error.errors()
            # A default that follows from a setting that is wrong is not wrong itself.
            if fault["type"] != "default_factory_not_called"
        )
        reason = f"wrong settings: {wrong}. Set them in the environment or in .env."
    except (UnicodeDecodeError, OSError) as error:
        reason = f".env cannot be read: {error}"
    service = settings.__module__.split(".")[-2]
    # Logging is configured from these very settings.
    print(f"{service}: {reason}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)
