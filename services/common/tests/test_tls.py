"""Between services over TLS, with real servers of gRPC, MariaDB and S3."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pymysql
import pytest
import sqlalchemy as sa
import uvloop

from services.common.database import Database
from services.common.errors import (
    DatabaseUnavailableError,
    ObjectStoreUnavailableError,
    RecogniserUnavailableError,
)
from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.facerecog.client import RecogniserClient
from services.common.facerecog.server import GrpcServer
from services.common.jobs import NotYetError
from services.common.objects import ObjectStore
from services.common.settings import DatabaseSettings, ObjectStoreSettings, TlsSettings
from services.credentials.certificates import KeyPair, issue, new_authority
from services.migrations.__main__ import migrate
from services.testing.fixtures import s3_settings
from services.testing.servers import MariaDb, VersityGw
from services.testing.waiting import eventually

NOW: Final = datetime.now(UTC)
DAY: Final = timedelta(days=1)
OURS: Final = new_authority("ours", days=10, now=NOW)
FOREIGN: Final = new_authority("ours", days=10, now=NOW)
"""By the same name."""


def secret(
    folder: Path,
    *,
    name: str = "localhost",
    issuer: KeyPair = OURS,
    trusted: KeyPair = OURS,
    now: datetime = NOW,
) -> Path:
    """Write what Kubernetes mounts: files behind a link that a renewal replaces."""
    number = next(i for i in itertools.count() if not (folder / f"..{i}").exists())
    behind = folder / f"..{number}"
    behind.mkdir(parents=True)
    pair = issue(issuer, [name], days=1, now=now)
    for file, content in (
        ("ca.crt", trusted.certificate),
        ("tls.crt", pair.certificate),
        ("tls.key", pair.key),
    ):
        (behind / file).write_bytes(content)
        (behind / file).chmod(0o600)
        if not (folder / file).is_symlink():
            (folder / file).symlink_to(f"..data/{file}")
    (folder / "..new").symlink_to(behind.name)
    (folder / "..new").rename(folder / "..data")
    return folder


class Recogniser(face_pb2_grpc.IdentifyServicer):
    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.shown = b""
        """The certificate of whom it has answered last."""

    async def Identify(self, request: Any, context: Any) -> face_pb2.IdentifyResponse:  # noqa: N802
        if request.image_data == b"long":
            await self.go_on.wait()
        self.shown = context.auth_context().get("x509_pem_cert", [b""])[0]
        return face_pb2.IdentifyResponse(status=face_pb2.STATUS_OK)


@asynccontextmanager
async def grpc_server(
    tls: Path | None, *, connection_age: float = 60
) -> AsyncIterator[tuple[str, Recogniser]]:
    recogniser = Recogniser()
    server = GrpcServer(["Identify"], connection_age=connection_age, grace=0)
    face_pb2_grpc.add_IdentifyServicer_to_server(recogniser, server.grpc)
    port = await server.start("localhost", 0, tls)
    await server.set_serving(serving=True)
    yield f"dns:///localhost:{port}", recogniser
    await server.stop()


async def ask(target: str, tls: Path | None) -> str:
    """Return OK, or why there was no answer."""
    client = RecogniserClient(target, timeout=10, tls=tls)
    try:
        return face_pb2.Status.Name((await client.identify(b"picture")).status)
    except RecogniserUnavailableError as error:
        return str(error)
    finally:
        await client.close()


async def test_grpc_is_for_those_who_show_a_certificate_of_the_same_authority(
    tmp_path: Path,
) -> None:
    folders = itertools.count()

    def made(**how: Any) -> Path:
        return secret(tmp_path / str(next(folders)), **how)

    expired = NOW - 2 * DAY
    cases: list[tuple[Path | None, Path | None, str]] = [
        (made(), made(name="a client's own"), "STATUS_OK"),
        # Servers that clients take for nobody's they know.
        (made(name="face-recog"), made(), "Hostname Verification Check failed"),
        (made(issuer=FOREIGN), made(), "CERTIFICATE_VERIFY_FAILED"),
        (made(now=expired), made(), "CERTIFICATE_VERIFY_FAILED"),
        (None, made(), "WRONG_VERSION_NUMBER"),
        # Clients that servers do not take; what they hear of it is that the connection ended.
        (made(), made(issuer=FOREIGN), "UNAVAILABLE"),
        (made(), made(now=expired), "UNAVAILABLE"),
        (made(), None, "UNAVAILABLE"),
    ]
    for number, (server, client, answer) in enumerate(cases):
        async with grpc_server(server) as (target, _):
            assert answer in await ask(target, client), number


async def test_grpc_loses_nothing_while_certificates_are_renewed(tmp_path: Path) -> None:
    ours, theirs = secret(tmp_path / "client"), secret(tmp_path / "server")
    async with grpc_server(theirs, connection_age=0.05) as (target, recogniser):
        client = RecogniserClient(target, timeout=60, tls=ours)
        long = asyncio.create_task(client.identify(b"long"))
        for _ in range(8):
            secret(ours)
            secret(theirs)
            answers = await asyncio.gather(*(client.identify(b"picture") for _ in range(50)))
            assert {answer.status for answer in answers} == {face_pb2.STATUS_OK}
            assert recogniser.shown == (ours / "tls.crt").read_bytes()
        # New connections are made with what is there then: nobody else could speak with it.
        secret(theirs, issuer=FOREIGN, trusted=FOREIGN)
        assert "CERTIFICATE_VERIFY_FAILED" in await ask(target, ours)
        secret(ours, issuer=FOREIGN, trusted=FOREIGN)
        assert (await client.identify(b"picture")).status == face_pb2.STATUS_OK
        recogniser.go_on.set()
        assert (await long).status == face_pb2.STATUS_OK
        await client.close()


@pytest.fixture(scope="module")
def encrypting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MariaDb, Path]]:
    """A MariaDB server that takes nobody in plain text, and its folder of certificates."""
    folder = tmp_path_factory.mktemp("encrypting")
    tls = secret(folder / "tls")
    server = MariaDb(
        folder,
        None,
        f"--ssl-cert={tls / 'tls.crt'}",
        f"--ssl-key={tls / 'tls.key'}",
        "--require-secure-transport=ON",
    ).start()
    yield server, tls
    server.stop()


def flush(server: MariaDb) -> None:
    """Do what the pod does after a renewal."""
    socket = Path(server.log.parent) / "data" / "socket"
    with pymysql.connect(unix_socket=str(socket), user="root") as connection:
        connection.cursor().execute("FLUSH SSL")


def url(server: MariaDb, host: str = "localhost") -> str:
    return f"mysql+asyncmy://root@{host}:{server.port}/mysql"


async def query(settings: DatabaseSettings) -> str:
    """Return the cipher, or why there is no connection."""
    database = Database(settings)
    try:
        async with database.reading() as connection:
            found = await connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'")
            return str(found.scalars(1).one())
    except DatabaseUnavailableError as error:
        return str(error)
    finally:
        await database.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_mariadb_must_show_a_certificate_for_its_name(
    encrypting: tuple[MariaDb, Path],
    tmp_path: Path,
    run: Callable[[Any], str],
) -> None:
    server, tls = encrypting
    (tmp_path / "foreign.crt").write_bytes(FOREIGN.certificate)
    ours, foreign = tls / "ca.crt", tmp_path / "foreign.crt"
    cases = [
        ("localhost", ours, "TLS_"),
        ("127.0.0.1", ours, "not valid for '127.0.0.1'"),
        ("localhost", foreign, "certificate verify failed"),
        ("localhost", None, "Access denied"),  # as MariaDB 10.11 says to plain text
    ]
    for host, authority, answer in cases:
        settings = DatabaseSettings(database_url=url(server, host), database_ca_file=authority)
        assert answer in run(query(settings)), (host, authority)


def test_migrations_check_the_name_too(encrypting: tuple[MariaDb, Path]) -> None:
    server, tls = encrypting
    wrong = DatabaseSettings(database_url=url(server, "127.0.0.1"), database_ca_file=tls / "ca.crt")
    with pytest.raises(NotYetError, match="not valid for"):
        migrate(wrong)


async def test_mariadb_loses_nothing_while_certificates_are_renewed(
    encrypting: tuple[MariaDb, Path],
) -> None:
    server, tls = encrypting
    settings = DatabaseSettings(database_url=url(server), database_ca_file=tls / "ca.crt")
    database = Database(settings)

    async def ask() -> None:
        async with database.reading() as connection:
            assert await connection.scalar(sa.text("SELECT 1")) == 1

    async with database.reading() as kept:  # over a connection of the first certificate
        for _ in range(5):
            secret(tls)
            await asyncio.gather(*(ask() for _ in range(20)), asyncio.to_thread(flush, server))
            assert "TLS_" in await query(settings)
        secret(tls, issuer=FOREIGN)
        flush(server)
        assert "certificate verify failed" in await query(settings)
        assert await kept.scalar(sa.text("SELECT 1")) == 1
    await database.close()
    secret(tls)
    flush(server)


async def test_the_object_store_must_show_a_certificate_for_its_name(tmp_path: Path) -> None:
    tls = secret(tmp_path / "tls")
    (tmp_path / "foreign.crt").write_bytes(FOREIGN.certificate)
    server = VersityGw(tmp_path, "--cert", str(tls / "tls.crt"), "--key", str(tls / "tls.key"))
    server.start()
    given = s3_settings(server, tmp_path).model_dump()

    def store(host: str = "https://localhost", authority: Path | None = tls / "ca.crt") -> Any:
        change = {"s3_endpoint": f"{host}:{server.port}", "s3_ca_file": authority}
        return ObjectStore(ObjectStoreSettings(**{**given, **change}))

    first = store()
    await first.put("known_people/one.jpg", b"one")
    for wrong, answer in (
        (store("https://127.0.0.1"), "certificate is not taken, NotValidForName"),
        (store(authority=tmp_path / "foreign.crt"), "certificate is not taken, BadSignature"),
        (store(authority=None), "certificate is not taken, UnknownIssuer"),
        (store("http://localhost", None), "error sending request"),
    ):
        with pytest.raises(ObjectStoreUnavailableError, match=answer):
            await wrong.get("known_people/one.jpg")
    for number in range(5):
        secret(tls)
        server.send(signal.SIGHUP)
        await asyncio.gather(*(first.put(f"x/{number}-{key}", b"x") for key in range(20)))
        assert await store().get("known_people/one.jpg") == b"one"
    secret(tls, issuer=FOREIGN)
    server.send(signal.SIGHUP)
    await eventually(lambda: refuses(store()))
    await first.put("known_people/two.jpg", b"two")
    server.stop()


async def refuses(store: ObjectStore) -> bool:
    try:
        await store.check()
    except ObjectStoreUnavailableError as error:
        return "certificate is not taken" in str(error)
    return False


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: (folder / "ca.crt").unlink(), "has no ca.crt: it needs ca.crt, tls.crt,"),
        (lambda folder: (folder / "..data/ca.crt").write_text("x"), "holds no certificate"),
        (lambda folder: (folder / "..data/tls.key").write_bytes(FOREIGN.key), "are not a certif"),
    ],
)
def test_a_folder_that_will_not_do_is_told_at_the_start(
    tmp_path: Path, change: Callable[[Path], None], problem: str
) -> None:
    folder = secret(tmp_path / "tls")
    assert TlsSettings(tls_folder=folder).tls_folder == folder
    change(folder)
    with pytest.raises(ValueError, match=problem):
        TlsSettings(tls_folder=folder)
