"""What the cluster must refuse, found out by trying."""

import base64
import copy
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import pytest
import yaml

from e2e.client import metrics, pods, request
from e2e.cluster import Cluster
from e2e.handshakes import Call, shake
from e2e.load import Load, no_request_fails
from e2e.reach import Target, reached
from e2e.waiting import wait_until
from services.common.tables import metadata
from services.credentials.certificates import KeyPair, issue, new_authority
from services.migrations.users import GRANTS

OTHER: Final = "another namespace"
API: Final = "the API server"
DNS_METRICS: Final = "metrics of DNS"
ACCESS: Final = "access.facestack.dev/"
"""Begins the labels by which pods say whom they ask."""

OPENED: Final = {
    "face-recog: client": 50051,
    "mariadb: client": 3306,
    "nsqd: consume": 4150,
    "nsqd: publish": 4151,
    "nsqlookupd: query": 4161,
    "nsqlookupd: register": 4160,
    "object-store: client": 7070,
    "people: client": 50052,
    "receiver: client": 8000,
}
"""The port that each of these labels opens; ``api-server: client`` opens that of all clusters."""

CERTIFIED: Final = (
    "face-recog",
    "image-processor",
    "mariadb",
    "object-store",
    "people",
    "receiver",
)
RIGHTS: Final = {
    "credentials": {("secrets", "create")},
    "certificates": {("secrets", "create")}
    | {(f"secrets/tls-{name}", verb) for name in ("ca", *CERTIFIED) for verb in ("get", "patch")},
}
"""Who may do what with the Kubernetes API; all others nothing."""

_POLICY_SECONDS: Final = 60
_RENEWAL_SECONDS: Final = 240
"""The kubelet looks for changed Secrets every minute or two."""
_REFUSALS: Final = {1044, 1045, 1142, 1227}
"""Errors of MariaDB that mean: this user may not."""

Opened = set[tuple[str, str, int]]
Templates = dict[str, dict[str, Any]]
"""Of each workload the pods that it makes."""


def probe(name: str, image: str, **labels: str) -> dict[str, Any]:
    """Return a pod that does nothing, as restricted as the pipeline's own.

    It is never ready, so no Service sends it what is meant for the workload whose labels it has.
    """
    small = {"cpu": "10m", "memory": "64Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"e2e": "probe", **labels}},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", "import signal; signal.pause()"],
                    "readinessProbe": {"tcpSocket": {"port": 1}},
                    "resources": {"requests": small, "limits": small},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


@pytest.fixture(scope="module")
def image(pipeline: Cluster) -> str:
    """Name an image that every node has and that holds Python."""
    found: str = pipeline.get("deployment/redeemer")["spec"]["template"]["spec"]["containers"][0][
        "image"
    ]
    return found


@pytest.fixture(scope="module")
def templates(pipeline: Cluster) -> Templates:
    """Give the pods of each workload, Jobs included, as their controllers make them."""
    found = pipeline.get("deployments,statefulsets,jobs")["items"]
    made = [item["spec"]["template"] for item in found]
    return {template["metadata"]["labels"]["app.kubernetes.io/name"]: template for template in made}


def asks(template: dict[str, Any]) -> Iterator[str]:
    """Yield whom a pod asks, as its labels say."""
    for label, value in template["metadata"]["labels"].items():
        if label.startswith(ACCESS):
            yield f"{label.removeprefix(ACCESS)}: {value}"


