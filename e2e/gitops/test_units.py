"""The units of apps/: metrics that scale a workload, and a tenant who can do what is meant."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any, Final

import httpx
import pytest
import yaml

from e2e.cluster import ROOT, Cluster
from e2e.gitops.delivery import Delivery
from e2e.gitops.flux import ENTRY_FOLDER
from e2e.reach import reached
from e2e.waiting import wait_until

PLAYGROUND: Final = "playground"
DEPLOYER: Final = f"--as=system:serviceaccount:{PLAYGROUND}:deployer"
HERE: Final = f"--namespace={PLAYGROUND}"
_METRICS_SECONDS: Final = 120
_SCALE_SECONDS: Final = 240
_START_SECONDS: Final = 120
_POLICY_SECONDS: Final = 60

HELLO: Final = Path(__file__).with_name("hello.yaml")

# Every request costs 20 ms of CPU.
SERVER: Final = """
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")
print("serving", flush=True)
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
# The network policies take a moment until they know a new pod, and refuse it meanwhile.
CLIENT: Final = """
import time, urllib.error, urllib.request
while True:
    try:
        urllib.request.urlopen("http://hello:8080", timeout=30).read()
    except urllib.error.URLError as error:
        print(error, flush=True)
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def pipeline(delivery: Delivery) -> Cluster:
    """Give the cluster as the first push has left it: everything is ready."""
    return delivery.cluster


@pytest.fixture(scope="module")
def image(pipeline: Cluster) -> str:
    """Name an image that every node has and that holds Python."""
    template = pipeline.get("deployment/redeemer")["spec"]["template"]
    return str(template["spec"]["containers"][0]["image"])


RESTRICTED: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What a container must say here; nobody has to name limits."""


def pod(name: str, image: str, code: str = "import signal; signal.pause()") -> dict[str, Any]:
    """Return a pod that runs some Python; by default it waits."""
    command = ["python", "-c", code]
    main = {"name": "main", "image": image, "command": command, "securityContext": RESTRICTED}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"e2e": "units"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [main]},
    }


def as_deployer(cluster: Cluster, *command: str, documents: Sequence[Any] = ()) -> str:
    """Run kubectl in the playground as whoever works there."""
    text = yaml.safe_dump_all(documents) if documents else None
    # What follows "--" is for the container.
    split = command.index("--") if "--" in command else len(command)
    words = (*command[:split], HERE, DEPLOYER, *command[split:])
    return cluster.kubectl(*words, input=text).stdout


def refusal(cluster: Cluster, document: dict[str, Any]) -> str:
    """Return why the API server does not take what the deployer wants to create."""
    text = yaml.safe_dump(document)
    result = cluster.kubectl("create", "--filename=-", HERE, DEPLOYER, input=text, check=False)
    if result.returncode == 0:
        cluster.kubectl("delete", "--filename=-", HERE, input=text)
        raise AssertionError(f"taken: {result.stdout}")
    return result.stderr


@pytest.fixture
def tidy(pipeline: Cluster) -> Iterator[None]:
    """Remove what a test leaves in the playground."""
    yield
    kinds = "deployments,jobs,horizontalpodautoscalers,services,pods,configmaps,secrets"
    mine = ("--selector=e2e=units", "--ignore-not-found", "--wait")
    as_deployer(pipeline, "delete", kinds, *mine)


def test_top_tells_what_nodes_and_pods_use(pipeline: Cluster) -> None:
    def told(*what: str) -> set[str]:
        rows = pipeline.kubectl("top", *what, "--no-headers").stdout.splitlines()
        return {row.split()[0] for row in rows}

    nodes = set(pipeline.nodes())
    wait_until(lambda: told("nodes") == nodes, _METRICS_SECONDS, "metrics of every node")

    def every_pod() -> bool:
        found = pipeline.staying("pods", "--field-selector=status.phase=Running")
        running = {each["metadata"]["name"] for each in found}
        assert running
        return told("pods") >= running

    wait_until(every_pod, _METRICS_SECONDS, "metrics of every pod")
    print(pipeline.kubectl("top", "nodes").stdout)


