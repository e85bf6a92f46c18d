"""The pictures show what they are given, and the pages have those of today."""

from pathlib import Path

import pytest

from scripts import pictures
from scripts.gitops.flux import BuildError, Cluster, Kustomization, Object, load
from scripts.gitops.source import Source
from scripts.manifests.model import Finding
from scripts.manifests.rules.network import Edge
from scripts.programs import ROOT


def workload(kind: str, image: str = "facestack/one", **spec: object) -> Object:
    name = kind.lower()
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "rows"}}]
    pod = {"containers": [{"name": "one", "image": image}], "volumes": volumes}
    template = {"metadata": {"labels": {"app.kubernetes.io/name": name}}, "spec": pod}
    metadata = {"name": name, "namespace": "face"}
    document = {"kind": kind, "metadata": metadata, "spec": {"template": template, **spec}}
    return Object(document, "file.yaml")


def made(name: str, path: str, *waits_for: str, objects: tuple[Object, ...] = ()) -> Kustomization:
    spec = {"path": path, "dependsOn": [{"name": other} for other in waits_for]}
    document = {"kind": "Kustomization", "metadata": {"name": name}, "spec": spec}
    one = Kustomization(Object(document, "file.yaml"))
    one.objects += objects
    return one


def cluster(*kustomizations: Kustomization) -> dict[str, Cluster]:
    return {"kind": Cluster("kind", {one.name: one for one in kustomizations})}


def test_a_push_goes_through_every_layer_in_order() -> None:
    drawn = list(
        pictures.gitops(
            cluster(
                made("root", "flux/clusters/kind"),
                made("first", "one", objects=(workload("Deployment"),)),
                made("second", "apps/two", "first"),
            )
        )
    )
    assert 'first["<b>first</b><br>one<br>deployment"]:::store' in drawn
    assert 'second["<b>second</b><br>apps/two"]:::unit' in drawn
    assert [line for line in drawn if line.endswith(("layers", " second"))] == [
        "way --> layers",
        "first --> second",
    ]


def test_a_workload_says_its_kind_and_its_pods_and_its_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "edges", lambda manifests: (set(), []))
    claim = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "rows", "namespace": "face"},
        "spec": {"resources": {"requests": {"storage": "5Gi"}}},
    }
    pods = (workload("Deployment", replicas=2), workload("StatefulSet", "mariadb"))
    objects = (*pods, Object(claim, "file.yaml"))
    drawn = list(pictures.kubernetes(cluster(made("root", "one", objects=objects))))
    lines = "Deployment, 2 pods, volume of 5Gi"
    assert f'deployment["<b>deployment</b><br>{lines}"]:::service' in drawn
    lines = "StatefulSet, volume of 5Gi"
    assert f'statefulset["<b>statefulset</b><br>{lines}"]:::store' in drawn


def test_a_job_and_a_cronjob_of_one_name_share_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "edges", lambda manifests: (set(), []))
    job = workload("Job")
    again = {"schedule": "17 3 * * *", "jobTemplate": {"spec": job.document["spec"]}}
    daily = Object({**job.document, "kind": "CronJob", "spec": again}, "file.yaml")
    drawn = list(pictures.kubernetes(cluster(made("root", "one", objects=(job, daily)))))
    assert [line for line in drawn if line.startswith("job[")] == [
        'job["<b>job</b><br>Job<br>CronJob, at 17 3 * * *"]:::job'
    ]


def test_every_connection_is_an_arrow_that_names_ports_of_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = {
        Edge("outside", "deployment", 80),
        Edge("deployment", "statefulset", 4150),
        Edge("deployment", "statefulset", 443),
        Edge("outside", "statefulset", 443),
        Edge("statefulset", "outside", 443),
        Edge("statefulset", "anywhere", 6443),
    }
    monkeypatch.setattr(pictures, "edges", lambda manifests: (asked, []))
    objects = (workload("Deployment"), workload("StatefulSet"))
    drawn = list(pictures.kubernetes(cluster(made("root", "one", objects=objects))))
    assert [line for line in drawn if "-->" in line or "linkStyle" in line] == [
        "statefulset --> API-server",
        "linkStyle 0 stroke:#3b6fd6,stroke-width:2px",
        "clients --> deployment",
        "linkStyle 1 stroke:#c2553d,stroke-width:2px",
        "statefulset --> outside",
        "linkStyle 2 stroke:#2f9158,stroke-width:2px",
        "clients -- port 443 --> statefulset",
        "deployment --> statefulset",
        "linkStyle 3,4 stroke:#8b5cc7,stroke-width:2px",
    ]
    assert 'statefulset["<b>statefulset</b><br>StatefulSet<br>ports 443, 4150"]:::service' in drawn
    assert 'API-server["<b>API-server</b><br>port 6443"]' in drawn


def test_the_table_says_on_which_clusters_who_may_ask_whom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [
        {Edge("outside", "deployment", 80), Edge("deployment", "anywhere", 6443)},
        {Edge("outside", "deployment", 80), Edge("other", "deployment", 80)},
    ]
    monkeypatch.setattr(pictures, "edges", lambda manifests: (asked.pop(0), []))
    one = cluster(made("root", "one", objects=(workload("Deployment"),)))["kind"]
    assert list(pictures.table({"aws": one, "kind": one}))[2:] == [
        "| clients | deployment | 80 | all |",
        "| deployment | API server | 6443 | aws |",
    ]


def test_the_pages_are_those_of_today(flux_build: str) -> None:
    source = Source(ROOT)
    today = {name: load(source, name) for name in source.clusters()}
    for page in pictures.PAGES:
        old = pictures.written(page, today) != (ROOT / page).read_text()
        assert not old, f"{page}: run 'make pictures'"


def test_a_page_without_the_marks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("before\n%% Written by `make pictures`.\nafter\n")
    with pytest.raises(SystemExit, match=r"pictures: README\.md lacks its one block"):
        pictures.written("README.md", cluster(made("root", "one")))


def test_what_cannot_be_built_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Cluster("kind", problems=[Finding("one.yaml", "build", "has no kind")])
    monkeypatch.setattr(pictures, "load", lambda source, name: broken)
    with pytest.raises(BuildError, match=r"one\.yaml: build: has no kind"):
        pictures.main()
