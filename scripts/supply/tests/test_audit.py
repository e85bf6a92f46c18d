"""The real pip-audit on lock files, and a database with made-up vulnerabilities."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.supply import audit
from scripts.supply.__main__ import main


@pytest.fixture
def known() -> dict[str, Any]:
    """Return what the database answers, by distribution."""
    return {}


@pytest.fixture
def osv(known: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start a database that speaks OSV's API, and give its address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.dumps(known.get(asked["package"]["name"], {})).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, str], tuple[int, str]]:
    """Return a function that audits two lock files with these exceptions."""
    lock = "".join(
        f"{name}==1.0 --hash=sha256:{'0' * 64}\n" for name in ("ended", "excepted", "grave")
    )
    (tmp_path / "one.txt").write_text(lock + f"well==1.0 --hash=sha256:{'0' * 64}\n")
    (tmp_path / "two.txt").write_text(lock)

    def _run(osv: str, exceptions: str) -> tuple[int, str]:
        file = tmp_path / "exceptions.toml"
        file.write_text(exceptions)
        monkeypatch.setattr(audit, "EXCEPTIONS", file)
        files = [str(tmp_path / name) for name in ("one.txt", "two.txt")]
        code = main(["audit", "--osv-url", osv, *files])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return _run


def vulnerability(name: str, **other: object) -> dict[str, Any]:
    affected = {
        "package": {"name": name, "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
    }
    found = {"id": f"GHSA-{name}", "aliases": [f"CVE-{name}"], "summary": "made up"}
    return {"vulns": [found | {"affected": [affected]} | other]}


def exception(name: str, until: str, vulnerability: str = "GHSA") -> str:
    return f"""
[[exceptions]]
vulnerability = "{vulnerability}-{name}"
distribution = "{name}"
reason = "nothing calls it"
until = {until}
"""


def test_only_what_is_excepted_and_not_past_its_day_may_stay(
    osv: str, known: dict[str, Any], run: Callable[[str, str], tuple[int, str]]
) -> None:
    known.update({name: vulnerability(name) for name in ("ended", "excepted", "grave")})
    exceptions = exception("ended", "2000-01-01") + exception("excepted", "9999-12-31", "CVE")
    exceptions += exception("grave", "9999-12-31").replace('= "grave"', '= "well"')
    code, said = run(osv, exceptions)
    assert code == 1
    where = "made up (fixed in 1.1); in one.txt, two.txt"
    assert said.splitlines() == [
        f"audit: ended 1.0 has CVE-ended, GHSA-ended: {where}; it was excepted until 2000-01-01",
        f"audit: grave 1.0 has CVE-grave, GHSA-grave: {where}",
    ]

    del known["ended"], known["grave"]
    code, said = run(osv, exceptions)
    reason = "excepted until 9999-12-31: nothing calls it"
    assert code == 0
    assert said.splitlines() == [
        f"excepted 1.0 has CVE-excepted, GHSA-excepted: {where}; {reason}",
        "GHSA-ended of ended is not found: remove its exception",
        "GHSA-grave of well is not found: remove its exception",
        "4 versions in 2 lock files, nothing else is known.",
    ]


def test_a_database_that_is_away_is_no_clean_bill(
    run: Callable[[str, str], tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    code, said = run("http://127.0.0.1:9/v1/query", "")
    assert code == 1
    assert "one.txt could not be audited, so nothing is known of it" in said
    assert "does http://127.0.0.1:9/v1/query answer?" in said
    assert "Connection refused" in said


def test_what_the_database_says_and_pip_audit_cannot_read_is_no_clean_bill(
    osv: str, known: dict[str, Any], run: Callable[[str, str], tuple[int, str]]
) -> None:
    known["well"] = vulnerability("well", schema_version="2.0.0")
    code, said = run(osv, "")
    assert code == 1
    assert "one.txt was audited in part only: WARNING" in said
    assert "Unsupported OSV schema version: 2.0.0" in said


@pytest.mark.parametrize(
    ("exceptions", "said"),
    [
        ("[[exceptions]]\nvulnerability = 1", "exceptions.0.vulnerability"),
        (exception("a", "'soon'"), "exceptions.0.until"),
        (exception("a", "2027-01-31").replace("nothing calls it", ""), "exceptions.0.reason"),
        (exception("a", "2027-01-31") + "forever = true", "exceptions.0.forever"),
        ("[exceptions", "exceptions.toml is not as it should be"),
    ],
)
def test_an_exception_needs_a_reason_and_a_day(
    run: Callable[[str, str], tuple[int, str]], exceptions: str, said: str
) -> None:
    code, printed = run("http://127.0.0.1:9/v1/query", exceptions)
    assert code == 1
    assert said in printed


def test_the_exceptions_that_are_kept_are_as_they_should_be() -> None:
    audit.exceptions(audit.EXCEPTIONS)