def test_the_receiver_is_scaled_within_the_facts_of_the_cluster(pipeline: Cluster) -> None:
    facts = pipeline.get("configmap/cluster", "--namespace=flux-system")["data"]

    def active() -> dict[str, Any]:
        scaler = pipeline.get("horizontalpodautoscaler/receiver")
        conditions = {
            condition["type"]: condition for condition in scaler["status"].get("conditions", [])
        }
        assert conditions["ScalingActive"]["status"] == "True", conditions
        assert conditions["AbleToScale"]["status"] == "True", conditions
        return scaler

    scaler = wait_until(active, _METRICS_SECONDS, "the receiver's autoscaler to read its CPU")
    assert str(scaler["spec"]["minReplicas"]) == facts["receiver_min_replicas"]
    assert str(scaler["spec"]["maxReplicas"]) == facts["receiver_max_replicas"]
    assert scaler["status"]["currentMetrics"][0]["resource"]["current"]["averageValue"]

    def in_bounds() -> bool:
        deployment = pipeline.get("deployment/receiver")
        low, high = (int(scaler["spec"][bound]) for bound in ("minReplicas", "maxReplicas"))
        return low <= int(deployment["spec"]["replicas"]) <= high

    wait_until(in_bounds, _SCALE_SECONDS, "the receiver to have as many replicas as it may")


@pytest.mark.long
@pytest.mark.usefixtures("tidy")
def test_a_newcomers_deployment_is_scaled_under_load(pipeline: Cluster, image: str) -> None:
    """What somebody does on the first day, as the account that is theirs."""
    deployment, service, scaler, load = hello(image)
    as_deployer(pipeline, "apply", "--filename=-", documents=[deployment, service])
    started = f"--timeout={_START_SECONDS}s"
    as_deployer(pipeline, "rollout", "status", "deployment/hello", started)
    assert "serving" in as_deployer(pipeline, "logs", "deployment/hello")
    inside = ("exec", "deployment/hello", "--", "python", "-c", "print(6 * 7)")
    assert as_deployer(pipeline, *inside) == "42\n"
    with pipeline.forward("deployment/hello", 8080, PLAYGROUND, DEPLOYER) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}", timeout=10, trust_env=False)
        assert answer.text == "hello"

    def replicas() -> int:
        found = json.loads(as_deployer(pipeline, "get", "deployment/hello", "-o", "json"))
        return int(found["status"].get("readyReplicas", 0))

    assert replicas() == 1
    as_deployer(pipeline, "apply", "--filename=-", documents=[scaler, load])
    begin = time.monotonic()
    wait_until(lambda: replicas() > 1, _SCALE_SECONDS, "a second replica under load")
    print(f"a second replica serves {time.monotonic() - begin:.0f} s after the load began")
    print(
        as_deployer(pipeline, "get", "deployment,horizontalpodautoscaler", "--selector=app=hello")
    )
    print(as_deployer(pipeline, "top", "pods"))


def hello(image: str) -> list[dict[str, Any]]:
    """Return the Deployment hello, its Service and autoscaler, and the Job that asks it."""
    values = {"server": SERVER, "client": CLIENT, "restricted": RESTRICTED, "image": image}
    quoted = {name: json.dumps(value) for name, value in values.items()}
    return list(yaml.safe_load_all(Template(HELLO.read_text()).substitute(quoted)))


LIMITS: Final = ROOT / "apps/playground/manifests/limits.yaml"

