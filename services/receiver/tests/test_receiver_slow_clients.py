"""A receiver as it runs, between clients that are slow, endless, broken or many.

What is asserted are answers and memory, never how long something took; the deadlines are short,
so that nobody waits for them.
"""

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Launch
from services.testing.clients import Clients, answer, many_files, pod
from services.testing.processes import Service

__all__ = ["many_files"]

HEAD = (
    b"POST /images HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
)
PART = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
JSON_HEAD = b"POST /images/post HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
Serve = Callable[..., tuple[Service, Clients]]


@pytest.fixture
def serve(launch: Launch, plain_settings: ReceiverSettings) -> Iterator[Serve]:
    """Start a receiver with short deadlines, or with those that are given."""
    clients: list[Clients] = []

    def begin(**values: Any) -> tuple[Service, Clients]:
        deadlines = {"head_seconds": 1, "body_idle_seconds": 1, "body_seconds": 3, **values}
        process = launch(plain_settings.model_copy(update=deadlines))
        clients.append(Clients(process.port))
        return process, clients[-1]

    yield begin
    for one in clients:
        one.close()


def assert_serves(process: Service, name: str) -> None:
    """Uploads, submissions, reads, pictures and probes all work."""
    with httpx.Client(base_url=process.url, timeout=60) as client:
        upload = client.post("/images", files={"files": (name, name.encode())})
        assert upload.status_code == 202, upload.text
        assert client.post("/image/post", json={"path": name}).status_code == 202
        one = client.get(upload.json()["images"][0]["location"])
        assert one.status_code == 200
        assert client.get(f"/images/{one.json()['id']}/picture").content == name.encode()
        for address in ("/status", "/people", "/livez", "/readyz"):
            assert client.get(address).status_code == 200
        assert client.get(f"{process.probe_url}/metrics").status_code == 200


@pytest.mark.usefixtures("many_files")
def test_half_sent_requests_stop_nobody(serve: Serve) -> None:
    process, clients = serve(head_seconds=600, body_idle_seconds=600, body_seconds=600)
    half = b"Content-Length: 1000000\r\n\r\n" + PART + b"x" * 1000
    for count in (16, 256 - 16, 500 - 256):
        clients.send(HEAD + half, count)
        assert_serves(process, f"beside {count} more")
    clients.send(JSON_HEAD + b"Content-Length: 100000\r\n\r\n{", 256)
    clients.send(HEAD.replace(b"/images", b"/people/Ada/pictures") + half, 200)
    assert_serves(process, "beside half-sent requests of all kinds")


STALLING = (
    HEAD + b"Content-Length: 1000000\r\n\r\n" + PART + b"x",
    HEAD + CHUNKED + b"3\r\n--B\r\n",
    HEAD.replace(b"/images", b"/people/Ada/pictures") + CHUNKED,
    JSON_HEAD + b'Content-Length: 100\r\n\r\n{"paths":',
    JSON_HEAD.replace(b"/images/post", b"/image/post") + CHUNKED,
    JSON_HEAD.replace(b"/images/post", b"/people/Ada/pictures") + CHUNKED,
    b"GET /images HTTP/1.1\r\nHost: localhost\r\nX: ",
    b"GET /ima",
    b"\r\n",
)


def test_what_stalls_is_told_and_cut(serve: Serve) -> None:
    process, clients = serve()
    (silent,) = clients.send(b"")
    for connection in [clients.send(sent)[0] for sent in STALLING]:
        text = answer(connection)
        assert text.startswith(b"HTTP/1.1 408 "), text
        assert b"application/problem+json" in text
        assert b"connection: close" in text.lower()
    assert answer(silent) == b""
    assert httpx.get(f"{process.url}/images").json()["images"] == []


def test_a_connection_without_a_request_is_closed_after_what_is_set(serve: Serve) -> None:
    _, clients = serve(keep_alive_seconds=1, head_seconds=600)
    (connection,) = clients.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    text = answer(connection)  # until the server closes it
    assert text.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" not in text.lower()


