import asyncio
import re
from collections.abc import AsyncIterator
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from services.common.door import Door, Room
from services.common.hosts import AllowedHosts
from services.common.http_server import serve_http
from services.common.lifecycle import Lifecycle
from services.common.probes import probe_routes
from services.common.settings import HttpSettings
from services.common.sockets import listen
from services.testing.clients import everybody

LISTED = "faces.example.com, *.Faces.example.org:8080,receiver,"

ALLOWED = (
    *("127.0.0.1", "127.0.0.1:8000", "203.0.113.7", "[::1]", "[::1]:80", "[2001:DB8::7]:65535"),
    *("localhost", "LocalHost:8080", "localhost.", "a.localhost", "a.b.localhost:1"),
    *("faces.example.com", "FACES.Example.COM:443", "faces.example.com.", "receiver:8000"),
    *("a.faces.example.org", "a.b.faces.example.org", "a.faces.example.org:9"),
)
REFUSED = (
    *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"),
    *("faces.example.com.evil.example", "evilfaces.example.com", "a.faces.example.com"),
    *(
        "faces.example.org",
        "evil-faces.example.org",
        "evillocalhost",
        ".localhost",
        "receiver.face",
    ),
    # Other ways to write 127.0.0.1, which some take for it.
    *("2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.01", "127.0.0.1."),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1%lo]", "[::1%25lo]", "::1", "[::1", "[v1.a]"),
    *(
        "",
        ".",
        "..",
        ":",
        ":80",
        "localhost:",
        "localhost:x",
        "localhost:123456",
        "localhost:80:80",
    ),
    *("localhost/", "localhost#", "localhost?", "a@localhost", "localhost@evil.example", "*"),
    *(
        "localhost,evil.example",
        "localhost evil.example",
        "localhost\tx",
        "localhost..",
        "*.localhost",
    ),
    *(
        "http://localhost",
        "localhost\\",
        "local%68ost",
        "[localhost]",
        "localhost\x00",
        "löcalhost",
    ),
    *("a." * 200 + "localhost", "a" * 64 + ".localhost", "localhost:" + "0" * 300),
)


def refusal(*hosts: str, more: tuple[tuple[bytes, bytes], ...] = ()) -> str | None:
    headers = [(b"host", host.encode("latin-1")) for host in hosts]
    return AllowedHosts(LISTED).refusal([*headers, *more])


def test_a_host_is_an_address_or_a_name_that_is_known() -> None:
    assert [host for host in ALLOWED if refusal(host)] == []
    assert [host for host in REFUSED if not refusal(host)] == []
    assert refusal() == "a request is for one host, and this one names 0: send one Host header"
    assert "names 2" in (refusal("localhost", "localhost") or "")
    assert "'evil.example'" in (refusal("evil.example") or "")
    assert len(refusal("a" * 50_000) or "") < 200


def test_what_a_proxy_would_add_is_not_believed() -> None:
    headers = ((b"x-forwarded-host", b"localhost"), (b"forwarded", b"host=localhost"))
    assert refusal("evil.example", more=headers)
    assert not refusal("localhost", more=((b"x-forwarded-host", b"evil.example"),))


@pytest.mark.parametrize("listed", ["*", "*.", "a.*.example", "http://a", "a b", "a,/b", "bücher"])
def test_a_list_with_what_is_no_name_is_refused(listed: str) -> None:
    with pytest.raises(ValueError, match="is no name of a host"):
        HttpSettings(allowed_hosts=listed)


def may_be_allowed(host: str) -> bool:
    """Whether another reading of the rule, by the standard library's parser, allows a host."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return str(ip_address(name)) == name or host.startswith("[")
    except ValueError:
        name = name.removesuffix(".")
    return name in {"localhost", "faces.example.com", "receiver"} or name.endswith(
        (".localhost", ".faces.example.org")
    )


pieces = st.sampled_from(
    [
        *("localhost", "evil", "127.0.0.1", "[::1]", "receiver", "faces.example.com", "80", "é"),
        *(".faces.example.org", "::ffff:", *".:@%[]\\\t*\0/,"),
    ]
)
hosts = st.text(st.characters(max_codepoint=255), max_size=300) | st.lists(pieces, max_size=6).map(
    "".join
)


async def status(app: ASGIApp, headers: list[tuple[bytes, bytes]]) -> int:
    statuses = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    return int(statuses[0])


@given(st.lists(hosts, max_size=2) | st.tuples(hosts))
def test_no_host_breaks_the_door_and_none_is_allowed_against_the_rule(named: list[str]) -> None:
    answer = asyncio.run(
        status(behind_door(), [(b"host", host.encode("latin-1")) for host in named])
    )
    assert answer in {200, 421}
    if answer == 200:
        assert len(named) == 1
        assert may_be_allowed(named[0])


def behind_door() -> ASGIApp:
    lifecycle = Lifecycle({}, drain_seconds=0)

    async def page(_: Request) -> Response:
        return PlainTextResponse("served")

    room = Room("requests", 9, takes_body=False)
    return Door(
        Starlette(routes=[Route("/", page), *probe_routes(lifecycle)]),
        room=lambda _: room,
        admit=everybody,
        refuse=lambda _, error: PlainTextResponse(error.detail, error.status_code),
        settings=HttpSettings(allowed_hosts=LISTED),
        lifecycle=lifecycle,
    )


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of a server with a page, at / alone, and probes."""
    listener, lifecycle = listen("127.0.0.1", 0), Lifecycle({}, drain_seconds=0)
    serving = asyncio.create_task(serve_http(behind_door(), listener, lifecycle))
    yield listener.getsockname()[1]
    lifecycle.drain()
    await serving


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET / HTTP/1.1\r\nHost: localhost", 200),
        ("GET / HTTP/1.1\r\nHost:   localhost  ", 200),
        ("GET / HTTP/1.1\r\nHost: evil.example", 421),
        ("GET / HTTP/1.1\r\nX: y", 421),
        ("GET / HTTP/1.0\r\nX: y", 421),
        ("GET / HTTP/1.1\r\nHost:", 421),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 421),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHOST: evil.example", 421),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost", 421),
        ("GET http://localhost/ HTTP/1.1\r\nHost: localhost", 200),
        ("GET http://localhost/ HTTP/1.0\r\nX: y", 200),
        ("GET http://evil/ HTTP/1.1\r\nHost: localhost", 421),
        ("GET http://evil:80/?http://localhost/ HTTP/1.1\r\nHost: localhost", 421),
        ("GET http://localhost@evil/ HTTP/1.1\r\nHost: localhost", 421),
        ("GET http://localhost/ HTTP/1.1\r\nHost: evil.example", 421),
        ("GET /?http://evil/ HTTP/1.1\r\nHost: localhost", 200),
        ("CONNECT evil:443 HTTP/1.1\r\nHost: evil:443", 400),
        ("POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 9", 421),
        ("GET /nothing HTTP/1.1\r\nHost: evil.example", 421),
        ("GET /livez HTTP/1.1\r\nHost: evil.example", 200),
        ("GET /readyz HTTP/1.1\r\nX: y", 200),
    ],
)
async def test_a_request_for_another_host_is_misdirected(
    port: int, request_: str, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{request_}\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    found = re.match(r"HTTP/1.1 (\d+) ", answer)
    assert found, answer
    assert int(found[1]) == status, answer
