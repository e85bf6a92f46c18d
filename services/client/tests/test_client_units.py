"""What the command makes of what it is given, and of a server that is in trouble."""

import asyncio
import threading
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from services.client import app, files
from services.client.receiver import AwayError, ClientError, Receiver, RefusedError, retry_after
from services.client.report import printable

Answer = tuple[int, dict[str, str], bytes]

JSON = {"Content-Type": "application/json"}
PROBLEM = {"Content-Type": "application/problem+json"}
PEOPLE: Answer = (200, JSON, b'{"people": []}')
BUSY: Answer = (429, {**PROBLEM, "Retry-After": "0"}, b"")
AWAY: Answer = (503, {**PROBLEM, "Retry-After": "0"}, b'{"detail": "database is not available"}')


@contextmanager
def server(*answers: Answer) -> Iterator[str]:
    """A server that gives these answers in order."""
    left = iter(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = next(left)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def ask(*answers: Answer, times: int = 1, patience: float = 60) -> list[str]:
    """Ask for people so many times; return what is noted meanwhile."""
    notes: list[str] = []

    async def run(url: str) -> None:
        receiver = Receiver(url, notes.append, patience=patience)
        async with receiver.http:
            for _ in range(times):
                await receiver.get("GET", "/people", "people")

    with server(*answers) as url:
        asyncio.run(run(url))
    return notes


def test_a_busy_server_is_given_its_time() -> None:
    assert ask(BUSY, BUSY, PEOPLE) == []


def test_an_outage_is_said_once_and_waited_out_after_the_server_was_met() -> None:
    [note] = ask(PEOPLE, AWAY, (502, {}, b"<html>"), PEOPLE, times=2)
    assert "database is not available. Waiting for it" in note
    with pytest.raises(AwayError, match=r"database is not available\. Is the server up"):
        ask(AWAY)
    with pytest.raises(AwayError, match="has not answered for 0 s: database is not available"):
        ask(PEOPLE, AWAY, times=2, patience=0)


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html"}, b"<html>"),
        (200, JSON, b"[]"),
        (200, JSON, b'{"folks": []}'),
        (200, JSON, b"\xff"),
        (301, {"Location": "https://elsewhere.example/"}, b""),
        (404, JSON, b'{"detail": "Not Found"}'),
        (500, PROBLEM, b"nonsense"),
    ],
)
def test_what_is_no_facestack_is_told_apart(answer: Answer) -> None:
    with pytest.raises(AwayError, match="is not the API of a Facestack"):
        ask(answer)


def test_a_refusal_says_the_servers_reason_or_that_of_a_proxy() -> None:
    doubt = b'{"detail": "the face is dark", "errors": [{"pointer": "/query/insist"}]}'
    with pytest.raises(RefusedError, match=r"^the face is dark \(--insist overrules it\)$"):
        ask((422, PROBLEM, doubt))
    with pytest.raises(RefusedError, match=r"^413 Request Entity Too Large$"):
        ask(PEOPLE, (413, {"Content-Type": "text/html"}, b"<html>"), times=2)


@given(st.text() | st.integers().map(str))
def test_no_header_makes_it_wait_for_ever_or_not_at_all(header: str) -> None:
    assert 0.1 <= retry_after(header) <= 60


@given(st.text() | st.text().map("http://{}".format))
def test_an_address_is_taken_or_refused_in_one_line(text: str) -> None:
    try:
        taken = app.check_url(text)
    except ValueError as error:
        said = str(error)
        assert repr(text) in said
    else:
        asyncio.run(Receiver(taken, print).http.aclose())


@given(st.text(alphabet=st.characters()))
def test_what_is_printed_is_one_line_that_no_terminal_obeys(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()


@given(st.text(alphabet=st.characters()) | st.integers().map(str))
def test_a_number_is_an_id_or_is_refused(text: str) -> None:
    try:
        number = app.number(text)
    except ArgumentTypeError as error:
        said = str(error)
        assert repr(text) in said
    else:
        assert 0 <= number < 2**63


def test_folders_are_searched_as_people_expect(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "c/d.heic", ".git/e.png", "c/f.gif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"1")
    (tmp_path / "c" / "up").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / "c")
    found = files.find([tmp_path], every=False)
    names = [path.relative_to(tmp_path).as_posix() for path in found.files]
    assert names == ["a.png", "b.JPG", "c/d.heic", "c/f.gif"]
    assert (found.problems, found.left_out) == ({}, 1)
    assert tmp_path / "notes.txt" in files.find([tmp_path], every=True).files
    named = [tmp_path / "notes.txt", tmp_path / ".hidden.png"]
    assert [*files.find(named, every=False).files] == named


def test_every_error_has_the_code_of_the_docs() -> None:
    assert (ClientError.code, RefusedError.code, AwayError.code) == (1, 1, 3)