# Resource, group, verbs. What is not here is refused.
ALL: Final = "create delete deletecollection get list patch update watch"
SEE: Final = "get list watch"
MAY: Final = {
    "deployments.apps": ALL,
    "deployments.apps/scale": ALL,
    "statefulsets.apps": ALL,
    "statefulsets.apps/scale": ALL,
    "replicasets.apps": SEE,
    "jobs.batch": ALL,
    "cronjobs.batch": ALL,
    "horizontalpodautoscalers.autoscaling": ALL,
    "configmaps": ALL,
    "persistentvolumeclaims": ALL,
    "pods": ALL,
    "secrets": ALL,
    "services": ALL,
    "pods/attach": "create get",
    "pods/exec": "create get",
    "pods/portforward": "create get",
    "pods/ephemeralcontainers": "get patch update",
    "pods/log": "get",
    "events": SEE,
    "events.events.k8s.io": SEE,
    "limitranges": SEE,
    "resourcequotas": SEE,
    "serviceaccounts": SEE,
    "endpointslices.discovery.k8s.io": SEE,
    "networkpolicies.networking.k8s.io": SEE,
    "pods.metrics.k8s.io": "get list",
}
MAY_NOT: Final = {
    "serviceaccounts": "create delete patch update impersonate",
    "serviceaccounts/token": "create",
    "roles.rbac.authorization.k8s.io": f"{ALL} bind escalate",
    "rolebindings.rbac.authorization.k8s.io": ALL,
    "networkpolicies.networking.k8s.io": "create delete patch update",
    "resourcequotas": "create delete patch update",
    "limitranges": "create delete patch update",
    "poddisruptionbudgets.policy": "create delete patch update",
    "ingresses.networking.k8s.io": "create delete patch update",
    "endpointslices.discovery.k8s.io": "create delete patch update",
    "endpoints": "create delete patch update",
    "daemonsets.apps": "create",
    "pods/eviction": "create",
    "pods/proxy": "create get",
    "services/proxy": "create get",
    "services/status": "patch update",
    "kustomizations.kustomize.toolkit.fluxcd.io": ALL,
    "gitrepositories.source.toolkit.fluxcd.io": ALL,
}
NOWHERE: Final = {
    "nodes": f"{ALL} proxy",
    "nodes/proxy": "create get",
    "nodes.metrics.k8s.io": "get list",
    "namespaces": ALL,
    "persistentvolumes": ALL,
    "clusterroles.rbac.authorization.k8s.io": f"{ALL} bind escalate",
    "clusterrolebindings.rbac.authorization.k8s.io": ALL,
    "priorityclasses.scheduling.k8s.io": "create delete patch update",
    "storageclasses.storage.k8s.io": "create delete patch update",
    "customresourcedefinitions.apiextensions.k8s.io": "create delete patch update",
    "apiservices.apiregistration.k8s.io": "create delete patch update",
    "validatingadmissionpolicies.admissionregistration.k8s.io": "create delete patch update",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io": "create delete patch update",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": "create delete patch update",
    "certificatesigningrequests.certificates.k8s.io": "create",
    "users": "impersonate",
    "groups": "impersonate",
}
OTHER_NAMESPACES: Final = ("face", "flux-system", "kube-system", "default", "metrics-server")


def table(rights: dict[str, str], namespace: str | None) -> list[tuple[str, str, str | None]]:
    return [
        (verb, resource, namespace) for resource, verbs in rights.items() for verb in verbs.split()
    ]


def review(right: tuple[str, str, str | None]) -> dict[str, Any]:
    """Return the question that `kubectl auth can-i` asks."""
    verb, resource, namespace = right
    name, _, sub = resource.partition("/")
    name, _, group = name.partition(".")
    attributes = {"verb": verb, "resource": name, "group": group, "subresource": sub}
    if namespace:
        attributes["namespace"] = namespace
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }


def allowed(
    cluster: Cluster, rights: list[tuple[str, str, str | None]], who: str = DEPLOYER
) -> set[Any]:
    """Ask the API server, as a deployer, for each of the rights."""
    asked = yaml.safe_dump_all(map(review, rights))
    # What is no object is not in the schemas that kubectl checks with.
    command = ("create", "--filename=-", "--validate=false", "-o", "json", who)
    answer = cluster.kubectl(*command, input=asked).stdout
    decoder, found = json.JSONDecoder(), []
    while answer.strip():
        one, end = decoder.raw_decode(answer.lstrip())
        found.append(one["status"]["allowed"])
        answer = answer.lstrip()[end:]
    assert len(found) == len(rights)
    return {right for right, yes in zip(rights, found, strict=True) if yes}


def test_the_deployer_may_do_what_a_newcomer_needs_and_nothing_else(pipeline: Cluster) -> None:
    may = table(MAY, PLAYGROUND)
    assert set(may) - allowed(pipeline, may) == set()
    never = table(MAY_NOT, PLAYGROUND) + table(NOWHERE, None)
    assert allowed(pipeline, never) == set()
    for namespace in OTHER_NAMESPACES:
        everywhere = table(MAY, namespace) + table(MAY_NOT, namespace)
        assert allowed(pipeline, everywhere) == set()


