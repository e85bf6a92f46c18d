"""Breaking any one field turns a rule red, or else the schemas, Pod Security or kube-score.

The mutations are made from the documents themselves, one of each shape, so a new field has to be
covered too: by a rule, by a tool, or by a line below that says why any value will do.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import yaml

from scripts.manifests import tools
from scripts.manifests.model import Document, Finding, Manifests
from scripts.manifests.rules import GENERAL, PIPELINE
from scripts.manifests.tests.mutations import mutations
from scripts.manifests.tests.rendering import facts

SHOWN: Final = "the cluster tests show"
FREE: Final = (
    (r"^\S+ metadata(\.name| taken)", "kustomize refuses what has none; whoever names it finds it"),
    (r"metadata\.labels\.(app\.kubernetes\.io/name|access)", "those of pods count"),
    (r"jobTemplate\.metadata", "those of pods count"),
    (r"^PodDisruptionBudget/\S+ (taken|spec\.selector)", "kube-score wants one of each workload"),
    (r"^PriorityClass/\S+ metadata\.labels", "without it nothing of ours is about it"),
    (r"^Role(Binding)?/", "a right too few: " + SHOWN),
    (r" description", "it is for people"),
    (r"volumeMounts\[\d+\]\.readOnly", "Kubernetes mounts every Secret for reading only"),
    (r"volumeMounts\[\d+\]\.mountPath", SHOWN),
    (r"ttlSecondsAfterFinished", "Flux takes it away"),
    (r"/(mariadb|nsqd|nsqlookupd|object-store) .*\.(args|command|env|httpGet)", SHOWN),
    (r"^StatefulSet/.*(exec|initContainers|volume|terminationGrace)", SHOWN),
    (r"\.nodePort|externalTrafficPolicy", "the cluster tests come in there"),
    (r"publishNotReadyAddresses", SHOWN),
    (r"^CronJob/\S+ spec\.schedule", "any time will do"),
    (r"^Job/certificates-\S+ taken away", SHOWN),
    (r"^Job/migrations-\S+ .*sources\[(5|11)\]", "backup's, which is a unit of its own"),
    (r"^Job/migrations-\S+ .*env\[5\]", "how long it waits has a default"),
    (r"replicas taken away|failureThreshold taken away", "the default will do"),
    (r"^Deployment/webhooks taken away", "kube-score finds its network policy without pods"),
    (r"^Deployment/nsqlookupd .*topologySpread", "it is one pod"),
    (r"^Deployment/webhooks .*volumes\[1\]", "an operator brings it"),
    (r"facestack\.dev/except", "make validate misses the fact pod_network then"),
    (r"^ValidatingAdmissionPolicy(Binding)?/\S+ spec\.[mv]", "tried on the cluster"),
)


def shape(node: Any, path: str = "") -> frozenset[str]:
    """Return the paths of a document's fields, whatever is in them and however many there are."""
    if isinstance(node, dict):
        # Of labels and annotations it counts whose they are.
        whose = {key: key.partition("/")[0] for key in node}
        return frozenset().union(*(shape(node[key], f"{path}.{whose[key]}") for key in node))
    if isinstance(node, list):
        return frozenset().union(*(shape(value, f"{path}[]") for value in node))
    return frozenset({path})


def one_of_each(documents: list[Document]) -> list[Document]:
    """Return documents that together have every field that any of its kind has."""
    chosen: list[Document] = []
    covered: dict[str, frozenset[str]] = {}
    for document in sorted(documents, key=lambda one: -len(shape(one))):
        mine, before = shape(document), covered.get(document["kind"], frozenset())
        if mine - before:
            chosen.append(document)
            covered[document["kind"]] = before | mine
    return chosen


def survivors(documents: list[Document], seen: Counter[str]) -> Iterator[tuple[Document, str]]:
    """Yield what no rule sees, and count what each rule sees."""
    # The rule that saw the last mutation often sees the next one.
    rules = [*((rule, False) for rule in GENERAL), *((rule, True) for rule in PIPELINE)]
    known = facts("kind")
    for document, what in mutations(documents, one_of_each(documents)):
        manifests = Manifests(documents, known)
        for index, (rule, inside) in enumerate(rules):
            if next(rule(manifests.pipeline if inside else manifests), None):
                seen[str(rule)] += 1
                rules.insert(0, rules.pop(index))
                break
        else:
            yield document, what


def free(what: str) -> str | None:
    """Return the line that says why any value of a field will do."""
    return next((pattern for pattern, _ in FREE if re.search(pattern, what)), None)


def said(documents: list[Document], extra: list[Document]) -> dict[str, set[str]]:
    """Return what tools say of more documents, by their names."""
    answers: dict[str, set[str]] = {}

    def note(findings: Iterable[Finding]) -> None:
        for finding in findings:
            name = finding.where.partition("/")[2]
            answers.setdefault(name, set()).add(f"{finding.field}: {finding.problem}")

    note(tools.kubeconform(yaml.safe_dump_all(extra)))
    # Others cannot even read what does not fit its schema.
    extra = [one for one in extra if one["metadata"]["name"] not in answers]
    note(tools.pod_security(Manifests(extra)))
    note(tools.kube_score(yaml.safe_dump_all([*documents, *extra]), "kind"))
    return answers


def test_each_broken_field_is_seen(
    overlay_documents: dict[str, list[Document]], tool: Callable[[str], str]
) -> None:
    for program in ("kubeconform", "kube-score", "flux-build"):
        tool(program)
    documents = overlay_documents["kind"]
    before = json.dumps(documents, sort_keys=True)
    seen: Counter[str] = Counter()
    used: set[str] = set()
    unseen: dict[str, tuple[str, Document]] = {}
    for document, what in survivors(documents, seen):
        if pattern := free(what):
            used.add(pattern)
        else:
            name = f"m{len(unseen)}"
            broken = json.loads(json.dumps(document))
            broken["metadata"] = {**broken.get("metadata", {}), "name": name}
            unseen[name] = (what, broken)
    assert json.dumps(documents, sort_keys=True) == before
    assert seen.total() > 1000
    answers = said(documents, [broken for _, broken in unseen.values()])
    plain = [
        {**one, "metadata": {**one["metadata"], "name": f"plain-{one['kind']}".lower()}}
        for one in one_of_each(documents)
    ]
    usual = said(documents, plain)
    left = [
        what
        for name, (what, broken) in unseen.items()
        if not answers.get(name, set()) - usual.get(f"plain-{broken.get('kind')}".lower(), set())
    ]
    assert left == []
    assert {pattern for pattern, _ in FREE} == used
