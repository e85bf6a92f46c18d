"""The tools of others that look at manifests too."""

import json
import re
from collections.abc import Iterator
from typing import Final

from scripts.manifests import schemas
from scripts.manifests.model import Finding, Manifests, mapping
from scripts.manifests.rules.fields import checks
from scripts.programs import INSTALL, ProgramError, ask


def kubeconform(manifest: str) -> Iterator[Finding]:
    """Check every document against its schema; one without a schema is a finding."""
    schema = "{{.Group}}/{{.ResourceKind}}-{{.ResourceAPIVersion}}.json"
    location = f"-schema-location={schemas.CACHE}/{schema}"
    if not schemas.CACHE.is_dir():
        raise ProgramError(f"the schemas are missing or old: run '{INSTALL}'")
    said = ask(manifest, "kubeconform", "-strict", "-output=json", "-n=1", location)
    for wrong in said["resources"]:
        # kubeconform says it all in one line: at '/spec', this; at '/spec/template', that.
        problems = _PROBLEM.findall(wrong["msg"]) or [("apiVersion, kind", wrong["msg"])]
        for field, problem in problems:
            place = field.strip("/").replace("/", ".") or "fields"
            yield Finding(f"{wrong['kind']}/{wrong['name']}", place, problem.strip())


_PROBLEM: Final = re.compile(r"- at '([^']*)': (.+?)(?=- at '|$)", re.DOTALL)


def pod_security(manifests: Manifests) -> Iterator[Finding]:
    """Ask Pod Security's own evaluator, at the level that each pod's namespace enforces."""
    pods = []
    for workload in manifests.workloads:
        namespace = manifests.find("Namespace", workload.namespace)
        pods.append({"labels": mapping(namespace, "metadata.labels"), "pod": workload.template})
    answers = ask(json.dumps(pods), "flux-build", "pod-security")
    for workload, forbidden in zip(manifests.workloads, answers, strict=True):
        for reason, detail in forbidden.items():
            yield workload.finding(reason, detail)


def kube_score(manifest: str, overlay: str) -> Iterator[Finding]:
    """Check with kube-score; a warning counts, and base/checks.yaml alone has exceptions."""
    how = (f"--kubernetes-version=v1.{schemas.MINOR}", "--disable-ignore-checks-annotations")
    for scored in ask(manifest, "kube-score", "score", "-", "--output-format=json", *how):
        where = f"{scored['type_meta']['kind']}/{scored['object_meta']['name']}"
        excepted = {
            line["check"]
            for line in checks()["exceptions"]
            if line.get("in", overlay) == overlay and re.fullmatch(line["of"], where)
        }
        for check in scored["checks"]:
            what = check["check"]
            good = check["skipped"] or check["grade"] >= _KUBE_SCORE_OK or what["id"] in excepted
            if not good:
                said = {str(c["summary"]) for c in check["comments"] or []}
                yield Finding(where, what["id"], "; ".join([what["name"], *sorted(said)]))


_KUBE_SCORE_OK: Final = 10