@pytest.fixture(scope="module")
def probes(
    pipeline: Cluster, image: str, templates: Templates
) -> Iterator[dict[str, tuple[str, str]]]:
    """Give a probe, by namespace and name, with the labels of each workload, and a stranger."""
    found = {workload: (pipeline.namespace, f"probe-{workload}") for workload in templates} | {
        OTHER: ("default", "probe-stranger")
    }
    documents = []
    for workload, (namespace, pod) in found.items():
        # Those of a controller would have it adopt the probe.
        own = templates[workload]["metadata"]["labels"] if workload != OTHER else {}
        labels = {
            label: value
            for label, value in own.items()
            if label.startswith((ACCESS, "app.kubernetes.io/"))
        }
        document = probe(pod, image, **labels)
        document["metadata"]["namespace"] = namespace
        documents.append(document)
    remove = ("delete", "pods", "--selector=e2e=probe", "--ignore-not-found")
    try:
        pipeline.kubectl("apply", "--filename=-", input=yaml.safe_dump_all(documents))
        wait_until(lambda: all_running(pipeline, found.values()), 120, "every probe to run")
        yield found
    finally:
        pipeline.kubectl(*remove)
        pipeline.kubectl(*remove, "--namespace=default")


def all_running(cluster: Cluster, pods: Iterable[tuple[str, str]]) -> bool:
    found = cluster.get("pods", "--selector=e2e=probe", "--all-namespaces")["items"]
    running = {
        (pod["metadata"]["namespace"], pod["metadata"]["name"])
        for pod in found
        if pod["status"]["phase"] == "Running"
    }
    return running >= set(pods)


@pytest.fixture(scope="module")
def targets(pipeline: Cluster, templates: Templates) -> list[Target]:
    """Give every port of every pod, and of the cluster's own: address, port, whose it is."""
    api = pipeline.get("service/kubernetes", "--namespace=default")["spec"]["clusterIP"]
    dns = pipeline.get("pods", "--selector=k8s-app=kube-dns", "--namespace=kube-system")["items"]
    return [
        *(
            (pod["status"]["podIP"], port["containerPort"], workload)
            for workload, template in templates.items()
            if template["spec"]["restartPolicy"] == "Always"
            for pod in own_pods(pipeline, workload)
            for port in template["spec"]["containers"][0]["ports"]
        ),
        *((pod["status"]["podIP"], 9153, DNS_METRICS) for pod in dns),
        (api, 443, API),
    ]


def own_pods(cluster: Cluster, workload: str) -> list[dict[str, Any]]:
    """Return the pods of a workload without the probe that looks like one."""
    return [
        pod for pod in pods(cluster, workload) if pod["metadata"]["labels"].get("e2e") != "probe"
    ]


def opened(cluster: Cluster, probes: dict[str, tuple[str, str]], targets: list[Target]) -> Opened:
    """Return who reached whom at which port; at all pods of a workload or at none.

    Everybody can look up names, or this fails.
    """

    def opened_by(workload: str) -> Opened:
        namespace, pod = probes[workload]
        open_ = reached(cluster, pod, namespace, targets)
        found = {(workload, whose, port) for _, port, whose in open_}
        for _, whose, port in found:
            of = [target for target in targets if (target[2], target[1]) == (whose, port)]
            got = [target for target in open_ if (target[2], target[1]) == (whose, port)]
            if len(of) != len(got):
                raise AssertionError(f"{workload} reached only {got} of {of}")
        return found

    with ThreadPoolExecutor(4) as pool:
        return set().union(*pool.map(opened_by, probes))


# Before there are pods that bear the names of others.
def test_clients_get_neither_metrics_nor_a_description_nor_another_name(pipeline: Cluster) -> None:
    for url in (pipeline.api_url, pipeline.page_url):
        for path in ("/metrics", "/docs", "/openapi.json"):
            answer = request("GET", f"{url}{path}")  # the page first asks who it is, of whatever
            assert answer.status_code in {httpx.codes.NOT_FOUND, httpx.codes.SEE_OTHER}
            assert "facestack_" not in answer.text
        answer = request("GET", f"{url}/", headers={"Host": "rebound.example"})
        assert answer.status_code == httpx.codes.MISDIRECTED_REQUEST
    for workload in ("receiver", "frontend"):
        assert all(metrics(pipeline, workload, "facestack_requests_total").values())


