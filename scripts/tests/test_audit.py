"""The real pip-audit on lock files, and a database with made-up vulnerabilities."""

import json
import os
import subprocess
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture
def known() -> dict[str, Any]:
    """Return what the database answers, by distribution."""
    return {}


@pytest.fixture
def osv(
    known: dict[str, Any],
    serve: Callable[[type[BaseHTTPRequestHandler]], str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
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

    return f"{serve(Answer)}/v1/query"


Run = Callable[[str, str], tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that audits two lock files with these exceptions."""
    lock = "".join(
        f"{name}==1.0 --hash=sha256:{'0' * 64}\n" for name in ("ended", "excepted", "grave")
    )
    (tmp_path / "one.txt").write_text(lock + f"well==1.0 --hash=sha256:{'0' * 64}\n")
    (tmp_path / "two.txt").write_text(lock)

    def _run(osv: str, exceptions: str) -> tuple[int, str]:
        (tmp_path / "exceptions").write_text(f"# what may stay\n{exceptions}")
        files = [f"--requirement={tmp_path / name}" for name in ("one.txt", "two.txt")]
        done = subprocess.run(
            [ROOT / "scripts" / "audit", f"--osv-url={osv}", *files],
            env={**os.environ, "AUDIT_EXCEPTIONS": str(tmp_path / "exceptions")},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return _run


def vulnerability(name: str, **other: object) -> dict[str, Any]:
    affected = {
        "package": {"name": name, "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
    }
    found = {"id": f"GHSA-{name}", "aliases": [f"CVE-{name}"], "summary": "made up"}
    return {"vulns": [found | {"affected": [affected]} | other]}


def test_only_what_is_excepted_and_not_past_its_day_may_stay(
    osv: str, known: dict[str, Any], run: Run
) -> None:
    known.update({name: vulnerability(name) for name in ("ended", "excepted", "grave")})
    exceptions = "GHSA-ended 2000-01-01 unused\nCVE-excepted 2999-12-31 nothing calls it\n"
    code, said = run(osv, exceptions)
    assert code == 1
    told = {line.split()[0]: line for line in said.splitlines() if " 1.0 " in line}
    assert told.keys() == {"ended", "grave"}
    assert "CVE-grave" in told["grave"]
    assert "1.1" in told["grave"]
    del known["ended"], known["grave"]
    code, said = run(osv, exceptions)
    assert code == 0
    assert "No known vulnerabilities found, 1 ignored" in said


def test_a_database_that_is_away_is_no_clean_bill(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    code, said = run("http://127.0.0.1:9/v1/query", "")
    assert code == 1
    assert "Connection refused" in said


def test_what_the_database_says_and_pip_audit_cannot_read_is_no_clean_bill(
    osv: str, known: dict[str, Any], run: Run
) -> None:
    known["well"] = vulnerability("well", schema_version="2.0.0")
    code, said = run(osv, "")
    assert code == 1
    assert "Unsupported OSV schema version: 2.0.0" in said
    assert "not all of it could be audited" in said


@pytest.mark.parametrize("exception", ["GHSA-grave soon unused", "GHSA-grave 2999-12-31"])
def test_an_exception_needs_a_reason_and_a_day(
    osv: str, known: dict[str, Any], run: Run, exception: str
) -> None:
    known["grave"] = vulnerability("grave")
    code, said = run(osv, f"{exception}\n")
    assert code == 1
    assert "GHSA-grave" in said
