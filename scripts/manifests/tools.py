"""The tools of others that look at manifests too, and which of what they say is so on purpose."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from scripts.manifests import schemas
from scripts.manifests.model import Finding, Manifests, mapping
from scripts.manifests.rules.fields import checks

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
    if schemas.CACHE.is_dir():
        return schemas.CACHE
    raise MissingToolError(f"the schemas are missing or old: run '{INSTALL}'")


def ask(manifest: str, name: str, *arguments: str) -> Any:
    """Return what a program says, as JSON, of what it gets on its standard input."""
    command = [binary(name), *arguments]
    done = subprocess.run(command, input=manifest, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise RuntimeError(f"{name} ended with {done.returncode} and said: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def kubeconform(manifest: str) -> Iterator[Finding]:
    """Check every document against its schema; one without a schema is a finding."""
    schema = "{{.Group}}/{{.ResourceKind}}-{{.ResourceAPIVersion}}.json"
    location = f"-schema-location={schema_folder()}/{schema}"
    said = ask(manifest, "kubeconform", "-strict", "-output=json", "-n=1", location)
    for wrong in said["resources"]:
        # kubeconform says it all in one line: at '/spec', this; at '/spec/template', that.
        problems = _PROBLEM.findall(wrong["msg"]) or [("apiVersion, kind", wrong["msg"])]
        for field, problem in problems:
            place = field.strip("/").replace("/", ".") or "fields"
            yield Finding(f"{wrong['kind']}/{wrong['name']}", place, problem.strip())


_PROBLEM: Final = re.compile(r"- at '([^']*)': (.+?)(?=- at '|$)", re.DOTALL)


def pod_security(manifest: str) -> Iterator[Finding]:
    """Ask Pod Security's own evaluator, at the level that each pod's namespace enforces."""
    manifests = Manifests(filter(None, yaml.load_all(manifest, yaml.CSafeLoader)))
    pods = []
    for workload in manifests.workloads:
        namespace = manifests.find("Namespace", workload.namespace)
        pods.append({"labels": mapping(namespace, "metadata.labels"), "pod": workload.template})
    answers = ask(json.dumps(pods), "flux-build", "pod-security")
    for workload, forbidden in zip(manifests.workloads, answers, strict=True):
        for reason, detail in forbidden.items():
            yield workload.finding(reason, detail)


def kube_score(manifest: str) -> Iterator[Finding]:
    """Check with kube-score; a warning counts, and no annotation silences it."""
    how = (f"--kubernetes-version=v1.{schemas.MINOR}", "--disable-ignore-checks-annotations")
    for scored in ask(manifest, "kube-score", "score", "-", "--output-format=json", *how):
        where = f"{scored['type_meta']['kind']}/{scored['object_meta']['name']}"
        for check in scored["checks"]:
            if not check["skipped"] and check["grade"] < _KUBE_SCORE_OK:
                said = {str(c["summary"]) for c in check["comments"] or []}
                about = "; ".join([check["check"]["name"], *sorted(said)])
                yield Finding(where, check["check"]["id"], about)


_KUBE_SCORE_OK: Final = 10


def checkov(manifest: str) -> Iterator[Finding]:
    """Check with checkov, which asks nobody over the network."""
    how = ("--framework=kubernetes", "--skip-download", "--compact", "--output=json")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(manifest)
        file.flush()
        report = ask("", "checkov", f"--file={file.name}", *how)
    if report["summary"]["passed"] == 0:
        raise RuntimeError("checkov checked nothing")
    for error in report["results"]["parsing_errors"]:
        yield Finding("checkov", "parsing", str(error))
    for failed in report["results"]["failed_checks"]:
        kind, _, name = failed["resource"].split(".", maxsplit=2)
        yield Finding(f"{kind}/{name}", failed["check_id"], failed["check_name"])


OPINIONS: Final = {"kube-score": kube_score, "checkov": checkov}
"""Those that look at the pipeline alone, and that base/checks.yaml has exceptions for."""


Said: TypeAlias = tuple[str, str, Finding]
"""On the clusters of which overlay a tool has found what."""


def _covers(exception: Mapping[str, str], said: Said) -> bool:
    """Tell whether a line of base/checks.yaml is about what a tool has found."""
    overlay, tool, finding = said
    about = (exception.get("in", overlay), exception["tool"], exception["check"])
    where = re.fullmatch(exception["of"], finding.where)
    return about == (overlay, tool, finding.field) and where is not None


def remaining(found: Iterable[Said]) -> Iterator[Finding]:
    """Yield the findings that no exception covers."""
    for said in found:
        if not any(_covers(line, said) for line in checks()["exceptions"]):
            yield said[2]


def unused(found: Collection[Said]) -> Iterator[Finding]:
    """Yield the exceptions that nothing of all that was found needs."""
    for line in checks()["exceptions"]:
        if not any(_covers(line, said) for said in found):
            where = f"base/checks.yaml: {line['tool']} {line['check']}"
            yield Finding(where, line["of"], "no finding needs it: take it away")