def test_names_and_exactly_what_labels_say_is_open(
    pipeline: Cluster,
    templates: Templates,
    probes: dict[str, tuple[str, str]],
    targets: list[Target],
) -> None:
    expected = {
        # Other namespaces have policies of their own or none.
        (OTHER, API, 443),
        (OTHER, DNS_METRICS, 9153),
    }
    for workload, template in templates.items():
        for asked in asks(template):
            server = asked.partition(":")[0]
            is_api = server == "api-server"
            expected.add((workload, API, 443) if is_api else (workload, server, OPENED[asked]))
    assert len(expected) > len(OPENED), "every label has somebody who bears it"

    def as_labelled() -> bool:
        found = opened(pipeline, probes, targets)
        too_many, missing = found - expected, expected - found
        if too_many or missing:
            raise AssertionError(f"open: {sorted(too_many)}; closed: {sorted(missing)}")
        return True

    wait_until(as_labelled, _POLICY_SECONDS, "exactly what labels say to be open")
    print(f"{len(probes)} sources, {len(targets)} targets: {len(expected)} edges open, no other")


def test_it_is_the_policies_that_keep_the_others_closed(
    pipeline: Cluster,
    probes: dict[str, tuple[str, str]],
    targets: list[Target],
) -> None:
    """With a policy that allows everything, all can be reached: somebody listens everywhere."""
    allow: dict[str, Any] = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "e2e-allow-all"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{}],
            "egress": [{}],
        },
    }
    every = {(source, whose, port) for source in probes for _, port, whose in targets}

    def all_open() -> bool:
        closed = every - opened(pipeline, probes, targets)
        if closed:
            raise AssertionError(f"closed: {sorted(closed)}")
        return True

    pipeline.kubectl("apply", "--filename=-", input=yaml.safe_dump(allow))
    try:
        wait_until(all_open, _POLICY_SECONDS, "everything to be open")
    finally:
        pipeline.kubectl("delete", "networkpolicy/e2e-allow-all")


def test_a_privileged_pod_is_refused_by_the_namespace(pipeline: Cluster, image: str) -> None:
    bad = probe("privileged", image)
    assert refusal(pipeline, bad) is None
    bad["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    reason = refusal(pipeline, bad)
    assert reason
    assert 'violates PodSecurity "restricted:' in reason
    assert 'container "probe" must not set securityContext.privileged=true' in reason


def refusal(cluster: Cluster, document: dict[str, Any]) -> str | None:
    """Return why the API server would not take the document, or None if it would."""
    result = cluster.kubectl(
        "apply", "--filename=-", "--dry-run=server", input=yaml.safe_dump(document), check=False
    )
    return result.stderr if result.returncode else None


def test_no_running_pod_holds_a_token(pipeline: Cluster) -> None:
    folder = "/var/run/secrets/kubernetes.io"
    found = pipeline.staying(
        "pods", "--selector=e2e!=probe", "--field-selector=status.phase=Running"
    )
    one_of_each = {pod["spec"]["containers"][0]["name"]: pod["metadata"]["name"] for pod in found}
    assert len(one_of_each) >= len(OPENED)
    for workload, pod in one_of_each.items():
        listed = pipeline.kubectl("exec", pod, "--", "ls", folder, check=False)
        assert listed.returncode != 0, f"{workload}: {listed.stdout}"
        assert "No such file" in listed.stderr, f"{workload}: {listed.stderr}"


def test_a_token_of_a_pod_would_open_nothing(pipeline: Cluster) -> None:
    accounts = {item["metadata"]["name"] for item in pipeline.get("serviceaccounts")["items"]}
    assert accounts > RIGHTS.keys()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda account: opens_nothing(pipeline, account), sorted(accounts)))


