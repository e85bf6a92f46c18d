"""Ask a database of vulnerabilities about what every lock file pins, by pip-audit."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scripts.supply import locks

EXCEPTIONS: Final = Path(__file__).with_name("exceptions.toml")
OSV_URL: Final = "https://api.osv.dev/v1/query"

_Text = Annotated[str, Field(min_length=1)]


class AuditError(Exception):
    """A vulnerability that may not stay, or an audit that could not be made: one line for each."""


class Excepted(BaseModel):
    """A vulnerability of a distribution that may stay, why, and up to which day (UTC)."""

    model_config = ConfigDict(extra="forbid", strict=True)
    vulnerability: _Text
    distribution: _Text
    reason: _Text
    until: date


class _Exceptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    exceptions: list[Excepted] = []


def exceptions(file: Path) -> Sequence[Excepted]:
    """Read a file of exceptions. Raises AuditError when it is not of that form."""
    try:
        return _Exceptions.model_validate(tomllib.loads(file.read_text("utf-8"))).exceptions
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise AuditError(f"{file.name} is not as it should be: {error}") from error


def audit(files: Iterable[Path], osv_url: str, excepted: Sequence[Excepted]) -> Sequence[str]:
    """Return what there is to say when nothing is found but what is excepted; else AuditError."""
    pinned = {file: {(pin.name, pin.version) for pin in locks.pins(file)} for file in files}
    asked: set[tuple[str, str]] = set()
    wrong: list[str] = []
    notes: list[str] = []
    needed: list[Excepted] = []
    today = datetime.now(UTC).date()
    # Most are cut from the longest one: each pin is asked for once, in a file that has others.
    for file in sorted(pinned, key=lambda file: (-len(pinned[file]), file)):
        if pinned[file] <= asked:
            continue
        for found in _ask(file, osv_url, len(pinned[file])):
            name, version = found["name"], found["version"]
            if (name, version) in asked:
                continue
            where = ", ".join(sorted(f.name for f in pinned if (name, version) in pinned[f]))
            for vulnerability in found["vulns"]:
                what = f"{name} {version} has {_told(vulnerability)}; in {where}"
                exception = _exception(name, vulnerability, excepted)
                if not exception:
                    wrong.append(what)
                    continue
                needed.append(exception)
                if exception.until < today:
                    wrong.append(f"{what}; it was excepted until {exception.until}")
                else:
                    notes.append(f"{what}; excepted until {exception.until}: {exception.reason}")
        asked |= pinned[file]
    if wrong:
        raise AuditError("\n".join(wrong))
    notes += [
        f"{one.vulnerability} of {one.distribution} is not found: remove its exception"
        for one in excepted
        if one not in needed
    ]
    return [*notes, f"{len(asked)} versions in {len(pinned)} lock files, nothing else is known."]


def _ask(file: Path, osv_url: str, pins: int) -> Sequence[Mapping[str, Any]]:
    """Return pip-audit's findings. Raises AuditError unless it had an answer for every pin."""
    command = [sys.executable, "-m", "pip_audit", f"--requirement={file}", "--disable-pip"]
    command += ["--strict", "--format=json", "--progress-spinner=off"]
    command += ["--vulnerability-service=osv", f"--osv-url={osv_url}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: Sequence[Mapping[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        *_, reason = ["pip-audit said nothing", *done.stderr.split("\n")[:-1]]
        raise AuditError(
            f"{file.name} could not be audited, so nothing is known of it: does {osv_url} answer?"
            f" {reason}"
        ) from None
    # It warns of what the database says and it cannot read, and counts that as nothing found.
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING:pip_audit")]
    if warnings or len(found) != pins:
        raise AuditError(f"{file.name} was audited in part only: " + "; ".join(warnings))
    return found


def _exception(
    name: str, vulnerability: Mapping[str, Any], excepted: Iterable[Excepted]
) -> Excepted | None:
    names = {vulnerability["id"], *vulnerability["aliases"]}
    return next((e for e in excepted if e.distribution == name and e.vulnerability in names), None)


def _told(vulnerability: Mapping[str, Any]) -> str:
    names = ", ".join([vulnerability["id"], *sorted(vulnerability["aliases"])])
    fixed = " or ".join(vulnerability["fix_versions"])
    return f"{names}: {vulnerability['description']} ({f'fixed in {fixed}' if fixed else 'no fix'})"