def test_nothing_is_missing_in_the_table(pipeline: Cluster) -> None:
    def listed(namespace: str) -> set[tuple[str, str]]:
        command = ("auth", "can-i", "--list", "--no-headers", f"--namespace={namespace}", DEPLOYER)
        rows = pipeline.kubectl(*command).stdout.splitlines()
        named = (row.partition("[") for row in rows if not row.startswith((" ", "selfsubject")))
        return {
            (name.strip(), verb)
            for name, _, rest in named
            for verb in rest.rpartition("[")[2].rstrip("]").split()
        }

    expected = {(what, verb) for what, verbs in MAY.items() for verb in verbs.split()}
    assert listed(PLAYGROUND) == expected
    for namespace in OTHER_NAMESPACES:
        assert listed(namespace) == set(), namespace


@pytest.mark.long
def test_a_tenant_is_one_commit(delivery: Delivery) -> None:
    """A copy with another name and one line makes it; the revert takes all but the namespace."""
    cluster, repository, name = delivery.cluster, delivery.repository, "team-a"
    where, deployer = f"--namespace={name}", f"--as=system:serviceaccount:{name}:deployer"
    unit = repository.folder / "apps" / name
    shutil.copytree(repository.folder / "apps" / PLAYGROUND, unit)
    for file in unit.rglob("*.yaml"):
        file.write_text(file.read_text().replace(PLAYGROUND, name))
    line = f"- ../../../apps/{PLAYGROUND}\n"
    entry = f"{ENTRY_FOLDER}/kustomization.yaml"
    repository.replace(entry, line, line + line.replace(PLAYGROUND, name))
    try:
        delivery.wait_ready(delivery.push("A tenant"))
        own, others = table(MAY, name), table(MAY, PLAYGROUND)
        assert allowed(cluster, own, deployer) == set(own)
        assert allowed(cluster, others, deployer) == set()
        assert allowed(cluster, own) == set()
        config_map = ("create", "configmap", "data", "--from-literal=a=b", where)
        cluster.kubectl(*config_map, deployer)

        repository.revert()
        repository.push()
        delivery.wait_ready()

        def pruned() -> bool:
            kinds = "roles,rolebindings,resourcequotas,limitranges,networkpolicies"
            return not cluster.get(kinds, where)["items"]

        wait_until(pruned, _START_SECONDS, "what made the tenant to be pruned")
        assert cluster.get("configmap/data", where)["data"] == {"a": "b"}
        assert allowed(cluster, own, deployer) == set()
    finally:
        cluster.kubectl("delete", "namespace", name, "--ignore-not-found")


ADMIN: Final = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "metadata": {"name": "more"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "cluster-admin",
    },
    "subjects": [{"kind": "ServiceAccount", "name": "deployer", "namespace": PLAYGROUND}],
}
"""What would make the deployer an administrator, once it has a kind."""

UNWANTED: Final[dict[str, dict[str, Any]]] = {
    "rolebindings": {**ADMIN, "kind": "RoleBinding"},
    "clusterrolebindings": {**ADMIN, "kind": "ClusterRoleBinding"},
    "namespaces": {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mine"}},
    "nodes": {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "mine"}},
    "networkpolicies": {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "open"},
        "spec": {"podSelector": {}, "egress": [{}], "policyTypes": ["Egress"]},
    },
}


@pytest.mark.parametrize("resource", UNWANTED)
def test_what_would_give_more_rights_cannot_be_created(pipeline: Cluster, resource: str) -> None:
    """The same by trying, with the ways by which somebody would try to get more."""
    assert f'cannot create resource "{resource}"' in refusal(pipeline, UNWANTED[resource])