def opens_nothing(cluster: Cluster, account: str) -> None:
    """Assert that a ServiceAccount may do what it must, and nothing else."""
    identity = f"--as=system:serviceaccount:{cluster.namespace}:{account}"
    expected = RIGHTS.get(account, set())

    rows = cluster.kubectl("auth", "can-i", "--list", "--no-headers", identity).stdout
    # Kind, paths, names and verbs.
    found = re.findall(r"^(\S+) +\[(.*?)\] +\[(.*?)\] +\[(.*?)\]", rows, re.MULTILINE)
    assert {
        (f"{kind}/{name}" if name else kind, verb)
        for kind, _, name, verbs in found
        if not kind.startswith("selfsubject")
        for verb in verbs.split()
    } == expected, account

    def may(*command: str, text: str | None = None) -> bool:
        result = cluster.kubectl(*command, identity, input=text, check=False)
        assert result.returncode == 0 or "(Forbidden)" in result.stderr, result.stderr
        return result.returncode == 0

    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "e2e-by-a-pod"}}
    create = ("create", "--filename=-", "--dry-run=server")
    assert may(*create, text=yaml.safe_dump(secret)) == (("secrets", "create") in expected), account
    assert not may(*create, "--namespace=default", text=yaml.safe_dump(secret)), account
    assert not may("get", "secret", "mariadb-admin"), account


def pair_of(cluster: Cluster, workload: str) -> tuple[bytes, KeyPair]:
    """Return the authority that a workload trusts, and its own certificate."""
    data = cluster.get(f"secret/tls-{workload}")["data"]
    authority, certificate, key = (
        base64.b64decode(data[name]) for name in ("ca.crt", "tls.crt", "tls.key")
    )
    return authority, KeyPair(certificate, key)


@pytest.fixture
def calls(pipeline: Cluster) -> list[Call]:
    """Give every pod that a receiver speaks TLS with from the first byte on."""
    return [
        Call(pod["status"]["podIP"], OPENED[f"{workload}: client"], workload)
        for workload in ("face-recog", "people", "object-store")
        for pod in own_pods(pipeline, workload)
    ]


def test_a_pod_with_a_foreign_certificate_is_refused(
    pipeline: Cluster, probes: dict[str, tuple[str, str]], calls: list[Call]
) -> None:
    _, pod = probes["receiver"]
    authority, own = pair_of(pipeline, "receiver")
    now = datetime.now(UTC)
    others = new_authority("facestack face", days=1, now=now)
    foreign = issue(others, ["receiver"], days=1, now=now)
    mutual = [call for call in calls if call.name != "object-store"]

    def problems(trusted: bytes, shown: KeyPair | None, asked: list[Call]) -> set[str]:
        return {problem for _, problem in shake(pipeline, pod, asked, trusted, shown)}

    assert problems(authority, own, calls) == {""}
    for shown in (foreign, None):
        refused = problems(authority, shown, mutual)
        assert "" not in refused
        print(f"with {'a foreign' if shown else 'no'} certificate: {', '.join(sorted(refused))}")
    # Nor does a pod speak with a server of another authority, or of another name.
    for trusted, asked in (
        (others.certificate, calls),
        (authority, [replace(call, name="mariadb") for call in calls]),
    ):
        assert all("certificate verify failed" in it for it in problems(trusted, own, asked))


def test_no_request_fails_while_certificates_are_renewed(
    pipeline: Cluster, probes: dict[str, tuple[str, str]], calls: list[Call]
) -> None:
    _, pod = probes["receiver"]
    authority, own = pair_of(pipeline, "receiver")

    def shown() -> set[str]:
        found = shake(pipeline, pod, calls, authority, own)
        [(_, since)] = pipeline.sql("SHOW STATUS LIKE 'Ssl_server_not_before'")
        return {serial or problem for serial, problem in found} | {f"mariadb {since}"}

    before = shown()
    assert len(before) == 4, "face-recog, people, object-store and mariadb have one each"
    load = Load(pipeline, recognise=True)
    job = "e2e-renewal"
    with no_request_fails(pipeline, load):
        load.phase = "while certificates are renewed"
        pipeline.kubectl("delete", "secrets", *(f"tls-{name}" for name in CERTIFIED))
        try:
            pipeline.kubectl("create", "job", job, "--from=cronjob/certificates")
            done = f"--for=condition=complete job/{job} --timeout=180s"
            pipeline.kubectl("wait", *done.split())
        finally:
            pipeline.kubectl("delete", "job", job, "--ignore-not-found")
        started = time.monotonic()
        wait_until(
            lambda: before.isdisjoint(shown()), _RENEWAL_SECONDS, "all to show new certificates"
        )
        print(f"all show new certificates after {time.monotonic() - started:.0f} s")
        load.phase = "with new certificates"
        enough = load.requests + 500
        wait_until(lambda: load.requests >= enough, _RENEWAL_SECONDS, "500 more requests")


