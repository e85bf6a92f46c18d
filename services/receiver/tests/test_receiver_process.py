import asyncio
import contextlib
import json
import re
import subprocess
import sys

import httpx
import pytest

from services.receiver.settings import ReceiverSettings
from services.receiver.tests.conftest import Launch
from services.testing.processes import Service


class Balancer:
    """Sends each request to a process that was ready when it was last asked."""

    def __init__(self, processes: list[Service]) -> None:
        self._processes = processes
        self._ready = list(processes)
        self.looked = asyncio.Event()

    def choose(self, number: int) -> str:
        return self._ready[number % len(self._ready)].url

    async def watch(self) -> None:
        async with httpx.AsyncClient(timeout=2) as client:
            while True:
                self._ready = [one for one in self._processes if await self._is_ready(client, one)]
                self.looked.set()
                await asyncio.sleep(0.4)  # as often as a load balancer looks

    async def _is_ready(self, client: httpx.AsyncClient, process: Service) -> bool:
        try:
            return (await client.get(f"{process.url}/readyz")).is_success
        except httpx.TransportError:
            return False


class RawClient:
    """One connection that is kept until the server says that it closes it.

    httpx would notice a closed connection and quietly open another one.
    """

    def __init__(self, *, keep_alive: bool) -> None:
        self._keep_alive = keep_alive
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, url: str, path: str) -> bool:
        """Return whether the submission was acknowledged."""
        body = json.dumps({"path": path}).encode()
        try:
            if self._connection is None:
                host, port = url.removeprefix("http://").split(":")
                self._connection = await asyncio.open_connection(host, int(port))
            reader, writer = self._connection
            kind = "keep-alive" if self._keep_alive else "close"
            writer.write(
                f"POST /image/post HTTP/1.1\r\nHost: localhost\r\nConnection: {kind}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = re.search(rb"content-length: (\d+)", head)
            assert length
            await reader.readexactly(int(length[1]))
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            return False
        if not self._keep_alive or b"connection: close" in head:
            await self.close()
        return head.startswith(b"http/1.1 202")

    async def close(self) -> None:
        if self._connection:
            writer = self._connection[1]
            self._connection = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def load_during_drain(
    launch: Launch, settings: ReceiverSettings, drain_seconds: float
) -> tuple[list[str], int]:
    """Return the paths that were acknowledged, and how many requests failed."""
    leaving = launch(settings.model_copy(update={"drain_seconds": drain_seconds}))
    staying = launch(settings)
    balancer = Balancer([leaving, staying])
    watching = asyncio.create_task(balancer.watch())
    acknowledged: list[str] = []
    failures = 0
    warm, ended = asyncio.Event(), asyncio.Event()

    async def work(number: int) -> None:
        nonlocal failures
        client = RawClient(keep_alive=number % 2 == 0)
        turn = 0
        after_end = 0
        while after_end < 20:
            path = f"drain/{number}/{turn}"
            if await client.post(balancer.choose(turn), path):
                acknowledged.append(path)
            else:
                failures += 1
            turn += 1
            after_end += ended.is_set()
            if len(acknowledged) >= 300:
                warm.set()
        await client.close()

    workers = [asyncio.create_task(work(number)) for number in range(8)]
    await warm.wait()
    balancer.looked.clear()
    await balancer.looked.wait()
    leaving.terminate()
    assert await asyncio.to_thread(leaving.wait, 30) == 0
    ended.set()
    await asyncio.gather(*workers)
    watching.cancel()
    async with httpx.AsyncClient() as client:
        paths, cursor = set(), None
        while True:
            parameters = {"limit": 200, **({"cursor": cursor} if cursor else {})}
            page = (await client.get(f"{staying.url}/images", params=parameters)).json()
            paths |= {image["path"] for image in page["images"]}
            cursor = page["next_cursor"]
            if cursor is None:
                break
    assert set(acknowledged) <= paths
    return acknowledged, failures


async def test_a_drain_under_load_loses_no_request(
    launch: Launch, plain_settings: ReceiverSettings
) -> None:
    acknowledged, failures = await load_during_drain(launch, plain_settings, 2.0)
    assert failures == 0
    assert len(acknowledged) > 300


async def test_without_the_drain_time_requests_are_lost(
    launch: Launch, plain_settings: ReceiverSettings
) -> None:
    _, failures = await load_during_drain(launch, plain_settings, 0.0)
    assert failures > 0


def test_logs_and_metrics_tell_what_was_accepted(
    launch: Launch, plain_settings: ReceiverSettings
) -> None:
    process = launch(plain_settings)
    with httpx.Client(base_url=process.url) as client:
        one = client.post("/image/post", json={"path": "a"}).json()["id"]
        paths = {"paths": [{"path": path} for path in ("a", "b", "c")]}
        many = [one["id"] for one in client.post("/images/post", json=paths).json()["images"]]
        client.post("/images", files={"files": ("x", b"content")})
        client.get("/images/999")
        client.get(f"/images/{one}")
        client.get("/no/such/address")
        assert client.get("/metrics").status_code == 404
        metrics = client.get(f"{process.probe_url}/metrics").text
    process.stop()
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    assert {"image_id": one, "event": "accepted", "service": "receiver"}.items() <= next(
        line for line in lines if line.get("image_id") == one
    ).items()
    assert any(line.get("image_ids") == many[1:] for line in lines)
    for expected in (
        'facestack_submissions_total{endpoint="/image/post",result="new"} 1.0',
        'facestack_submissions_total{endpoint="/images/post",result="new"} 2.0',
        'facestack_submissions_total{endpoint="/images/post",result="duplicate"} 1.0',
        'facestack_submissions_total{endpoint="/images",result="new"} 1.0',
        'facestack_requests_total{operation="POST /image/post"} 1.0',
        'facestack_requests_total{operation="GET /images/{image_id}"} 2.0',
        'facestack_request_errors_total{operation="GET /images/{image_id}"} 0.0',
        'facestack_requests_total{operation="unmatched"} 2.0',
        'facestack_rings_total{result="dropped"} 0.0',
    ):
        assert expected in metrics, metrics


@pytest.mark.parametrize("variable", ["DATABASE_URL", "FACE_RECOG_TARGET"])
def test_a_missing_setting_ends_the_process_with_one_line(variable: str) -> None:
    environment = {
        "DATABASE_URL": "sqlite+aiosqlite:///x.db",
        "OBJECT_STORE_URL": "file:///tmp/x",
        "FACE_RECOG_TARGET": "a:1",
    }
    del environment[variable]
    result = subprocess.run(
        [sys.executable, "-m", "services.receiver"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert variable in result.stderr
    assert len(result.stderr.splitlines()) == 1


async def test_head_has_the_headers_of_get_and_no_body(
    launch: Launch, plain_settings: ReceiverSettings
) -> None:
    process = launch(plain_settings)
    content = b"\xff\xd8\xff" + bytes(300_000)
    # One connection: a body where none belongs would be taken for the next answer.
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=process.url, limits=limits) as client:
        await client.post("/images", files={"files": ("a.jpg", content)})
        paths = ("/images", "/images/1", "/images/1/picture", "/people", "/openapi.json", "/docs")
        for path in (*paths, "/livez", "/images/99", "/nothing", "/images/1/retry"):
            head, get = await client.head(path), await client.get(path)
            assert head.content == b""
            assert head.status_code == get.status_code
            for header in ("content-type", "content-length", "allow"):
                assert head.headers.get(header) == get.headers.get(header)
        picture = await client.head("/images/1/picture")
        assert picture.headers["content-length"] == str(len(content))
        metrics = (await process.get("/metrics")).text
    assert 'operation="HEAD /images/{image_id}/picture"' in metrics
