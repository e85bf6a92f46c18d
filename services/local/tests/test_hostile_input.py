"""What strangers may send, and what each gets: the table of docs/reliability.md, row by row.

All five services run as real processes with a real nsqd. Beside their folder lies another one with
a photograph that nobody may open.
"""

import ctypes
import json
import os
import re
import socket
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import psutil
import pytest
from PIL import Image

from services.common.facerecog import face_pb2, face_pb2_grpc
from services.common.image_states import FINAL
from services.testing.damaged_pictures import save
from services.testing.picture_kinds import claims, long_stream, many_tags
from services.testing.pipeline import Pipeline, running
from services.testing.samples import sample
from services.testing.servers import Nsqd, Nsqlookupd

TABLE: Final = Path(__file__).parents[3] / "docs" / "reliability.md"
HEADING: Final = "## Hostile input"
JSON: Final = {"Content-Type": "application/json"}
PATIENCE_SECONDS: Final = 60

_IN_OPEN: Final = 0x20


class Watch:
    """Counts how often a file of a folder is opened, with inotify(7)."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._fd, bytes(folder), _IN_OPEN) >= 0

    def opened(self) -> bool:
        """Tell whether anything was opened since the last call."""
        try:
            return bool(os.read(self._fd, 65536))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._fd)


class Target:
    """The running pipeline, and what can be sent to it."""

    def __init__(self, folder: Path, pipeline: Pipeline, nsqd: Nsqd) -> None:
        self.folder = folder
        self.store = folder / "pipeline" / "store"
        self.pictures = self.store / "pictures"
        self.known = self.store / "known_people"
        self.outside = folder / "outside"
        self.secret = self.outside / "secret.jpg"
        self.nsqd = nsqd
        self.statuses: list[tuple[str, int]] = []
        self._processes = {
            name: psutil.Process(service.pid) for name, service in pipeline.services.items()
        }
        self._client = httpx.Client(trust_env=False, timeout=60, follow_redirects=False)
        self.api = pipeline.api_url
        self.page = pipeline.page_url
        self.grpc = grpc.insecure_channel(
            pipeline.face_recog_target, options=[("grpc.max_send_message_length", -1)]
        )
        self.watch = Watch(self.outside)

    def close(self) -> None:
        self._client.close()
        self.grpc.close()
        self.watch.close()

    def http(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        answer = self._client.request(method, url, **arguments)
        self.statuses.append((f"{method} {url}", answer.status_code))
        return answer

    def raw(self, content: bytes, *, page: bool = False) -> str:
        """Send bytes to the API or the page; return the status, or that there was none."""
        url = httpx.URL(self.page if page else self.api)
        assert url.port is not None
        with socket.create_connection((url.host, url.port), timeout=60) as connection:
            try:
                connection.sendall(content)
                answer = connection.recv(65536)
            except ConnectionError:
                return "closed"
        found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
        if not found:
            return "closed"
        self.statuses.append((repr(content[:40]), int(found[1])))
        return found[1].decode()

    def upload(self, name: str, content: bytes) -> int:
        answer = self.http("POST", f"{self.api}/images", files={"files": (name, content)})
        assert answer.status_code == 202, answer.text
        return int(answer.json()["images"][0]["id"])

    def final(self, image_id: int) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            image: dict[str, Any] = self.http("GET", f"{self.api}/images/{image_id}").json()
            if image["status"] in FINAL:
                return image
            assert time.monotonic() < deadline, image
            time.sleep(0.05)

    def sql(self, statement: str, *arguments: object) -> list[Any]:
        with sqlite3.connect(self.folder / "pipeline" / "facestack.db", timeout=30) as rows:
            found = rows.execute(statement, arguments).fetchall()
        rows.close()
        return found

    def row(self, path: str, **columns: object) -> int:
        """Write a row past the receiver, and return its id."""
        now = int(time.time() * 1000)
        values: dict[str, object] = {
            "path": path,
            "name": "row",
            "status": "pending",
            "attempt": 0,
            "due_at": now,
            "created_at": now,
            "updated_at": now,
            **columns,
        }
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        self.sql(f"INSERT INTO images ({names}) VALUES ({marks})", *values.values())
        [[image_id]] = self.sql("SELECT id FROM images WHERE path = ?", path)
        return int(image_id)

    def check(self) -> None:
        """Fail if a process died, or if the file outside was opened."""
        for name, process in self._processes.items():
            assert process.is_running(), f"{name} died"
            assert process.status() != psutil.STATUS_ZOMBIE, f"{name} died"
        assert not self.watch.opened(), "a file outside of the store was opened"
        assert not [one for one in self.statuses if one[1] >= 500], "a fault of the server"


Case = Callable[[Target], str]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    def keep(function: Case) -> Case:
        assert name not in CASES
        CASES[name] = function
        return function

    return keep


def jpeg(size: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    content = BytesIO()
    Image.new("RGB", size, "grey").save(content, "JPEG", **options)
    return content.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, *chunks: bytes, pixels: bytes | None = None) -> bytes:
    """A grey PNG with more chunks before its pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    if pixels is None:
        pixels = zlib.compress(bytes((width + 1) * height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + png_chunk(b"IDAT", pixels)
        + png_chunk(b"IEND", b"")
    )


def exif_jpeg(tiff: bytes) -> bytes:
    plain = jpeg()
    segment = b"Exif\0\0" + tiff
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]