COLUMNS: Final = {
    **{name: table.columns.keys()[0] for name, table in metadata.tables.items()},
    "alembic_version": "version_num",
}
PRIVILEGES: Final = {
    "SELECT": "SELECT `{column}` FROM `{table}` WHERE FALSE",
    "INSERT": "INSERT IGNORE INTO `{table}` (`{column}`) SELECT 1 FROM DUAL WHERE FALSE",
    "UPDATE": "UPDATE `{table}` SET `{column}` = 1 WHERE FALSE",
    "DELETE": "DELETE FROM `{table}` WHERE FALSE",
}
NOBODYS: Final = (
    "CREATE TABLE e2e (id INT)",
    "ALTER TABLE images ADD COLUMN e2e INT",
    "DROP TABLE images",
    "TRUNCATE TABLE images",
    "CREATE DATABASE e2e",
    "CREATE USER e2e",
    "GRANT ALL ON facestack.* TO CURRENT_USER",
    "SELECT * FROM mysql.global_priv",
    "SELECT 1 INTO OUTFILE '/tmp/e2e'",
    "SET GLOBAL max_connections = 1",
)


@pytest.mark.parametrize("user", GRANTS)
def test_a_database_user_can_do_only_what_it_needs(pipeline: Cluster, user: str) -> None:
    granted = {
        PRIVILEGES[privilege].format(table=table, column=COLUMNS[table])
        for table, privileges in GRANTS[user].items()
        for privilege in privileges.split(", ")
    }
    statements = [
        *(
            statement.format(table=table, column=column)
            for table, column in COLUMNS.items()
            for statement in PRIVILEGES.values()
        ),
        *NOBODYS,
    ]
    assert refused_statements(pipeline, user, statements) == set(statements) - granted


def refused_statements(cluster: Cluster, user: str, statements: list[str]) -> set[str]:
    """Run each statement as the user, and return those that MariaDB does not let it run."""
    secret = f"database-{user.replace('_', '-')}"
    template = "go-template={{.data.password | base64decode}}"
    password = cluster.kubectl("get", "secret", secret, "-o", template).stdout
    client = (
        "read -r MYSQL_PWD; export MYSQL_PWD; exec mariadb --host=127.0.0.1 --force"
        f" --user={user} facestack"
    )
    lines = "".join(f"{statement};\n" for statement in statements)
    result = cluster.kubectl(
        "exec",
        "-i",
        "mariadb-0",
        "--",
        "sh",
        "-c",
        client,
        input=f"{password}\n{lines}",
        check=False,
    )
    errors = re.findall(r"^ERROR (\d+) .*? at line (\d+): (.*)$", result.stderr, re.MULTILINE)
    refused = {int(line): (int(code), text) for code, line, text in errors}
    other = {line: error for line, error in refused.items() if error[0] not in _REFUSALS}
    assert not other, f"{user}: {other}"
    assert refused, f"{user}: {result.stderr}"
    return {statements[line - 1] for line in refused}


def deployment(image: str) -> dict[str, Any]:
    """Return a workload that the namespace takes."""
    pod = probe("e2e", image)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "e2e"},
        "spec": {
            "selector": {"matchLabels": {"e2e": "probe"}},
            "template": {"metadata": {"labels": {"e2e": "probe"}}, "spec": pod["spec"]},
        },
    }


def cron_job(image: str) -> dict[str, Any]:
    """Return one with its pod deeper inside."""
    template = deployment(image)["spec"]["template"]
    template["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "e2e"},
        "spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": template}}},
    }


