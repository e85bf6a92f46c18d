"""The frontend as it runs, between clients that are slow or many."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from services.frontend.settings import FrontendSettings
from services.testing.clients import Clients, answer, many_files, pod
from services.testing.processes import Service

__all__ = ["many_files"]

JSON = {"Accept": "application/json"}


def half(path: str, kind: str = "multipart/form-data; boundary=B") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        "Content-Length: 1000000\r\n\r\n"
        '--B\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nx'
    ).encode()


class Receiver(BaseHTTPRequestHandler):
    """Takes every upload and has nothing to show."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(202, b'{"images": [{"id": 7, "status": "pending", "duplicate": false}]}')

    def do_GET(self) -> None:
        self._answer(404, b"{}")

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def receiver() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


class Frontend(Service):
    """A frontend as a process of its own."""

    def __init__(self, receiver: int, log: Path, **settings: float) -> None:
        address = f"http://127.0.0.1:{receiver}"
        super().__init__(
            "services.frontend", log, receiver_url=address, drain_seconds=0.1, **settings
        )
        self.clients = Clients(self.port)
        self.start().wait_ready()

    def upload(self) -> httpx.Response:
        files = {"files": ("a.jpg", b"x" * 300_000)}
        return httpx.post(f"{self.url}/upload", files=files, headers=JSON, timeout=60)


@pytest.mark.usefixtures("many_files")
def test_half_sent_uploads_stop_nobody(receiver: int, tmp_path: Path) -> None:
    patient = {"head_seconds": 600, "body_idle_seconds": 600, "body_seconds": 600}
    frontend = Frontend(receiver, tmp_path / "log", **patient)
    memory, disk = pod("frontend")
    try:
        for path in ("/upload", "/people", "/images/1/faces/0/name"):
            frontend.clients.send(half(path), 200)
            assert frontend.upload().status_code == 202
            assert httpx.get(f"{frontend.url}/static/style.css").status_code == 200
            assert httpx.get(f"{frontend.url}/livez").status_code == 200
        assert psutil.Process(frontend.pid).memory_info().rss < memory
        assert FrontendSettings.model_fields["max_spool_bytes"].default < disk
        frontend.terminate()
        assert frontend.wait(15) == 0  # the half-sent ones do not hold it up
    finally:
        frontend.clients.close()
        frontend.kill()


def test_a_stalled_upload_is_told_why(receiver: int, tmp_path: Path) -> None:
    frontend = Frontend(receiver, tmp_path / "log", body_idle_seconds=0.5)
    try:
        uploads = frontend.clients.send(half("/upload"), 3)
        (enrolment,) = frontend.clients.send(half("/people"))
        form = "application/x-www-form-urlencoded"
        (name,) = frontend.clients.send(half("/images/1/faces/0/name", form))
        for connection in (*uploads, enrolment):
            text = answer(connection)
            assert text.startswith(b"HTTP/1.1 408")
            assert b"What was sent came too slowly" in text
        assert name.recv(65536).startswith(b"HTTP/1.1 413")
        assert frontend.upload().status_code == 202
    finally:
        frontend.clients.close()
        frontend.stop()
