"""The tools of others that look at manifests too: kubeconform, kube-score and checkov."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from scripts.manifests import schemas
from scripts.manifests.model import Finding

_TOOLS: Final = schemas.ROOT / ".tools"
INSTALL: Final = "scripts/manifest-tools"


class MissingToolError(Exception):
    """Something is not installed; the message says what to do."""


def binary(name: str, install: str = INSTALL) -> str:
    """Return the path of a program; ``install`` is what brings it."""
    folders = (_TOOLS / "bin", _TOOLS / "checkov" / "bin")
    if found := shutil.which(name, path=":".join([*map(str, folders), os.environ["PATH"]])):
        return found
    raise MissingToolError(f"{name} is not installed: run '{install}'")


def schema_folder() -> Path:
    """Return the folder with the schemas."""
    if schemas.is_current():
        return schemas.CACHE
    raise MissingToolError(f"the schemas are missing or old: run '{INSTALL}'")


def _run(command: Sequence[str], manifest: str | None = None) -> str:
    done = subprocess.run(command, input=manifest, capture_output=True, text=True, check=False)
    if not done.stdout:
        tail = done.stderr.strip()[-500:]
        raise RuntimeError(f"{command[0]} ended with {done.returncode} and said: {tail}")
    return done.stdout


def kubeconform(manifest: str) -> Iterator[Finding]:
    """Check every document against its schema; one without a schema is a finding."""
    schema_folder()
    command = [binary("kubeconform"), "-strict", "-output", "json", "-verbose", "-n", "1"]
    answer = json.loads(_run([*command, "-schema-location", schemas.location()], manifest))
    for result in answer["resources"]:
        if result["status"] != "statusValid":
            where = f"{result['kind']}/{result['name']}"
            # kubeconform says it all in one line: at '/spec', this; at '/spec/template', that.
            problems = _PROBLEM.findall(result["msg"]) or [("apiVersion, kind", result["msg"])]
            for field, problem in problems:
                yield Finding(where, field.strip("/").replace("/", "."), problem.strip())


_PROBLEM: Final = re.compile(r"- at '([^']*)': (.+?)(?=- at '|$)", re.DOTALL)


def kube_score(manifest: str) -> Iterator[Finding]:
    """Check with kube-score; a warning counts, and no annotation silences it."""
    command = [binary("kube-score"), "score", "-", "-o", "json"]
    command += [f"--kubernetes-version=v1.{schemas.MINOR}", "--disable-ignore-checks-annotations"]
    for scored in json.loads(_run(command, manifest)):
        where = f"{scored['type_meta']['kind']}/{scored['object_meta']['name']}"
        for check in scored["checks"]:
            if not check["skipped"] and check["grade"] < _KUBE_SCORE_OK:
                said = {str(c["summary"]) for c in check["comments"] or []}
                about = check["check"]["name"] + "".join(f"; {summary}" for summary in sorted(said))
                yield Finding(where, check["check"]["id"], about)


_KUBE_SCORE_OK: Final = 10


def checkov(manifest: str) -> Iterator[Finding]:
    """Check with checkov, which asks nobody over the network."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "manifest.yaml"
        file.write_text(manifest)
        command = [binary("checkov"), "--file", str(file), "--framework", "kubernetes"]
        answer = json.loads(_run([*command, "--skip-download", "--compact", "--output", "json"]))
    reports: list[dict[str, Any]] = answer if isinstance(answer, list) else [answer]
    if sum(report["summary"]["passed"] for report in reports) == 0:
        raise RuntimeError("checkov checked nothing")
    for report in reports:
        for error in report["results"]["parsing_errors"]:
            yield Finding("checkov", "parsing", str(error))
        for failed in report["results"]["failed_checks"]:
            kind, _, name = failed["resource"].split(".", maxsplit=2)
            yield Finding(f"{kind}/{name}", failed["check_id"], failed["check_name"])