@pytest.mark.parametrize(
    "command",
    [
        ("get", "secret", "mariadb-admin", "--namespace=face"),
        ("get", "secrets", "--namespace=face"),
        ("get", "secrets", "--namespace=flux-system"),
        ("get", "pods", "--namespace=face"),
        ("exec", "mariadb-0", "--namespace=face", "--", "id"),
        ("get", "nodes"),
        ("delete", "resourcequota", "total", HERE),
        ("delete", "networkpolicy", "default-deny", HERE),
        ("delete", "namespace", PLAYGROUND),
        ("label", "namespace", PLAYGROUND, "pod-security.kubernetes.io/enforce-"),
        ("create", "token", "deployer", HERE),
    ],
    ids=" ".join,
)
def test_what_is_forbidden_does_not_work(pipeline: Cluster, command: tuple[str, ...]) -> None:
    result = pipeline.kubectl(*command[:1], DEPLOYER, *command[1:], check=False)
    assert "is forbidden: User" in result.stderr, result.stdout or result.stderr


def test_a_token_of_the_deployer_cannot_become_somebody_else(pipeline: Cluster) -> None:
    """With a real token, as a newcomer has it, because `--as` is the administrator's."""
    token = pipeline.kubectl("create", "token", "deployer", HERE, "--duration=10m").stdout.strip()
    config = json.loads(
        pipeline.kubectl("config", "view", "--raw", "--minify", "-o", "json").stdout
    )
    server = config["clusters"][0]["cluster"]["server"]
    # The certificate is not what is tested; the address is this machine's own.
    with httpx.Client(base_url=server, verify=False, trust_env=False) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        own = client.get(f"/api/v1/namespaces/{PLAYGROUND}/pods")
        assert own.status_code == httpx.codes.OK, own.text
        for headers in (
            {"Impersonate-User": "kubernetes-admin"},
            {"Impersonate-User": "system:admin", "Impersonate-Group": "system:masters"},
            {"Impersonate-User": "system:serviceaccount:flux-system:kustomize-controller"},
        ):
            answer = client.get(f"/api/v1/namespaces/{PLAYGROUND}/pods", headers=headers)
            assert answer.status_code == httpx.codes.FORBIDDEN, answer.text
            assert "cannot impersonate" in answer.json()["message"]
        secrets = client.get("/api/v1/namespaces/face/secrets")
        assert secrets.status_code == httpx.codes.FORBIDDEN


@pytest.mark.usefixtures("tidy")
def test_a_pod_that_says_nothing_gets_limits(pipeline: Cluster, image: str) -> None:
    as_deployer(pipeline, "create", "--filename=-", documents=[pod("plain", image)])
    found = pipeline.get("pod/plain", HERE)["spec"]
    (limits,) = (
        document
        for document in yaml.safe_load_all(LIMITS.read_text())
        if document["kind"] == "LimitRange"
    )
    rule = limits["spec"]["limits"][0]
    assert found["containers"][0]["resources"] == {
        "limits": rule["default"],
        "requests": rule["defaultRequest"],
    }
    assert not any("projected" in volume for volume in found.get("volumes", []))


@pytest.mark.usefixtures("tidy")
def test_more_than_the_quota_is_refused(pipeline: Cluster, image: str) -> None:
    hog = pod("hog", image)
    hog["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": "600m"},
        "limits": {"cpu": "1"},
    }
    as_deployer(pipeline, "create", "--filename=-", documents=[hog])
    hog["metadata"]["name"] = "another-hog"
    reason = refusal(pipeline, hog)
    assert "exceeded quota: total, requested: requests.cpu=600m" in reason
    assert "limited: requests.cpu=1" in reason


PRIVILEGED: Final = {"privileged": True}
REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "more than a container may": (
        {"resources": {"limits": {"memory": "3Gi"}}},
        "maximum memory usage per Container is 2Gi, but limit is 3Gi",
    ),
    "privileged": ({"securityContext": PRIVILEGED}, 'violates PodSecurity "restricted:'),
    "root": (
        {"securityContext": {"runAsUser": 0, "runAsNonRoot": False}},
        'violates PodSecurity "restricted:',
    ),
}
REFUSED_PODS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "network of the node": ({"hostNetwork": True}, 'violates PodSecurity "restricted:'),
    "folder of the node": (
        {"volumes": [{"name": "node", "hostPath": {"path": "/"}}]},
        'violates PodSecurity "restricted:',
    ),
    "priority over the pipeline": (
        {"priorityClassName": "face-data"},
        "exceeded quota: priority, requested: pods=1",
    ),
    "priority over everything": (
        {"priorityClassName": "system-node-critical"},
        "exceeded quota: priority, requested: pods=1",
    ),
    "account that is not there": (
        {"serviceAccountName": "kustomize-controller"},
        'service account playground/kustomize-controller: serviceaccount "kustomize-controller"',
    ),
    "account of people": (
        {"serviceAccountName": "deployer"},
        "deployer is for people, and a pod would renew its token: leave it out",
    ),
    "account of people by its old name": (
        {"serviceAccount": "deployer"},
        "deployer is for people, and a pod would renew its token: leave it out",
    ),
}