# Over HTTP, submissions by path


def submitted(path: object) -> Case:
    def run(target: Target) -> str:
        content = json.dumps({"path": path}).encode()
        answer = target.http("POST", f"{target.api}/image/post", content=content, headers=JSON)
        if answer.status_code != 202:
            return str(answer.status_code)
        return f"202, then {target.final(answer.json()['id'])['status']}"

    return run


CASES |= {
    "path-climbs": submitted("../../outside/secret.jpg"),
    "path-climbs-inside": submitted("a/../../../outside/secret.jpg"),
    "path-escaped": submitted("..%2f..%2foutside%2fsecret.jpg"),
    "path-escaped-twice": submitted("%252e%252e/%252e%252e/outside/secret.jpg"),
    "path-backslashes": submitted("..\\..\\outside\\secret.jpg"),
    "path-wide-dots": submitted("\u2024\u2024/\u2024\u2024/outside/secret.jpg"),
    "path-wide-slash": submitted("..\uff0f..\uff0foutside\uff0fsecret.jpg"),
    "path-absolute": submitted("/etc/passwd"),
    "path-two-slashes": submitted("//etc/passwd"),
    "path-dot": submitted("a/./b.jpg"),
    "path-empty": submitted(""),
    "path-url": submitted("http://127.0.0.1:1/latest/meta-data"),
    "path-file-url": submitted("file:///etc/passwd"),
    "path-null": submitted("a.jpg\0.png"),
    "path-newline": submitted("a\nb.jpg"),
    "path-surrogate": submitted("a\ud800b"),
    "path-long": submitted("a/" * 300 + "b"),
    "path-part-long": submitted("x" * 300),
    "path-unfinished": submitted("a.jpg#1"),
    "path-number": submitted(42),
    "path-list": submitted(["a.jpg"]),
    "path-sql": submitted("a' OR 1=1; DROP TABLE images; --.jpg"),
    "path-shell": submitted("$(touch x);`id`|&.jpg"),
    "path-template": submitted("{{7*7}}${7*7}<%= 7*7 %>.jpg"),
}


@case("path-absolute-outside")
def _path_absolute_outside(target: Target) -> str:
    return submitted(str(target.secret))(target)


# Over HTTP, bodies that are sent


def posted(content: bytes, headers: dict[str, str] = JSON, where: str = "/image/post") -> Case:
    def run(target: Target) -> str:
        answer = target.http("POST", target.api + where, content=content, headers=headers)
        return str(answer.status_code)

    return run


