"""A steady load of several kinds of clients at once, which keeps every failure.

Each kind of request is sent by a client with one connection that it keeps, and by one that opens a
connection for every request. A client sends its next request only after an answer, so the load
never exceeds its rate and needs little of the machine that the cluster runs on.
"""

import asyncio
import itertools
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from threading import Thread
from typing import Any, Final
from uuid import uuid4

import httpx
from PIL import Image

from e2e.client import Api, logged_in, new_jpeg
from e2e.cluster import Cluster
from e2e.waiting import wait_until
from services.local.samples import EILEEN, load_photos

_SAMPLES: Final = Path(__file__).parents[1] / "var" / "samples"
_FACE: Final = (150, 20, 300, 170)
"""Where the face of Eileen Collins is in her photograph: small, so that it costs little to find."""

_OPEN: Final = {"pending", "processing", "failed"}
_FINAL_SECONDS: Final = 300
_SERVED_SECONDS: Final = 90
_MORE_SECONDS: Final = 300

_PROBLEM: Final = re.compile('class="reason">([^<]+)<')
"""What a page says is away."""

_MOST: Final = 100_000
"""Requests after which a load ends whatever else happens."""

_CONNECTIONS: Final = {
    "keep-alive": httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=60),
    "new connection": httpx.Limits(max_keepalive_connections=0),
}


@dataclass(frozen=True)
class Failure:
    """A request that did not get what it asked for; ``status`` is None when nobody answered."""

    client: str
    phase: str
    at: float
    seconds: float
    status: int | None
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.client} · {self.phase} · at {self.at:.1f} s, after {self.seconds:.2f} s:"
            f" {self.reason}"
        )