def test_what_drips_is_cut_at_the_whole_deadline(serve: Serve) -> None:
    _, clients = serve(body_idle_seconds=60, head_seconds=1, body_seconds=1)
    for sent, drop in (
        (HEAD + CHUNKED + b"%x\r\n" % len(PART) + PART + b"\r\n", b"1\r\na\r\n"),
        (JSON_HEAD + CHUNKED, b"1\r\n \r\n"),
        (b"GET /", b"a"),
    ):
        (connection,) = clients.send(sent)
        connection.settimeout(0.05)
        text = b""
        while not text:
            with contextlib.suppress(TimeoutError):
                connection.sendall(drop)
                text = connection.recv(65536)
        assert text.startswith(b"HTTP/1.1 408"), sent


FLOODS = (
    (b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(101)) + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nA: " + b"b" * 65536 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nA: " + b"b" * 1_000_000, 431),
    (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200_000, 431),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET /" + b"a" * 1_000_000, 414),
    (JSON_HEAD + CHUNKED + b"0\r\nTrailer: " + b"x" * 1_000_000, 431),
    (JSON_HEAD + CHUNKED + b"1;" + b"x" * 1_000_000, 431),
    (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b", 415),
    (JSON_HEAD + b"Content-Encoding: br\r\n" + CHUNKED, 415),
    (JSON_HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (HEAD + b"Content-Length: 99999999999\r\n\r\n" + PART, 413),
    (JSON_HEAD + b"Content-Length: 99999999999\r\n\r\n", 413),
)


def test_floods_and_encodings_are_refused(serve: Serve) -> None:
    process, clients = serve(body_idle_seconds=60, body_seconds=60, head_seconds=60)
    for sent, status in FLOODS:
        (connection,) = clients.send(b"")
        # The server may have closed the connection before all of it is sent.
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
            text = connection.recv(65536)
            assert text.startswith(f"HTTP/1.1 {status} ".encode()), (sent[:80], text)
            assert b"application/problem+json" in text
    assert_serves(process, "afterwards")


def fields(count: int, size: int) -> bytes:
    part = b'--B\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + b"x" * size + b"\r\n"
    return part * count + b"--B--\r\n"


def test_fields_that_are_no_files_are_few_and_small(serve: Serve) -> None:
    process, _ = serve(body_seconds=60)
    form = {"Content-Type": "multipart/form-data; boundary=B"}
    with httpx.Client(base_url=process.url, timeout=60) as client:
        for count, size in ((100, 2**20), (1, 2049), (17, 1), (10_000, 0)):
            body = fields(count, size)
            refused = client.post("/images", content=body, headers=form)
            assert refused.status_code in (413, 422), refused.text
            assert re.search("Part exceeded|Too many fields|the limit is", refused.text)


def endless(port: int, head: bytes, piece: bytes, stop: threading.Event) -> None:
    """Send without end until the server closes the connection or the test is over."""
    while not stop.is_set():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as one:
            one.settimeout(2)
            one.sendall(head)
            while not stop.is_set():
                one.sendall(piece)


@pytest.mark.usefixtures("many_files")
def test_memory_and_disk_stay_within_what_the_pod_has(serve: Serve) -> None:
    memory, disk = pod("receiver")
    process, clients = serve(body_idle_seconds=60, body_seconds=60)
    measured = psutil.Process(process.pid)
    stop = threading.Event()
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    field = b'--B\r\nContent-Disposition: form-data; name="f"\r\n\r\n'
    kinds = [
        (HEAD + CHUNKED + b"%x\r\n" % len(PART) + PART + b"\r\n", chunk),
        (HEAD + CHUNKED + b"%x\r\n" % len(field) + field + b"\r\n", chunk),
        (JSON_HEAD + CHUNKED, chunk),
        (b"GET / HTTP/1.1\r\n", b"A: b\r\n" * 1000),
    ]
    floods = [
        threading.Thread(target=endless, args=(process.port, head, piece, stop))
        for head, piece in kinds
    ]
    # Each has as much in memory as one may have before it goes to disk.
    clients.send(HEAD + b"Content-Length: 9000000\r\n\r\n" + PART + b"x" * 120_000, 250)
    clients.send(JSON_HEAD + b"Content-Length: 8000000\r\n\r\n" + b" " * 200_000, 250)
    for flood in floods:
        flood.start()
    most = 0
    try:
        for number in range(4):
            with httpx.Client(base_url=process.url, timeout=60) as client:
                body = {"files": ("a", bytes([number]) * 1_000_000)}
                assert client.post("/images", files=body).status_code in (202, 429, 503)
                assert client.post("/image/post", json={"path": "a"}).status_code == 202
                assert client.get("/livez").status_code == 200
            most = max(most, measured.memory_info().rss)
    finally:
        stop.set()
        for flood in floods:
            flood.join()
    assert most < memory
    assert ReceiverSettings.model_fields["max_spool_bytes"].default < disk


def test_an_upload_that_finds_no_space_is_told_so(serve: Serve) -> None:
    process, clients = serve(
        max_upload_bytes=2_000_000, max_spool_bytes=2_000_000, body_idle_seconds=60, body_seconds=60
    )
    (other,) = clients.send(HEAD + b"Content-Length: 1900000\r\n\r\n" + PART + b"x" * 1_500_000)
    with httpx.Client(base_url=process.url, timeout=60) as client:
        refused = client.post("/images", files={"files": ("a", b"x" * 1_900_000)})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert "too many uploads arrive at once" in refused.text
        assert client.post("/images", files={"files": ("a", b"small")}).status_code == 202
        other.close()
        for _ in range(100):
            answer = client.post("/images", files={"files": ("a", b"x" * 1_900_000)})
            if answer.status_code == 202:
                break
            time.sleep(0.05)
        assert answer.status_code == 202, "the space of an interrupted upload is free again"
        assert len(client.get("/images").json()["images"]) == 2


@pytest.mark.parametrize("limit", [64, 1024])
def test_few_open_files_are_no_crash(
    launch: Launch, plain_settings: ReceiverSettings, limit: int
) -> None:
    process = launch(plain_settings)

    subprocess.run(["prlimit", f"--pid={process.pid}", f"--nofile={limit}:{limit}"], check=True)
    clients = Clients(process.port)
    if limit == 1024:
        clients.send(HEAD + b"Content-Length: 9000000\r\n\r\n" + PART + b"x" * 300_000, 200)
    assert_serves(process, "with few files")
    clients.close()


def test_above_the_most_connections_the_idlest_makes_room(serve: Serve) -> None:
    process, clients = serve(
        max_connections=16, head_seconds=60, body_idle_seconds=60, body_seconds=60
    )
    silent = clients.send(b"", 16)
    uploading = clients.send(HEAD + b"Content-Length: 1000000\r\n\r\n" + PART, 8)
    assert_serves(process, "beside silent ones")
    assert answer(silent[0]) == b""
    clients.send(HEAD + b"Content-Length: 1000000\r\n\r\n" + PART, 16)
    assert_serves(process, "beside uploads")
    assert answer(uploading[0]) == b""


def test_a_process_that_stops_does_not_wait_for_slow_clients(serve: Serve) -> None:
    process, clients = serve(
        head_seconds=600, body_idle_seconds=600, body_seconds=600, drain_seconds=0.1
    )
    clients.send(HEAD + b"Content-Length: 1000000\r\n\r\n" + PART, 20)
    clients.send(JSON_HEAD + CHUNKED, 20)
    clients.send(b"GET /im", 20)
    clients.send(b"", 20)
    assert_serves(process, "x")
    process.terminate()
    # Without a bound of its own it would wait for their deadline, 20 s; the pod has 60 s.
    assert process.wait(15) == 0
