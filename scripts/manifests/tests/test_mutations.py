"""Breaking any one field of any overlay turns a rule, or else the schema check, red.

The mutations are made from the documents themselves, so a new field has to be covered too: by a
rule, or by a line below that says why any value will do.
"""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from scripts.manifests import schemas, tools
from scripts.manifests.model import Document, Manifests
from scripts.manifests.rendering import overlays
from scripts.manifests.rules import RULES
from scripts.manifests.tests.mutations import mutations

FREE: Final = (
    (r" description", "it is for people"),
    (r"^(PodDisruptionBudget|NetworkPolicy|Role|RoleBinding|Ingress)/\S+ metadata\.name", "a name"),
    (
        r"^(NetworkPolicy|Ingress)/\S+ metadata\.labels\.app\.kubernetes\.io/name",
        "it is for people",
    ),
    (r"volumeClaimTemplates\[0\]\.metadata\.labels", "they are for people"),
    (r"^ConfigMap/\S+ data\.S3_REGION", "versitygw has none; AWS has many"),
    (r"^ExternalSecret/\S+-key spec\.data\[1\] taken away", "a key before is not always there"),
    (r"^ConfigMap/\S+ data\.TRUSTED_PROXIES", "test_aws.py changes each fact"),
    (
        r"^ConfigMap/frontend-\S+ data\.ALLOWED_HOSTS",
        "nobody calls it in the cluster",
    ),
    (r"^ConfigMap/\S+ data\.NSQ_TOPIC: ", "any name will do that is the same for all"),
    (
        r"/(mariadb|nsqd|nsqlookupd|object-store) .*\.containers\[0\]\.(args|command|.*\.exec)",
        "how others' programs are called, which the cluster tests show",
    ),
    (r"\.sources\[1\]\.secret\.items(\[0\])? taken away", "database-ca has no other key"),
    (
        r"^StatefulSet/object-store .*\.initContainers",
        "it makes the bucket: the cluster tests show",
    ),
    (
        r"template\.metadata\.annotations(\.facestack\.dev/(facts|host|proxies)| taken away)",
        "test_aws.py changes each fact",
    ),
    (
        r"^ValidatingAdmissionPolicy(Binding)?/\S+ (spec\.[mv]|metadata\.name)",
        "tried on the cluster",
    ),
)


def survivors(documents: list[Document], seen: Counter[str]) -> Iterator[tuple[Document, str]]:
    """Yield what no rule sees, and count what each rule sees."""
    # The rule that saw the last mutation often sees the next one.
    rules = list(RULES)
    for document, what in mutations(documents):
        for rule in rules:
            if next(rule(Manifests(documents)), None):
                seen[rule.__name__] += 1
                rules.remove(rule)
                rules.insert(0, rule)
                break
        else:
            yield document, what


def free(what: str) -> str | None:
    """Return the line that says why any value of a field will do."""
    return next((pattern for pattern, _ in FREE if re.search(pattern, what)), None)


lines_used: set[str] = set()


@pytest.mark.parametrize("name", [folder.name for folder in overlays()])
def test_each_broken_field_is_seen(
    overlay_documents: dict[str, list[Document]],
    tool: Callable[[str], None],
    tmp_path: Path,
    name: str,
) -> None:
    tool("kubeconform")
    documents = overlay_documents[name]
    before = json.dumps(documents, sort_keys=True)
    seen: Counter[str] = Counter()
    unseen: dict[str, str] = {}
    for document, what in survivors(documents, seen):
        if used := free(what):
            lines_used.add(used)
        else:
            file = tmp_path / f"{len(unseen)}.json"
            file.write_text(json.dumps(document))
            unseen[file.name] = what
    assert json.dumps(documents, sort_keys=True) == before
    assert seen.total() > 2500
    refused = refused_by_schema(tmp_path)
    assert [what for file, what in unseen.items() if file not in refused] == []


def refused_by_schema(folder: Path) -> set[str]:
    command = [tools.binary("kubeconform"), "-strict", "-output", "json", "-n", "2"]
    command += ["-schema-location", schemas.location(), str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return {Path(resource["filename"]).name for resource in json.loads(answer.stdout)["resources"]}


def test_each_free_field_is_there() -> None:
    if lines_used:  # the tests above have run
        assert {pattern for pattern, _ in FREE} == lines_used
