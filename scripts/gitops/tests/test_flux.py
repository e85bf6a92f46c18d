"""A Kustomization is built as kustomize-controller builds it."""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from scripts.gitops.flux import Builder, BuildError, Kustomization, Object, load
from scripts.gitops.source import Source, working_tree
from scripts.gitops.tests.changes import change

FILES: Final = {
    "app/kustomization.yaml": """
        resources: [map.yaml, deployment.yaml]
        images: [{name: one, newName: two, newTag: "2"}]
        """,
    "app/map.yaml": """
        apiVersion: v1
        kind: ConfigMap
        metadata: {name: map, labels: {color: red}}
        data: {key: "${fact}"}
        """,
    "app/deployment.yaml": """
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: app}
        spec: {template: {spec: {containers: [{name: app, image: one}]}}}
        """,
    "more/kustomization.yaml": """
        apiVersion: kustomize.config.k8s.io/v1alpha1
        kind: Component
        configMapGenerator: [{name: more, literals: [a=b]}]
        """,
}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    found = Source(tmp_path)
    for file, text in FILES.items():
        change(found, {"file": file, "write": text})
    return found


def build(
    source: Source, kubectl: str, facts: dict[str, str] | None = None, **spec: Any
) -> dict[str, Object]:
    made_from = Object(
        {"kind": "Kustomization", "metadata": {"name": "test"}, "spec": {"path": "./app", **spec}},
        "sync.yaml",
    )
    found = Builder(source, kubectl).build(Kustomization(made_from), facts or {}, set())
    return {built.title: built for built in found}


def image(found: dict[str, Object]) -> str:
    template = found["Deployment/app"].document["spec"]["template"]
    return str(template["spec"]["containers"][0]["image"])


def test_every_object_names_its_file_and_nothing_else_is_added(
    source: Source, kubectl: str
) -> None:
    found = build(source, kubectl)
    assert {title: one.file for title, one in found.items()} == {
        "ConfigMap/map": "app/map.yaml",
        "Deployment/app": "app/deployment.yaml",
    }
    assert found["ConfigMap/map"].document == yaml.safe_load(FILES["app/map.yaml"])


def test_what_is_there_is_left_as_it_was(source: Source, kubectl: str) -> None:
    before = (source.folder / "app/kustomization.yaml").read_text()
    build(source, kubectl, namePrefix="x-")
    assert (source.folder / "app/kustomization.yaml").read_text() == before


def test_facts_get_in_only_with_post_build(source: Source, kubectl: str) -> None:
    without = build(source, kubectl, {"fact": "12"})["ConfigMap/map"]
    assert without.document["data"] == {"key": "${fact}"}
    found = build(source, kubectl, {"fact": "text"}, postBuild={})["ConfigMap/map"]
    assert found.document["data"] == {"key": "text"}


def test_patches_come_after_the_folders_own(source: Source, kubectl: str) -> None:
    patch = "- {op: add, path: /data/more, value: '${fact}'}"
    target = {"labelSelector": "color in (red, blue)"}
    patches = [{"target": target, "patch": patch}]
    found = build(source, kubectl, {"fact": "x"}, patches=patches, postBuild={})
    assert found["ConfigMap/map"].document["data"] == {"key": "x", "more": "x"}
    gone = [{"target": target, "patch": "$patch: delete\nkind: any\nmetadata: {name: any}"}]
    assert list(build(source, kubectl, patches=gone)) == ["Deployment/app"]


def test_a_component_is_found_from_the_path(source: Source, kubectl: str) -> None:
    found = build(source, kubectl, components=["../more"])
    (generated,) = (one for title, one in found.items() if title.startswith("ConfigMap/more-"))
    assert generated.file == "more/kustomization.yaml"


def test_a_missing_component_may_be_ignored(source: Source, kubectl: str) -> None:
    components = ["../secrets", "../more"]
    found = build(source, kubectl, components=components, ignoreMissingComponents=True)
    assert len(found) == 3
    with pytest.raises(BuildError, match=r"secrets"):
        build(source, kubectl, components=components)


def test_names_and_namespace_are_set(source: Source, kubectl: str) -> None:
    found = build(source, kubectl, targetNamespace="there", namePrefix="a-", nameSuffix="-z")
    assert set(found) == {"ConfigMap/a-map-z", "Deployment/a-app-z"}
    assert {built.key[2] for built in found.values()} == {"there"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"newTag": "3"}, "two:3"),
        ({"newName": "three"}, "three:2"),
        ({"digest": "sha256:" + "0" * 64}, "two@sha256:" + "0" * 64),
    ],
)
def test_an_image_is_changed_in_part(
    source: Source, kubectl: str, given: dict[str, str], expected: str
) -> None:
    assert image(build(source, kubectl)) == "two:2"
    assert image(build(source, kubectl, images=[{"name": "one", **given}])) == expected


def test_common_labels_are_set_on_all(source: Source, kubectl: str) -> None:
    found = build(source, kubectl, commonMetadata={"labels": {"color": "green", "team": "a"}})
    for built in found.values():
        assert built.document["metadata"]["labels"] == {"color": "green", "team": "a"}


@pytest.mark.parametrize("field", ["patchesStrategicMerge", "patchesJson6902", "wiat"])
def test_a_field_that_is_not_known_is_refused(source: Source, kubectl: str, field: str) -> None:
    unknown: dict[str, Any] = {field: []}
    with pytest.raises(BuildError, match=f"spec.{field}: is not known here"):
        build(source, kubectl, **unknown)


def test_only_a_changed_folder_is_built_again(
    source: Source, monkeypatch: pytest.MonkeyPatch, kubectl: str
) -> None:
    built = []
    original = Builder._kustomize

    def counting(self: Builder, folder: str) -> str:
        built.append(folder)
        return original(self, folder)

    monkeypatch.setattr(Builder, "_kustomize", counting)
    monkeypatch.setattr(Builder, "_cache", {})
    build(source, kubectl)
    build(source, kubectl, {"fact": "x"}, postBuild={})
    assert built == ["app"]
    change(source, {"file": "app/map.yaml", "old": "red", "new": "blue"})
    found = build(source, kubectl)
    assert found["ConfigMap/map"].document["metadata"]["labels"] == {"color": "blue"}
    build(source, kubectl, namePrefix="x-")
    assert built == ["app", "app", "app"]


def test_a_line_break_at_the_end_of_a_fact_is_no_part_of_it(kubectl: str) -> None:
    with working_tree() as tree:
        line = "  storage_class: standard\n"
        block = "  storage_class: |\n    standard\n"
        change(tree, {"file": "flux/kind/cluster.yaml", "old": line, "new": block})
        cluster = load(Builder(tree, kubectl), "kind")
    claims = [
        claim["spec"]["storageClassName"]
        for _, one in cluster.objects()
        if one.key[1] == "StatefulSet"
        for claim in one.document["spec"]["volumeClaimTemplates"]
    ]
    assert set(claims) == {"standard"}


def test_the_root_brings_itself_and_every_layer(kubectl: str) -> None:
    with working_tree() as tree:
        cluster = load(Builder(tree, kubectl), "kind")
    assert cluster.root.name == "facestack"
    assert {"controllers", "configs", "data", "apps"} <= set(cluster.kustomizations)
    assert cluster.before("apps") >= {"controllers", "configs", "data"}
    titles = {built.title for built in cluster.root.objects}
    assert {"Kustomization/facestack", "ConfigMap/cluster"} <= titles
