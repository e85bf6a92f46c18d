"""What base/checks.yaml says of all that is applied lets in what is right, in any namespace."""

import re
from typing import Any

import pytest

from scripts.manifests.model import Document, Manifests
from scripts.manifests.rules import GENERAL, fields
from scripts.manifests.rules.settings import settings_class
from scripts.programs import ROOT

FLUX_PRUNE = "kustomize.toolkit.fluxcd.io/prune"
CONTAINER = {
    "name": "one",
    "image": "registry.example.com:5000/one:1.2",
    "resources": {
        "requests": {"cpu": "10m", "memory": "16Mi"},
        "limits": {"cpu": "1", "memory": "64Mi"},
    },
}


def document(kind: str, name: str = "one", **rest: Any) -> Document:
    return {"kind": kind, "metadata": {"name": name, "namespace": "tools"}, **rest}


def deployment(name: str, labels: dict[str, str], **pod: Any) -> Document:
    template = {"metadata": {"labels": labels}, "spec": {"containers": [CONTAINER], **pod}}
    spec = {"selector": {"matchLabels": {"app": "one"}}, "template": template}
    return document("Deployment", name, spec=spec)


def said(*documents: Document) -> list[str]:
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        FLUX_PRUNE: "Disabled",
    }
    space = {"kind": "Namespace", "metadata": {"name": "tools", "labels": labels}}
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    deny = document("NetworkPolicy", "default-deny", spec=closed)
    manifests = Manifests([space, deny, *documents])
    return [str(finding) for rule in GENERAL for finding in rule(manifests)]


def config_map(**more: bool) -> Document:
    volume = {"name": "settings", "configMap": {"name": "not-there", **more}}
    container = {**CONTAINER, "volumeMounts": [{"name": "settings"}]}
    return deployment("one", {"app": "one"}, volumes=[volume], containers=[container])


def test_what_is_optional_may_be_missing() -> None:
    assert said(config_map(optional=True)) == []
    [line] = said(config_map())
    assert "volumes[settings].configMap.name: is 'not-there': name a ConfigMap" in line


def binding(**subject: str) -> Document:
    role_ref = {"kind": "Role", "name": "one"}
    return document("RoleBinding", roleRef=role_ref, subjects=[{"name": "one", **subject}])


def test_people_and_groups_are_not_looked_for_and_accounts_are_in_their_namespace() -> None:
    there = (document("Role"), document("ServiceAccount"))
    assert said(*there, binding(kind="Group")) == []
    assert said(*there, binding(kind="ServiceAccount")) == []
    assert said(*there, binding(kind="ServiceAccount", namespace="tools")) == []
    [line] = said(*there, binding(kind="ServiceAccount", namespace="face"))
    assert "subjects[one].name: is 'one': name a ServiceAccount that is there" in line


def test_a_workload_of_any_namespace_selects_its_own_pods() -> None:
    [line] = said(deployment("one", {"app": "one"}), deployment("two", {"app": "two"}))
    assert line == "Deployment/two: spec.selector: selects the pods of one: select its own"


@pytest.mark.parametrize("kind", ["Cluster", "PersistentVolumeClaim", "PriorityThing"])
def test_a_kind_that_is_called_like_one_of_the_cluster_needs_a_namespace(kind: str) -> None:
    without = {"kind": kind, "metadata": {"name": "one"}}
    [line] = said(without)
    assert line.startswith(f"{kind}/one: metadata.namespace: is missing: name a Namespace")


@pytest.mark.parametrize("kind", ["ClusterIssuer", "PriorityClass", "PersistentVolume"])
def test_a_kind_of_the_cluster_needs_none(kind: str) -> None:
    assert said({"kind": kind, "metadata": {"name": "one"}}) == []


@pytest.mark.parametrize(
    ("marks", "stays"),
    [
        ({"labels": {FLUX_PRUNE: "disabled"}}, True),
        ({"annotations": {"note": "any", FLUX_PRUNE: "Disabled"}}, True),
        ({"labels": {FLUX_PRUNE: "enabled"}, "annotations": {"note": "disabled"}}, False),
        ({}, False),
    ],
)
def test_a_namespace_stays_by_a_label_or_an_annotation(marks: Any, stays: bool) -> None:
    metadata = {"name": "more", **marks}
    found = [line for line in said({"kind": "Namespace", "metadata": metadata}) if "prune" in line]
    assert (found == []) == stays


def test_what_is_not_set_keeps_the_bounds_of_settings_by_default() -> None:
    bounds = [
        (line["of"], found[1].lower(), line["matches"])
        for line in fields.checks()["fields"]
        if (found := re.fullmatch(r".*env\[\?name=(\w+_SECONDS)\]\.value", line["field"]))
    ]
    defaults = {
        (folder.replace("_", "-"), name): f"{field.default:g}"
        for program in (ROOT / "services").glob("*/__main__.py")
        if (whole := settings_class(folder := program.parent.name))
        for name, field in whole.model_fields.items()
        if name.endswith("_seconds")
    }
    for of, name, pattern in bounds:
        held = [
            value
            for (service, setting), value in defaults.items()
            if setting == name and of in {"own server", f"Deployment/{service}"}
        ]
        assert held
        assert all(re.fullmatch(pattern, value) for value in held), name