@dataclass
class Tally:
    """What the requests of one client came to."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    in_a_row: int = 0
    """Requests that worked since the last one that failed."""


class _UnexpectedAnswerError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Load:
    """The requests of one test, with a ``crowd`` of clients of each kind.

    ``acknowledged`` are the ids of submissions by path, none of which is a picture, and
    ``uploaded`` those of pictures of a face. ``phase`` says with each failure what went on.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        crowd: int = 1,
        recognise: bool = False,
        timeout: float = 30.0,
    ) -> None:
        self._api = cluster.api_url
        self._page = cluster.page_url
        self._cluster = cluster
        self._crowd = crowd
        self._timeout = timeout
        self._prefix = f"load/{uuid4().hex[:12]}"
        self._numbers = itertools.count(1)
        self._visits: dict[str, tuple[Callable[[httpx.AsyncClient], Awaitable[None]], float]] = {
            # Name: what is done, and how often in a second.
            "POST /image/post": (self._submit_one, 6),
            "POST /images/post": (self._submit_many, 6),
            "GET /images/{id}": (self._read, 8),
            "GET / (page)": (partial(self._look, "/"), 3),
            "GET /images/{id} (page)": (self._look_at_one, 3),
        }
        if recognise:
            photo = load_photos(_SAMPLES)[EILEEN]
            self._face = photo.crop(_FACE)
            self._no_face = Image.new("RGB", (160, 120), "skyblue")
            self._visits["POST /images"] = (self._upload, 0.7)
            self._visits["POST /people/{name}/pictures"] = (self._enrol, 0.3)
        self._stopping = False
        self._start = time.monotonic()
        self._error: BaseException | None = None
        self.phase = "start"
        self.acknowledged: dict[int, str] = {}
        self.uploaded: set[int] = set()
        self.failures: list[Failure] = []
        self.tallies = {
            _called(request, connections): Tally()
            for request in self._visits
            for connections in _CONNECTIONS
        }

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(len(tally.seconds) for tally in self.tallies.values())

    @property
    def in_a_row(self) -> int:
        """How many requests every client has made since its last one that failed."""
        return min(tally.in_a_row for tally in self.tallies.values())

    def wait_served(self) -> None:
        """Return when every client has had two answers in a row."""
        wait_until(lambda: self.in_a_row >= 2, _SERVED_SECONDS, "every client to be served")

    def wait_more(self, number: int) -> None:
        """Return when there were so many more requests."""
        wanted = self.requests + number
        wait_until(lambda: self.requests >= wanted, _MORE_SECONDS, f"{number} more requests")

    def outage(self, since: float) -> str:
        """Say how long after a moment, in monotonic seconds, the last request failed, and how."""
        late = [
            failure
            for failure in self.failures
            if self._start + failure.at + failure.seconds > since
        ]
        if not late:
            return "no request failed"
        last = max(late, key=lambda one: one.at + one.seconds)
        end = self._start + last.at + last.seconds
        return f"the last of {len(late)} requests failed {end - since:.0f} s after that: {last}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send requests while the block runs."""
        self._stopping = False
        self._headers = Api(self._cluster).headers
        self._visitor = logged_in(self._cluster)
        thread = Thread(target=self._run, name="load")
        thread.start()
        try:
            yield
        finally:
            self._stopping = True
            thread.join()
        if self._error:
            raise self._error

    def report(self) -> str:
        """Return what came of each client's requests, as a table."""
        lines = [f"{'':44}{'requests':>9}{'failed':>8}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}"]
        for client, tally in sorted(self.tallies.items()):
            if len(tally.seconds) > 1:
                cuts = statistics.quantiles(tally.seconds, n=100, method="inclusive")
                times = (cuts[49], cuts[98], max(tally.seconds))
                lines.append(
                    f"{client:44}{len(tally.seconds):9,}{tally.failed:8,}"
                    + "".join(f"{took * 1000:8,.0f}" for took in times)
                )
        lines.append(f"{'all':44}{self.requests:9,}{len(self.failures):8,}")
        return "\n".join(lines)

    def sample(self, number: int = 12) -> str:
        """Return some of the failures, one in a line."""
        more = len(self.failures) - number
        return "\n".join(
            [*map(str, self.failures[:number]), *([f"and {more} more"] if more > 0 else [])]
        )

    def _run(self) -> None:
        try:
            asyncio.run(self._clients())
        except BaseException as error:  # noqa: BLE001, the thread that waits for this one raises it
            self._error = error

    async def _clients(self) -> None:
        async with asyncio.TaskGroup() as group:
            for request, (visit, rate) in self._visits.items():
                for connections in list(_CONNECTIONS) * self._crowd:
                    group.create_task(self._client(request, connections, visit, 1 / rate))

    async def _client(
        self,
        request: str,
        connections: str,
        visit: Callable[[httpx.AsyncClient], Awaitable[None]],
        interval: float,
    ) -> None:
        name = _called(request, connections)
        tally = self.tallies[name]
        async with self._http(connections) as client:
            while not self._stopping and self.requests < _MOST:
                begin = time.monotonic()
                status: int | None = None
                reason = ""
                try:
                    await visit(client)
                except _UnexpectedAnswerError as error:
                    status, reason = error.status, str(error)
                except httpx.HTTPError as error:
                    reason = f"{type(error).__name__}: {error}".rstrip(": ")
                took = time.monotonic() - begin
                tally.seconds.append(took)
                tally.in_a_row += 1
                if reason:
                    tally.failed += 1
                    tally.in_a_row = 0
                    at = begin - self._start
                    self.failures.append(Failure(name, self.phase, at, took, status, reason))
                await asyncio.sleep(max(0.0, begin + interval - time.monotonic()))

    @asynccontextmanager
    async def _http(self, connections: str) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            headers=self._headers,
            limits=_CONNECTIONS[connections],
            timeout=self._timeout,
            trust_env=False,
        ) as client:
            yield client

    def _path(self) -> str:
        return f"{self._prefix}/{next(self._numbers)}.jpg"

    async def _submit_one(self, client: httpx.AsyncClient) -> None:
        path = self._path()
        answer = await client.post(f"{self._api}/image/post", json={"path": path})
        self._acknowledge([_expect(answer, HTTPStatus.ACCEPTED)], [path])

    async def _submit_many(self, client: httpx.AsyncClient) -> None:
        paths = [self._path(), self._path()]
        answer = await client.post(
            f"{self._api}/images/post", json={"paths": [{"path": path} for path in paths]}
        )
        self._acknowledge(_expect(answer, HTTPStatus.ACCEPTED)["images"], paths)

    def _acknowledge(self, accepted: list[Any], paths: list[str]) -> None:
        for one, path in zip(accepted, paths, strict=True):
            self.acknowledged[one["id"]] = path

    async def _read(self, client: httpx.AsyncClient) -> None:
        if not self.acknowledged:
            _expect(await client.get(f"{self._api}/images", params={"limit": 1}), HTTPStatus.OK)
            return
        image_id, path = next(reversed(self.acknowledged.items()))
        answer = await client.get(f"{self._api}/images/{image_id}")
        if _expect(answer, HTTPStatus.OK)["path"] != path:
            raise _UnexpectedAnswerError(answer.status_code, f"{path} became {answer.text[:200]}")

    async def _look(self, address: str, client: httpx.AsyncClient) -> None:
        answer = await client.get(f"{self._page}{address}", headers=self._visitor)
        problems = _PROBLEM.findall(answer.text)
        if answer.status_code != HTTPStatus.OK or problems:
            raise _UnexpectedAnswerError(
                answer.status_code, f"{answer.status_code} {'; '.join(problems)}".rstrip()
            )

    async def _look_at_one(self, client: httpx.AsyncClient) -> None:
        newest = next(reversed(self.acknowledged), None)
        await self._look(f"/images/{newest}" if newest else "/", client)

    async def _upload(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(
            f"{self._api}/images", files={"files": ("face.jpg", new_jpeg(self._face, quality=90))}
        )
        (image,) = _expect(answer, HTTPStatus.ACCEPTED)["images"]
        self.uploaded.add(image["id"])

    async def _enrol(self, client: httpx.AsyncClient) -> None:
        """Ask for what is refused, but only after face_recog has looked at the picture."""
        answer = await client.post(
            f"{self._api}/people/Nobody/pictures",
            files={"file": ("sky.jpg", new_jpeg(self._no_face, quality=90))},
        )
        _expect(answer, HTTPStatus.UNPROCESSABLE_ENTITY)


def _called(request: str, connections: str) -> str:
    return f"{request}, {connections}"


def _expect(answer: httpx.Response, status: HTTPStatus) -> Any:
    if answer.status_code != status:
        raise _UnexpectedAnswerError(
            answer.status_code, f"{answer.status_code} {answer.text[:300]}"
        )
    return answer.json()


@contextmanager
def no_request_fails(cluster: Cluster, load: Load) -> Iterator[None]:
    """Send requests while the block runs: none may fail, and what is acknowledged gets final."""
    with load.running():
        yield
    print(load.report())
    assert not load.failures, load.sample()
    wait_final(cluster, load.acknowledged)


def wait_final(cluster: Cluster, ids: Iterable[int]) -> dict[int, tuple[str, int]]:
    """Return status and attempts of acknowledged images when the last of them is final."""
    wanted = sorted(ids)
    assert wanted

    def final() -> dict[int, tuple[str, int]]:
        rows = {
            int(str(image_id)): (str(status), int(str(attempt)))
            for image_id, status, attempt in cluster.sql(
                "SELECT id, status, attempt FROM images"
                f" WHERE id BETWEEN {wanted[0]} AND {wanted[-1]}"
            )
        }
        found = {image_id: rows[image_id] for image_id in wanted}
        waiting = sum(status in _OPEN for status, _ in found.values())
        assert not waiting, f"{waiting} of {len(wanted)} images are not final"
        return found

    return wait_until(final, _FINAL_SECONDS, "every acknowledged image to be final")
