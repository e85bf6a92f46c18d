"""What the command makes of what it is given, and of a server that is in trouble."""

import argparse
import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import hypothesis.strategies as st
import pytest
from hypothesis import given

from services.client import app, files
from services.client.api import FacestackApi, retry_after
from services.client.errors import ItemRefusedError, NotWrittenError, ServerAwayError
from services.client.exporting import export
from services.client.report import Report, printable
from services.client.submitting import Submitter

Answer = tuple[int, dict[str, str], bytes]

JSON = {"Content-Type": "application/json"}
PROBLEM = {"Content-Type": "application/problem+json"}
PEOPLE: Answer = (200, JSON, b'{"people": []}')
BUSY: Answer = (429, {**PROBLEM, "Retry-After": "0"}, b"")
AWAY: Answer = (503, {**PROBLEM, "Retry-After": "0"}, b'{"detail": "database is not available"}')


@contextmanager
def server(*answers: Answer) -> Iterator[str]:
    """A server that gives these answers in order, and goes away instead of answering 0."""
    left = iter(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, headers, body = next(left)
            if status == 0:
                return
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

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
        api = FacestackApi(url, notes.append, patience=patience)
        async with api.http:
            for _ in range(times):
                await api.get("GET", "/people", "people")

    with server(*answers) as url:
        asyncio.run(run(url))
    return notes


def test_a_busy_server_is_given_its_time() -> None:
    assert ask(BUSY, BUSY, PEOPLE) == []


def test_an_outage_is_said_once_and_waited_out_after_the_server_was_met() -> None:
    [note] = ask(PEOPLE, AWAY, (502, {}, b"<html>"), PEOPLE, times=2)
    assert "database is not available. Waiting for it" in note
    with pytest.raises(ServerAwayError, match=r"database is not available\. Is the server up"):
        ask(AWAY)
    with pytest.raises(
        ServerAwayError, match="has not answered for 0 s: database is not available"
    ):
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
    with pytest.raises(ServerAwayError, match="is not the API of a Facestack"):
        ask(answer)


def test_a_refusal_says_the_servers_reason_or_that_of_a_proxy() -> None:
    doubt = b'{"detail": "the face is dark", "errors": [{"pointer": "/query/insist"}]}'
    with pytest.raises(ItemRefusedError, match=r"^the face is dark \(--insist overrules it\)$"):
        ask((422, PROBLEM, doubt))
    with pytest.raises(ItemRefusedError, match=r"^413 Request Entity Too Large$"):
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
        asyncio.run(FacestackApi(taken, print).http.aclose())


@given(st.text(alphabet=st.characters()))
def test_what_is_printed_is_one_line_that_no_terminal_obeys(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()


@given(st.text(alphabet=st.characters()) | st.integers().map(str))
def test_a_number_is_an_id_or_is_refused(text: str) -> None:
    try:
        number = app.number(text)
    except argparse.ArgumentTypeError as error:
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


def test_an_answer_that_cannot_be_read_is_an_outage() -> None:
    [note] = ask(PEOPLE, (200, {**JSON, "Content-Encoding": "gzip"}, b"{}"), PEOPLE, times=2)
    assert "does not answer" in note


def test_an_outage_is_said_once_though_an_earlier_request_is_answered_in_it() -> None:
    notes: list[str] = []

    async def run() -> None:
        refused, answered = asyncio.Event(), asyncio.Event()
        left = iter([200, 503, 503, 200])

        async def give(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/slow":
                await refused.wait()
                return httpx.Response(200, json={})
            status = next(left)
            if notes:  # the second 503, and all that comes after it
                refused.set()
                await answered.wait()
            return httpx.Response(status, json={}, headers={"Retry-After": "0"})

        api = FacestackApi("http://server", notes.append)
        await api.http.aclose()
        api.http = httpx.AsyncClient(base_url="http://server", transport=httpx.MockTransport(give))
        async with api.http:
            await api.get("GET", "/people")

            async def slow() -> None:
                await api.get("GET", "/slow")
                answered.set()

            async with asyncio.TaskGroup() as group:
                group.create_task(slow())
                group.create_task(api.get("GET", "/people"))

    asyncio.run(run())
    assert len(notes) == 1


def delete(*answers: Answer) -> list[str]:
    """Delete images until there is no answer left; return what is noted meanwhile."""
    notes: list[str] = []

    async def run(url: str) -> None:
        api = FacestackApi(url, notes.append)
        async with api.http:
            for _ in range(sum(status in (204, 404) for status, _, _ in answers)):
                await api.delete("/images/1")

    with server(*answers) as url:
        asyncio.run(run(url))
    return notes


def test_deleting_waits_for_a_server_that_deleted_before() -> None:
    [note] = delete((204, {}, b""), AWAY, (204, {}, b""))
    assert "Waiting for it" in note


def test_what_a_lost_answer_deleted_is_deleted() -> None:
    gone = (404, PROBLEM, b'{"detail": "there is no image 1"}')
    assert len(delete((204, {}, b""), (0, {}, b""), gone)) == 1
    with pytest.raises(ItemRefusedError, match="there is no image 1"):
        delete((204, {}, b""), gone)


def test_what_a_lost_answer_tried_again_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    image = b'{"id": 1, "name": "a.png", "status": "pending", "error": null, "faces": []}'
    known = (200, JSON, image)
    conflict = (409, PROBLEM, b'{"detail": "image 1 is pending"}')
    retry = app._retry  # what the command runs
    report = commanded(
        lambda api, report: retry(argparse.Namespace(ids=[1, 1, 1]), api, report),
        *(known, known, (0, {}, b""), conflict, known, conflict),
    )
    said = capsys.readouterr()
    assert said.out == "image 1, a.png: pending\n" * 2
    assert (report.failures, "image 1: image 1 is pending\n" in said.err) == (1, True)


def test_only_a_facestack_deletes() -> None:
    with pytest.raises(ServerAwayError, match="is not the API of a Facestack"):
        delete((200, JSON, b"{}"), (204, {}, b""))


GONE = {"known_pictures": 1, "faces": 2, "pictures": 0}


def test_one_of_two_people_of_one_name_is_told_about_and_erased(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = argparse.Namespace(person="~3", file=tmp_path / "a.json", pictures=None)
    kept = page("pictures", person={"id": 3}, known_pictures=[])
    commanded(lambda api, report: app._about(arguments, api, report), kept)
    assert json.loads(arguments.file.read_text())["person"] == {"id": 3}
    arguments.pictures = False
    gone = (202, JSON, json.dumps(GONE).encode())
    commanded(lambda api, report: app._erase(arguments, api, report), gone)
    assert capsys.readouterr().out.endswith("~3 is being forgotten: 1 known pictures, 2 faces\n")


@pytest.mark.parametrize("undo", [None, False, True])
def test_who_is_meant_is_settled_before_anything_is_asked_twice(undo: bool | None) -> None:
    """Another of that name, who came while an answer was lost, is not meant."""
    person = (200, JSON, b'{"id": 3, "name": "Ada", "merges": []}')
    nobody = (404, PROBLEM, b'{"detail": "there is nobody called \'Ada\'"}')
    lost: Answer = (0, {}, b"")
    done = (202, JSON, json.dumps(GONE).encode()) if undo is None else (204, {}, b"")
    asked: list[str] = []

    async def work(api: FacestackApi, _: Report) -> None:
        async def note(request: httpx.Request) -> None:
            asked.append(f"{request.method} {request.url.path}")

        api.http.event_hooks["request"].append(note)
        if undo is None:
            await api.erase("Ada", pictures=False)
        else:
            await api.deny(7, 0, "Ada", undo=undo)

    method = {None: "POST", False: "PUT", True: "DELETE"}[undo]
    path = "/people/{}/erase" if undo is None else "/images/7/faces/0/denials/{}"
    commanded(work, person, lost, AWAY, done)
    assert asked == ["GET /people/Ada", *[f"{method} {path.format('~3')}"] * 3]
    # Who has no row is nobody else: nothing is asked twice of a name.
    for unheard in (lost, AWAY):
        asked.clear()
        with pytest.raises(ItemRefusedError, match="whether it was done is not known"):
            commanded(work, nobody, unheard)
        assert asked == ["GET /people/Ada", f"{method} {path.format('Ada')}"]
    commanded(work, nobody, done)


def test_a_face_goes_to_whoever_was_meant_though_their_name_is_another_meanwhile() -> None:
    person = (200, JSON, b'{"id": 3, "name": "Ada", "merges": []}')
    known = (201, JSON, b'{"id": 1, "person": "Countess"}')
    asked: list[str] = []

    async def work(api: FacestackApi, _: Report) -> None:
        async def note(request: httpx.Request) -> None:
            asked.append(f"{request.method} {request.url.path}")

        api.http.event_hooks["request"].append(note)
        await api.enrol("Ada", insist=False, json={"image_id": 7, "face_index": 0})

    commanded(work, person, (0, {}, b""), known)
    assert asked == ["GET /people/Ada", *["POST /people/~3/pictures"] * 2]


def test_only_a_facestack_erases() -> None:
    arguments = argparse.Namespace(person="Ada", pictures=False)
    with pytest.raises(ServerAwayError, match="is not the API of a Facestack"):
        commanded(lambda api, report: app._erase(arguments, api, report), (200, JSON, b"{}"))


def commanded(work: Callable[[FacestackApi, Report], Awaitable[None]], *answers: Answer) -> Report:
    """Do the work with a server that gives these answers in order."""
    report = Report(as_json=False)

    async def run(url: str) -> None:
        api = FacestackApi(url, report.note)
        async with api.http:
            await work(api, report)

    with server(*answers) as url:
        asyncio.run(run(url))
    return report


def page(kind: str, *parts: Mapping[str, object], **more: object) -> Answer:
    return (200, JSON, json.dumps({kind: parts, **more}).encode())


def test_people_are_listed_to_the_last_page(capsys: pytest.CaptureFixture[str]) -> None:
    ada: dict[str, object] = {"id": 1, "name": "Ada", "pictures": []}
    people = app._people  # what the command runs
    commanded(
        lambda api, report: people(argparse.Namespace(hidden=False), api, report),
        *(page("people", ada, next_cursor="Ada"), page("people", ada | {"id": 2, "name": "Grace"})),
    )
    assert capsys.readouterr().out == "Ada (~1), known pictures: 0\nGrace (~2), known pictures: 0\n"


def test_nothing_is_exported_beside_the_folder(tmp_path: Path) -> None:
    image = {"id": "../../x", "name": "a.png"}
    with pytest.raises(ServerAwayError, match="is not the API of a Facestack"):
        commanded(
            lambda api, report: export(api, report, "Ada", tmp_path / "a" / "b"),
            *(page("images", image), page("people"), (200, {}, b"picture")),
        )
    assert [*tmp_path.iterdir()] == []


def test_a_name_that_is_no_unicode_is_exported(tmp_path: Path) -> None:
    image = {"id": 1, "name": "\udc80.png"}
    commanded(
        lambda api, report: export(api, report, "Ada", tmp_path),
        *(page("images", image), page("people"), (200, {}, b"picture")),
    )
    [told] = json.loads((tmp_path / "person.json").read_bytes())["images"]
    assert (told["name"], told["file"]) == ("\udc80.png", "1-_.png")


def test_files_are_sent_though_what_the_server_has_is_not_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    refusal = (500, PROBLEM, b'{"detail": "a fault"}')
    report = commanded(
        lambda api, report: Submitter(api, report).submit([tmp_path / "a.png"]),
        *(refusal, page("images", {"id": 1, "duplicate": False})),
    )
    said = capsys.readouterr()
    assert report.failures == 0
    assert said.err == (
        "facestack: what the server has is not known, so it is sent again: a fault\n"
    )
    assert "image 1, new\n1 of 1 files are at the server" in said.out


def test_no_more_than_the_most_is_looked_through() -> None:
    more = page("images", next_cursor="more")
    commanded(
        lambda api, report: Submitter(api, report).learn(1_000_000),
        *([more] * 100),  # of 200 images each
        (200, {}, b"asked once too often"),
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotWrittenError("full"), 1), (ItemRefusedError("no"), 1), (ServerAwayError("away"), 3)],
)
def test_every_error_has_the_code_of_the_docs(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(app, "_run", fail)
    monkeypatch.setattr(sys, "argv", ["facestack", "people"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert (ended.value.code, capsys.readouterr().err) == (code, f"facestack: {error}\n")