@pytest.mark.parametrize("fault", [*REFUSED, *REFUSED_PODS])
def test_a_pod_that_asks_for_too_much_is_refused(pipeline: Cluster, image: str, fault: str) -> None:
    bad = pod("bad", image)
    if fault in REFUSED:
        change, reason = REFUSED[fault]
        bad["spec"]["containers"][0].update(change)
    else:
        change, reason = REFUSED_PODS[fault]
        bad["spec"].update(change)
    assert reason in refusal(pipeline, bad)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "NodePort"}, "exceeded quota: total, requested: services.nodeports=1"),
        ({"type": "LoadBalancer"}, "exceeded quota: total, requested: services."),
        ({"externalIPs": ["10.96.0.1"]}, "would take other namespaces' traffic: leave it out"),
    ],
    ids=["port of the nodes", "load balancer", "addresses of others"],
)
def test_a_service_that_reaches_out_is_refused(
    pipeline: Cluster, change: dict[str, Any], reason: str
) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "out"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "out"}, **change},
    }
    assert reason in refusal(pipeline, service)


def test_a_secret_that_is_a_token_is_refused(pipeline: Cluster) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "forever",
            "annotations": {"kubernetes.io/service-account.name": "deployer"},
        },
        "type": "kubernetes.io/service-account-token",
    }
    assert "is a token that never ends: ask for one that ends" in refusal(pipeline, secret)


READY: Final = ("wait", "--for=condition=Ready", "--timeout=120s")
OTHERS: Final = {
    "receiver.face": 8000,
    "frontend.face": 8080,
    "mariadb.face": 3306,
    "nsqd.face": 4151,
    "object-store.face": 7070,
    "face-recog.face": 50051,
    "metrics-server.metrics-server": 10250,
    "kubernetes.default": 443,
}
"""Services of other namespaces, and their ports."""


@pytest.fixture
def stranger(pipeline: Cluster, image: str) -> Iterator[str]:
    """Name a pod that runs in another namespace, where nothing closes the way out."""
    where = "--namespace=default"
    document = yaml.safe_dump(pod("stranger", image))
    try:
        pipeline.kubectl("create", "--filename=-", where, input=document)
        pipeline.kubectl(*READY, where, "pod/stranger")
        yield "stranger"
    finally:
        pipeline.kubectl("delete", "pod/stranger", where, "--ignore-not-found")


@pytest.mark.usefixtures("tidy")
def test_pods_of_the_playground_reach_one_another_and_nobody_else(
    pipeline: Cluster, image: str, stranger: str
) -> None:
    ours = [pod("listener", image, SERVER), pod("client", image)]
    as_deployer(pipeline, "create", "--filename=-", documents=ours)
    as_deployer(pipeline, *READY, "pod/listener", "pod/client")
    address = pipeline.get("pod/listener", HERE)["status"]["podIP"]
    node = pipeline.get("nodes")["items"][0]["status"]["addresses"][0]["address"]
    targets = [
        (address, 8080, "listener"),
        *((f"{name}.svc.cluster.local", port, name) for name, port in OTHERS.items()),
        (node, 10250, "kubelet"),
        (node, 6443, "API server"),
    ]

    def as_meant() -> bool:
        found = {what for *_, what in reached(pipeline, "client", PLAYGROUND, targets)}
        assert found == {"listener"}
        # From where nothing closes the way out, what has no policies is reached: so it is there.
        found = {what for *_, what in reached(pipeline, stranger, "default", targets)}
        open_to_all = {"kubernetes.default", "metrics-server.metrics-server"}
        assert found == {*open_to_all, "kubelet", "API server"}
        return True

    wait_until(as_meant, _POLICY_SECONDS, "only pods of the playground to be reached")