CASES |= {
    "json-empty": posted(b""),
    "json-cut": posted(b'{"path": "a'),
    "json-nested": posted(b"[" * 1_000_000),
    "json-nested-objects": posted(b'{"path":' * 100_000),
    "json-nan": posted(b'{"path": NaN}'),
    "json-long-number": posted(b'{"path": ' + b"9" * 1_000_000 + b"}"),
    "json-utf16": posted('{"path": "a"}'.encode("utf-16")),
    "json-bad-utf8": posted(b'{"path": "a\xff.jpg"}'),
    "json-huge": posted(b'{"path": "' + b"a" * (9 * 1024 * 1024) + b'"}'),
    "json-as-text": posted(b'{"path": "a.jpg"}', {"Content-Type": "text/plain"}),
    "json-as-xml": posted(b'<?xml version="1.0"?><a/>', {"Content-Type": "application/xml"}),
    "json-pretends-gzip": posted(
        zlib.compress(b"a" * 50_000_000), JSON | {"Content-Encoding": "gzip"}
    ),
    "json-other-site": posted(b'{"path": "a.jpg"}', JSON | {"Origin": "https://evil.example"}),
    "json-null-origin": posted(b'{"path": "a.jpg"}', JSON | {"Origin": "null"}),
    "json-cross-site": posted(b'{"path": "a.jpg"}', JSON | {"Sec-Fetch-Site": "cross-site"}),
    "batch-empty": posted(b'{"paths": []}', where="/images/post"),
    "batch-large": posted(
        json.dumps({"paths": [{"path": f"{n}.jpg"} for n in range(1001)]}).encode(),
        where="/images/post",
    ),
    "batch-one-bad": posted(
        b'{"paths": [{"path": "good.jpg"}, {"path": "../bad.jpg"}]}', where="/images/post"
    ),
    "batch-no-objects": posted(b'{"paths": ["a.jpg"]}', where="/images/post"),
}


