"""The pictures show what they are given, and the pages have those of today."""

import pytest

from scripts import pictures
from scripts.gitops.flux import BuildError, Cluster, Kustomization, Object, load
from scripts.gitops.source import Source
from scripts.manifests.rules.network import Edge


def workload(kind: str, **spec: object) -> Object:
    name = kind.lower()
    template = {"metadata": {"labels": {"app.kubernetes.io/name": name}}}
    metadata = {"name": name, "namespace": "face"}
    document = {"kind": kind, "metadata": metadata, "spec": {"template": template, **spec}}
    return Object(document, "file.yaml")


def made(name: str, path: str, *waits_for: str, objects: tuple[Object, ...] = ()) -> Kustomization:
    spec = {"path": path, "dependsOn": [{"name": other} for other in waits_for]}
    document = {"kind": "Kustomization", "metadata": {"name": name}, "spec": spec}
    return Kustomization(Object(document, "file.yaml"), list(objects))


def cluster(*kustomizations: Kustomization) -> Cluster:
    return Cluster("kind", {one.name: one for one in kustomizations})


def test_a_push_goes_through_every_layer_in_order() -> None:
    drawn = list(
        pictures.gitops(
            cluster(
                made("root", "flux/clusters/kind"),
                made("first", "one", objects=(workload("Deployment"),)),
                made("second", "two", "first"),
            )
        )
    )
    assert 'first["<b>first</b><br>one<br>deployment"]' in drawn
    assert [line for line in drawn if line.endswith(("first", "second"))] == [
        "way --> first",
        "first --> second",
    ]


def test_a_workload_says_its_kind_and_its_pods() -> None:
    objects = (workload("Deployment", replicas=2), workload("Job"))
    drawn = list(pictures.kubernetes(cluster(made("root", "one", objects=objects))))
    assert 'deployment["<b>deployment</b><br>Deployment, 2 pods"]' in drawn
    assert 'job["<b>job</b><br>Job"]' in drawn


def test_every_connection_is_an_arrow_with_its_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {
        Edge("outside", "deployment", 80),
        Edge("deployment", "statefulset", 4150),
        Edge("deployment", "statefulset", 443),
        Edge("statefulset", "outside", 443),
        Edge("statefulset", "anywhere", 6443),
    }
    monkeypatch.setattr(pictures, "edges", lambda manifests: asked)
    objects = (workload("Deployment"), workload("StatefulSet"))
    drawn = list(pictures.kubernetes(cluster(made("root", "one", objects=objects))))
    assert [line for line in drawn if "-->" in line] == [
        "clients -- 80 --> deployment",
        "deployment -- 443, 4150 --> statefulset",
        "statefulset -- 6443 --> API-server",
        "statefulset -- 443 --> outside",
    ]


def test_the_pages_have_the_pictures_of_today(flux_build: str) -> None:
    today = load(Source(pictures.ROOT), pictures.CLUSTER)
    assert not today.problems
    for page in pictures.PICTURES:
        old = pictures.drawn(page, today) != (pictures.ROOT / page).read_text()
        assert not old, f"{page}: run 'make pictures'"


def test_what_cannot_be_built_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Cluster("kind", problems=[BuildError("one.yaml", "has no kind")])
    monkeypatch.setattr(pictures, "load", lambda source, name: broken)
    with pytest.raises(SystemExit, match=r"pictures: one\.yaml: has no kind"):
        pictures.main()