def workloads(image: str) -> list[dict[str, Any]]:
    """Return one of each kind that makes pods, and a pod."""
    template = deployment(image)["spec"]["template"]
    once = {**template, "spec": {**template["spec"], "restartPolicy": "Never"}}
    selector = {"selector": {"matchLabels": template["metadata"]["labels"]}, "template": template}
    return [
        deployment(image),
        _of_kind("apps/v1", "StatefulSet", {**selector, "serviceName": "e2e"}),
        _of_kind("apps/v1", "DaemonSet", selector),
        _of_kind("batch/v1", "Job", {"template": once}),
        cron_job(image),
        probe("e2e", image),
    ]


def _of_kind(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    document = {"apiVersion": version, "kind": kind, "metadata": {"name": "e2e"}, "spec": spec}
    return copy.deepcopy(document)


WHOLE: Final = {"cpu": "10m", "memory": "64Mi"}
BAD: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "latest": (
        {"image": "facestack/redeemer:latest"},
        "container 'probe' has the image 'facestack/redeemer:latest': give the exact version",
    ),
    "no tag": (
        {"image": "facestack/redeemer"},
        "container 'probe' has the image 'facestack/redeemer': give the exact version",
    ),
    "unknown registry": (
        {"image": "example.org/facestack/redeemer:1.2.3"},
        "container 'probe' has the image 'example.org/facestack/redeemer:1.2.3', which is not from",
    ),
    "similar name": (
        {"image": "mariadb-tools:1.2.3"},
        "container 'probe' has the image 'mariadb-tools:1.2.3', which is not from facestack/,",
    ),
    "no resources": (
        {"resources": {}},
        "container 'probe' has no resources.requests.cpu and no resources.requests.memory and",
    ),
    "no memory limit": (
        {"resources": {"requests": WHOLE, "limits": {"cpu": "10m"}}},
        "container 'probe' has no resources.limits.memory: set",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_workload_is_refused_with_what_to_do(pipeline: Cluster, image: str, fault: str) -> None:
    change, expected = BAD[fault]
    for document in workloads(image):
        assert refusal(pipeline, document) is None
        spec = pod_spec(document)
        spec["containers"][0].update(change)
        assert expected in str(refusal(pipeline, document))


def test_a_running_workload_cannot_be_changed_to_a_floating_image(pipeline: Cluster) -> None:
    result = pipeline.kubectl(
        "set",
        "image",
        "deployment/redeemer",
        "*=facestack/redeemer:latest",
        "--dry-run=server",
        check=False,
    )
    assert result.returncode != 0
    assert "'facestack/redeemer:latest': give the exact version" in result.stderr


def test_a_fault_in_any_container_is_found(pipeline: Cluster, image: str) -> None:
    document = deployment(image)
    containers = pod_spec(document)["containers"]
    first = {**containers[0], "name": "first"}
    del first["readinessProbe"]
    pod_spec(document)["initContainers"] = [first]
    assert refusal(pipeline, document) is None
    containers.append({**containers[0], "name": "second", "resources": {}})
    first["resources"] = {}
    reason = str(refusal(pipeline, document))
    assert "container 'first' has no resources.requests.cpu" in reason
    assert "container 'second' has no resources.requests.cpu" in reason
    assert "container 'probe'" not in reason


def test_debugging_is_allowed_with_our_images_only(pipeline: Cluster, image: str) -> None:
    pipeline.kubectl("apply", "--filename=-", input=yaml.safe_dump(probe("debugged", image)))
    try:
        command = ("debug", "debugged", "--profile=restricted", "--container=debugger")
        pipeline.kubectl(*command, f"--image={image}", "--", "python", "-c", "pass")
        command = (*command[:-1], "--container=shell")
        result = pipeline.kubectl(*command, "--image=busybox:1.36.1", "--", "true", check=False)
        assert result.returncode != 0
        assert "has the image 'busybox:1.36.1', which is not from" in result.stderr
    finally:
        pipeline.kubectl("delete", "pod", "debugged")


def pod_spec(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    while "containers" not in spec:
        spec = (spec.get("jobTemplate") or spec["template"])["spec"]
    return spec