def form(*parts: bytes, boundary: bytes = b"b", end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


def part(header: bytes, content: bytes = b"x") -> bytes:
    return b"Content-Disposition: form-data; " + header + b"\r\n\r\n" + content


FORM: Final = {"Content-Type": "multipart/form-data; boundary=b"}
FILE: Final = b'name="files"; filename="a.jpg"'


def uploaded_form(content: bytes, headers: dict[str, str] = FORM) -> Case:
    return posted(content, headers, "/images")


CASES |= {
    "form-no-boundary": uploaded_form(b"x", {"Content-Type": "multipart/form-data"}),
    "form-cut": uploaded_form(form(part(FILE), end=b"")[:-10]),
    "form-name-null": uploaded_form(form(part(b'name="files"; filename="a\0b.jpg"'))),
    "form-no-parts": uploaded_form(b"--b--\r\n"),
    "form-10000-parts": uploaded_form(form(*[part(b'name="x"')] * 10_000)),
    "form-21-files": uploaded_form(form(*[part(FILE)] * 21)),
    "form-text-20-mib": uploaded_form(form(part(b'name="x"', b"x" * (20 << 20)), part(FILE))),
    "form-texts-1-mib": uploaded_form(
        form(*[part(b'name="x"', b"x" * ((1 << 20) - 1))] * 90, part(FILE))
    ),
    "form-long-header": uploaded_form(form(part(b'name="' + b"x" * 1_000_000 + b'"'))),
    "form-file-21-mib": uploaded_form(form(part(FILE, b"x" * (21 << 20)))),
    "form-empty-file": uploaded_form(form(part(FILE, b""))),
    "form-wrong-field": uploaded_form(form(part(b'name="other"; filename="a"'))),
    "form-long-boundary": uploaded_form(
        b"x", {"Content-Type": "multipart/form-data; boundary=" + "b" * 50_000}
    ),
}


# Over HTTP, addresses that are asked for


def asked(method: str, where: str, *, page: bool = False, **arguments: Any) -> Case:
    def run(target: Target) -> str:
        base = target.page if page else target.api
        return str(target.http(method, base + where, **arguments).status_code)

    return run


CASES |= {
    "id-zero": asked("GET", "/images/0"),
    "id-huge": asked("GET", f"/images/{2**63}"),
    "id-negative": asked("GET", "/images/-1"),
    "id-other-digits": asked("GET", "/images/%D9%A1"),
    "id-unknown": asked("DELETE", "/images/999999999"),
    "cursor-wrong": asked("GET", "/images?cursor=zz"),
    "limit-huge": asked("GET", "/images?limit=1000000000"),
    "status-unknown": asked("GET", "/images?status=x'--"),
    "method-trace": asked("TRACE", "/images/post"),
    "method-made-up": asked("FROBNICATE", "/images"),
    "delete-other-site": asked("DELETE", "/images/1", headers={"Origin": "http://evil.example"}),
    "name-dots": asked("DELETE", "/people/%2e%2e"),
    "name-slash": asked("DELETE", "/people/..%2f..%2foutside"),
    "name-null": asked("DELETE", "/people/a%00b"),
    "name-long": asked("DELETE", "/people/" + "x" * 101),
    "name-bad-utf8": asked("DELETE", "/people/%ff%fe"),
    "people-limit-huge": asked("GET", "/people?limit=1000000000"),
    "people-cursor-null": asked("GET", "/people?limit=1&cursor=a%00b%27--"),
    "people-name-pattern": asked("GET", "/people?name=" + "%25_%5c" * 33),
    "people-name-long": asked("GET", "/people?name=" + "x" * 101),
    "face-index-huge": asked(
        "POST", "/people/Ada/pictures", json={"image_id": 1, "face_index": 2**70}
    ),
    "face-of-nothing": asked(
        "POST", "/people/Ada/pictures", json={"image_id": 999_999_999, "face_index": 0}
    ),
    "page-people-cursor": asked("GET", "/people?cursor=%00%27%3Cscript%3E", page=True),
    "page-static-climbs": asked("GET", "/static/..%2fapp.py", page=True),
    "page-id-script": asked("GET", "/images/%3Cscript%3E", page=True),
    "page-other-site": asked(
        "POST", "/images/1/delete", page=True, headers={"Origin": "http://evil.example"}
    ),
}


@case("filter-sql")
def _filter_sql(target: Target) -> str:
    url = f"{target.api}/images"
    answer = target.http("GET", url, params={"person": "x' OR '1'='1"})
    return f"{answer.status_code}, {len(answer.json()['images'])} images"


@case("page-filter-script")
def _page_filter_script(target: Target) -> str:
    answer = target.http("GET", target.page, params={"person": "<script>alert(1)</script>"})
    return f"{answer.status_code}, " + ("as it is" if "<script>alert" in answer.text else "escaped")


# Over HTTP, bytes that bend the protocol


def sent(content: bytes, *, page: bool = False) -> Case:
    return lambda target: target.raw(content, page=page)


_HEAD: Final = b"POST /image/post HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_FLOOD: Final = b"".join(b"X-%d: x\r\n" % number for number in range(20_000))
CASES |= {
    "wire-raw-climbs": sent(b"GET /images/../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "wire-length-and-chunks": sent(
        _HEAD + b'Content-Length: 14\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{"path": "ab"}'
    ),
    "wire-two-lengths": sent(_HEAD + b"Content-Length: 3\r\nContent-Length: 30\r\n\r\nabc"),
    "wire-negative-length": sent(_HEAD + b"Content-Length: -1\r\n\r\n"),
    "wire-negative-chunk": sent(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n"),
    "wire-header-1-mib": sent(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n"
    ),
    "wire-header-flood": sent(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + _FLOOD + b"\r\n"),
    "wire-page-header-flood": sent(
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + _FLOOD + b"\r\n", page=True
    ),
    "wire-garbage": sent(b"\x00\xff" * 500 + b"\r\n\r\n"),
    "wire-tls": sent(bytes.fromhex("16030100") + b"\xb0" + bytes(200)),
    "wire-http2": sent(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "wire-host-missing": sent(b"GET /images HTTP/1.1\r\n\r\n"),
    "wire-host-other": sent(b"GET /images HTTP/1.1\r\nHost: rebound.example\r\n\r\n"),
    "wire-page-host-other": sent(b"GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n", page=True),
    "wire-split-header": sent(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n"),
}


# Over HTTP, files that are uploaded


def uploaded(content: bytes, name: str = "a.jpg") -> Case:
    return lambda target: f"202, then {target.final(target.upload(name, content))['status']}"


_BOMB: Final = zlib.compress(bytes(200 << 20), 9)
_GREY: Final = Image.linear_gradient("L").convert("RGB").resize((64, 64))
_TIFF: Final = b"II*\0\x08\0\0\0"
CASES |= {
    "file-text": uploaded(b"no picture at all"),
    "file-script": uploaded(b"#!/bin/sh\nid\n", "a.sh"),
    "file-svg": uploaded(b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "a.svg"),
    "file-html": uploaded(b"<html><script>alert(2)</script>", "a.jpg"),
    "file-pdf": uploaded(b"%PDF-1.7\n1 0 obj<</OpenAction 2 0 R>>"),
    "file-postscript": uploaded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run"),
    "file-zip": uploaded(b"PK\x03\x04" + bytes(100)),
    "file-pickle": uploaded(b"cos\nsystem\n(S'id'\ntR."),
    "file-zeros": uploaded(bytes(1 << 20)),
    "file-only-magic": uploaded(b"\xff\xd8\xff"),
    "file-png-60000": uploaded(png(60_000, 60_000, pixels=b"x")),
    "file-png-bomb": uploaded(png(65_535, 1, pixels=_BOMB)),
    "file-png-note-bomb": uploaded(png(64, 64, png_chunk(b"zTXt", b"a\0\0" + _BOMB))),
    "file-png-profile-bomb": uploaded(png(64, 64, png_chunk(b"iCCP", b"a\0\0" + _BOMB))),
    "file-png-long-chunk": uploaded(png(64, 64)[:33] + b"\x7f\xff\xff\xfftEXt" + b"x" * 100),
    "file-png-zero-size": uploaded(png(0, 0)),
    "file-jpeg-65500": uploaded(jpeg().replace(b"\0\x40\0\x40", b"\xff\xdc\xff\xdc", 1)),
    "file-webp-16383": uploaded(
        b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f\xff\xff\xff\x0f" + bytes(12)
    ),
    "file-heic-60000": uploaded(claims(_GREY, "HEIF", 60_000, 60_000)),
    "file-heic-lies": uploaded(claims(_GREY.resize((640, 640)), "HEIF", 64, 64)),
    "file-avif-stream": uploaded(long_stream(_GREY)),
    "file-avif-cut": uploaded(save(_GREY, "AVIF")[:-60]),
    "file-gif-65535": uploaded(claims(_GREY, "GIF", 65_535, 65_535)),
    "file-bmp-60000": uploaded(claims(_GREY, "BMP", 60_000, 60_000)),
    "file-tiff-60000": uploaded(claims(_GREY, "TIFF", 60_000, 60_000)),
    "file-tiff-notes": uploaded(many_tags()),
    "file-exif-loop": uploaded(exif_jpeg(_TIFF + b"\0\0\x08\0\0\0")),
    "file-exif-far": uploaded(exif_jpeg(_TIFF + b"\x01\0\x12\x01\x03\0\xff\xff\xff\xff\xf0\0\0\0")),
    "file-exif-turn-999": uploaded(
        exif_jpeg(_TIFF + b"\x01\0\x12\x01\x03\0\x01\0\0\0\xe7\x03\0\0" + bytes(4))
    ),
    "file-name-climbs": uploaded(b"text 1", "../../../outside/secret.jpg"),
    "file-name-script": uploaded(b"text 2", "<script>alert(4)</script>\u202e.jpg"),
    "file-name-long": uploaded(b"text 3", "x" * 2000),
}


@case("file-15000-tags")
def _file_15000_tags(target: Target) -> str:
    url = f"{target.api}/images/{target.upload('a.txt', b'no picture 5')}/picture"
    tags = '"a",' * 15_000
    other = target.http("GET", url, headers={"If-None-Match": tags})
    same = target.http("GET", url, headers={"If-None-Match": tags + other.headers["ETag"]})
    return f"{other.status_code}, {same.status_code} with its own among them"


@case("file-shown-safely")
def _file_shown_safely(target: Target) -> str:
    image_id = target.upload("a.html", b"<html><script>alert(3)</script>")
    answer = target.http("GET", f"{target.api}/images/{image_id}/picture")
    guards = (answer.headers["x-content-type-options"], answer.headers["content-security-policy"])
    assert guards == ("nosniff", "default-src 'none'; sandbox")
    return f"{answer.status_code}, {answer.headers['content-type']}"


# gRPC


def identified(**fields: Any) -> Case:
    def run(target: Target) -> str:
        stub = face_pb2_grpc.IdentifyStub(target.grpc)
        try:
            answer = stub.Identify(face_pb2.IdentifyRequest(**fields), timeout=60)
        except grpc.RpcError as error:
            return str(error.code().name)
        return face_pb2.Status.Name(answer.status).removeprefix("STATUS_")

    return run


def called(method: str, content: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> Case:
    def run(target: Target) -> str:
        call: Any = target.grpc.unary_unary(method)
        try:
            answer = call(content, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
        status = face_pb2.IdentifyResponse.FromString(answer).status
        return face_pb2.Status.Name(status).removeprefix("STATUS_")

    return run


_IDENTIFY: Final = "/facerecog.Identify/Identify"
CASES |= {
    "grpc-nothing": identified(),
    "grpc-path-climbs": identified(image_path="../../outside/secret.jpg"),
    "grpc-path-absolute": identified(image_path="//etc/passwd"),
    "grpc-path-url": identified(image_path="http://127.0.0.1:1/a.jpg"),
    "grpc-path-unknown": identified(image_path="nobody.jpg"),
    "grpc-garbage": identified(image_data=b"garbage"),
    "grpc-tolerance-nan": identified(image_data=jpeg(), tolerance=float("nan")),
    "grpc-tolerance-huge": identified(image_data=jpeg(), tolerance=float("inf")),
    "grpc-tolerance-negative": identified(image_data=jpeg(), tolerance=-1.0),
    "grpc-counts-huge": identified(
        image_data=jpeg(), max_faces=2**32 - 1, max_candidates=2**32 - 1
    ),
    "grpc-22-mib": identified(image_data=bytes(22 << 20)),
    "grpc-no-message": called(_IDENTIFY, b"\xff" * 100),
    "grpc-deep-message": called(_IDENTIFY, b"\x0b" * 100_000),
    "grpc-unknown-method": called("/facerecog.Identify/Train", b""),
    "grpc-unknown-fields": called(_IDENTIFY, b"\xfa\x7f\x03abc"),
    "grpc-metadata": called(_IDENTIFY, b"", (("image-id", "1' OR 1=1"),)),
}


# NSQ


def notified(*messages: bytes) -> Case:
    """Ring, and wait until the processor has answered all rings."""

    def run(target: Target) -> str:
        for message in messages:
            published = httpx.post(
                f"{target.nsqd.http_url}/pub", params={"topic": "images"}, content=message
            )
            assert published.is_success, published.text
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            stats = httpx.get(f"{target.nsqd.http_url}/stats", params={"format": "json"}).json()
            [topic] = stats["topics"]
            open_rings = topic["depth"] + sum(
                channel["depth"] + channel["in_flight_count"] + channel["deferred_count"]
                for channel in topic["channels"]
            )
            if not open_rings:
                return "dropped"
            assert time.monotonic() < deadline, stats
            time.sleep(0.05)

    return run


CASES |= {
    "ring-text": notified(b"hello"),
    "ring-binary": notified(bytes(range(256))),
    "ring-list": notified(b"[1, 2]"),
    "ring-no-id": notified(b"{}"),
    "ring-id-text": notified(b'{"id": "1"}'),
    "ring-id-true": notified(b'{"id": true}'),
    "ring-id-negative": notified(b'{"id": -1}'),
    "ring-id-float": notified(b'{"id": 1e400}'),
    "ring-id-huge": notified(b'{"id": %d}' % 2**70),
    "ring-id-4400-digits": notified(b'{"id": ' + b"9" * 4400 + b"}"),
    "ring-id-unknown": notified(b'{"id": 888888888}'),
    "ring-nested": notified(b"[" * 500_000),
    "ring-flood": notified(*[b'{"id": 888888888}'] * 500),
}


# Rows


def read_back(target: Target, image_id: int) -> str:
    """Have the API and the page show a row, remove it, and return the statuses."""
    page = [
        target.http("GET", f"{target.page}/images/{image_id}"),
        target.http("GET", f"{target.page}/"),
    ]
    answers = page + [
        target.http("GET", f"{target.api}{address}")
        for address in (f"/images/{image_id}", "/images", "/status")
    ]
    target.sql("DELETE FROM faces WHERE image_id = ?", image_id)
    target.sql("DELETE FROM images WHERE id = ?", image_id)
    assert not any("<script>alert" in answer.text for answer in page)
    return " ".join(sorted({str(answer.status_code) for answer in answers}))


def pending(path: str, **columns: object) -> Case:
    return lambda target: str(target.final(target.row(path, **columns))["status"])


def shown(path: str, **columns: object) -> Case:
    return lambda target: read_back(
        target, target.row(path, **{"status": "rejected", "due_at": None, **columns})
    )


def face(**columns: object) -> Case:
    def run(target: Target) -> str:
        image_id = target.row(f"face-{id(columns)}", status="processed", due_at=None)
        values: dict[str, object] = {
            "image_id": image_id,
            "face_index": 0,
            '"left"': 1,
            "top": 1,
            '"right"': 9,
            "bottom": 9,
            "detection_score": 1.0,
            "ambiguous": 0,
            "candidates": "[]",
            **columns,
        }
        marks = ", ".join("?" * len(values))
        target.sql(f"INSERT INTO faces ({', '.join(values)}) VALUES ({marks})", *values.values())
        return read_back(target, image_id)

    return run


_SCRIPT: Final = "<script>alert(4)</script>"
CASES |= {
    "row-path-climbs": pending("../../outside/secret.jpg"),
    "row-path-absolute": pending("//etc/passwd"),
    "row-path-null": pending("a\0b"),
    "row-path-empty": pending(""),
    "row-attempt-huge": pending("row-attempt", attempt=2**31),
    "row-attempt-negative": pending("row-attempt-negative", attempt=-5),
    "row-due-never": pending("row-due-never", due_at=2**62),
    "row-error-script": shown("row-error", error=_SCRIPT),
    "row-name-script": shown("row-name", name=_SCRIPT),
    "row-times-huge": shown("row-times", created_at=2**62, updated_at=-(2**62)),
    "row-engine-turned": shown("row-engine", engine="\u202e"),
    "row-state-unknown": shown("row-state", status="archived"),
    "row-size-negative": shown("row-size", width=-1, height=0),
    "face-candidates-text": face(candidates="not json"),
    "face-candidates-shape": face(candidates='{"a": 1}'),
    "face-candidates-fields": face(candidates='[{"person": 5}, null]'),
    "face-box-turned": face(**{'"left"': 900, '"right"': -900}),
    "face-person-script": face(person=_SCRIPT, distance=0.1),
    "face-distance-infinite": face(person="x", distance=float("inf")),
}


# The picture folder


def found(name: str, make: Callable[[Target, Path], object]) -> Case:
    """Something that lies in the picture folder, submitted by its path."""

    def run(target: Target) -> str:
        path = target.pictures / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make(target, path)
        return submitted(name)(target)

    return run


def _sparse(size: int) -> Callable[[Target, Path], None]:
    def make(_: Target, path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def _socket(_: Target, path: Path) -> None:
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)  # an address has at most 108 bytes
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


def _linked_folder(target: Target, path: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to(target.outside)


CASES |= {
    "folder-link-outside": found("link.jpg", lambda target, path: path.symlink_to(target.secret)),
    "folder-linked-folder": found("linked/secret.jpg", _linked_folder),
    "folder-link-loop": found("loop.jpg", lambda _, path: path.symlink_to(path)),
    "folder-link-nowhere": found("gone.jpg", lambda _, path: path.symlink_to("/nowhere/x")),
    "folder-pipe": found("pipe.jpg", lambda _, path: os.mkfifo(path)),
    "folder-socket": found("socket.jpg", _socket),
    "folder-folder": found("folder.jpg", lambda _, path: path.mkdir()),
    "folder-empty-file": found("empty.jpg", lambda _, path: path.touch()),
    "folder-1-tib": found("large.jpg", _sparse(1 << 40)),
    "folder-name-bytes": found(
        "plain.jpg",
        lambda _, path: (
            Path(os.fsdecode(bytes(path.parent) + b"/\xff\xfe.jpg")).write_bytes(b"x")
            and path.write_bytes(jpeg())
        ),
    ),
}


def known(*make: Callable[[Target, Path], object]) -> Case:
    """Something that lies among the known people, beside one who must still be known."""

    def run(target: Target) -> str:
        folder = target.known / "Hostile"
        folder.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(make):
            one(target, folder / f"{number}-{time.time_ns()}.jpg")
        eileen = target.known / "Eileen" / f"{time.time_ns()}.png"
        eileen.parent.mkdir(exist_ok=True)
        eileen.write_bytes(sample("astronaut.png").read_bytes())
        stub = face_pb2_grpc.IdentifyStub(target.grpc)
        request = face_pb2.IdentifyRequest(image_data=eileen.read_bytes())
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            name = stub.Identify(request, timeout=60).image_name
            if name == f"Eileen/{eileen.name}":
                eileen.unlink()
                return "the others are known"
            assert time.monotonic() < deadline, name
            time.sleep(0.2)

    return run


CASES |= {
    "known-link-outside": known(lambda target, path: path.symlink_to(target.secret)),
    "known-pipe": known(lambda _, path: os.mkfifo(path)),
    "known-empty": known(lambda _, path: path.touch()),
    "known-1-tib": known(_sparse(1 << 40)),
    "known-garbage": known(lambda _, path: path.write_bytes(os.urandom(1000))),
    "known-name-bytes": known(
        lambda _, path: Path(os.fsdecode(bytes(path.parent) + b"/\xff\xfe.jpg")).write_bytes(b"x")
    ),
    "known-deep": known(lambda _, path: (path.with_suffix("") / "a" / "b").mkdir(parents=True)),
}


def table() -> dict[str, str]:
    """The answers that the documentation promises, by the name of the input."""
    text = TABLE.read_text()
    assert HEADING in text
    section = text.split(HEADING)[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([a-z0-9-]+)` \|[^|]*\| ([^|]+?) \|$", section, re.MULTILINE))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "outside").mkdir()
    (folder / "outside" / "secret.jpg").write_bytes(sample("grace_hopper.jpg").read_bytes())
    lookupd = Nsqlookupd(folder).start()
    nsqd = Nsqd(folder, lookupd).start()
    settings = {
        "NSQD_URL": nsqd.http_url,
        "NSQLOOKUPD_URLS": json.dumps([lookupd.http_url]),
        "WATCH_SECONDS": "0.5",
    }
    try:
        with running(folder / "pipeline", with_keys=False, **settings) as pipeline:
            target = Target(folder, pipeline, nsqd)
            yield target
            target.close()
    finally:
        nsqd.stop()
        lookupd.stop()


def test_the_table_and_the_inputs_are_the_same() -> None:
    assert set(table()) == set(CASES)
    assert len(CASES) >= 80


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_input_gets_its_answer(target: Target, name: str) -> None:
    answer = CASES[name](target)
    target.check()
    assert answer == table()[name]
