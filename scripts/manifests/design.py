"""What the design says about the cluster, written once; the rules hold the manifests to it."""

from typing import Final

NAMESPACE: Final = "face"
PART_OF: Final = "facestack"

OWN_IMAGES: Final = frozenset(
    f"facestack/{name}"
    for name in (
        "credentials",
        "face-recog",
        "frontend",
        "image-processor",
        "migrations",
        "people",
        "receiver",
        "redeemer",
        "webhooks",
    )
)
THIRD_PARTY_IMAGES: Final = {
    "mariadb": "10.11.19",
    "nsqio/nsq": "v1.3.0",
    "versity/versitygw": "v1.8.0",
}

IMAGE_OF: Final = {"certificates": "credentials"}
"""Workloads that run another one's image, with its settings."""

SMALLEST_ID: Final = 10001
"""Below are users and groups that a node may have too."""

PRE_STOP_SECONDS: Final = 5
DRAIN_SECONDS: Final = 5
LONGEST_JOB_SECONDS: Final = 30
"""What is in flight when a pod's drain is over takes at most this long."""

GRACE_SECONDS: Final = {"mariadb": 60}
"""Stores that need longer than Kubernetes' own 30 s to close their files."""

SINGLE: Final = frozenset({"mariadb", "nsqd", "nsqlookupd", "object-store"})
"""Workloads that run once; all others have replicas."""

PRIORITIES: Final = {
    "CronJob": "face-data",
    "Deployment": "face-service",
    "Job": "face-data",
    "StatefulSet": "face-data",
}

NODE_PORTS: Final = {"receiver": 30000, "frontend": 30080}
"""Where clients come in on clusters without a load balancer."""

CERTIFIED: Final = (
    "face-recog",
    "image-processor",
    "mariadb",
    "object-store",
    "people",
    "receiver",
)
"""Who has a certificate of the cluster's own authority, in the Secret ``tls-NAME``."""

RIGHTS: Final = frozenset(
    {("credentials", "", "secrets", "create"), ("certificates", "", "secrets", "create")}
    | {
        ("certificates", "", f"secrets/tls-{name}", verb)
        for name in ("ca", *CERTIFIED)
        for verb in ("get", "patch")
    }
)
"""Who may do what with the Kubernetes API, all others nothing: workload, group, kind, verb.

A kind is all of its objects, or followed by the name of one.
"""

ENVIRONMENT_SECRETS: Final = {"object-store": {"ROOT_ACCESS_KEY", "ROOT_SECRET_KEY"}}
"""Secrets in environment variables: versitygw reads its root key from nowhere else."""

GIVEN_SECRETS: Final = {"webhooks": {"endpoints.json"}, "open-id-connect": {"client-secret"}}
"""Secrets that an operator may bring, with their keys; without them a workload does less."""

PORTS: Final = {
    "receiver": {"http": 8000, "probes": 9106},
    "frontend": {"http": 8080, "probes": 9107},
    "image-processor": {"probes": 9101},
    "face-recog": {"grpc": 50051, "probes": 9102},
    "redeemer": {"probes": 9103},
    "people": {"grpc": 50052, "probes": 9104},
    "webhooks": {"probes": 9105},
    "mariadb": {"mysql": 3306},
    "object-store": {"https": 7070},
    "nsqd": {"tcp": 4150, "http": 4151},
    "nsqlookupd": {"tcp": 4160, "http": 4161},
}
"""What each workload listens on; no Service leads to ``PRIVATE_PORT``."""

PRIVATE_PORT: Final = "probes"
"""Where /metrics is, and of the receiver /docs; kubelets ask there what serves no HTTP itself."""

HEADLESS: Final = frozenset({"face-recog", "mariadb", "nsqd", "object-store", "people"})
"""Services that give the pods' own addresses: to clients that balance, or to a store's one pod."""

FOUND_BEFORE_READY: Final = frozenset({"nsqd"})
"""Services that name pods which are not ready: nsqd tells its name before it is."""

FOLDERS: Final = {"tmp": "/tmp", "data": "/data", "run": "/run/mysqld"}  # noqa: S108 - in a pod
FOLDERS_OF: Final = {("mariadb", "data"): "/var/lib/mysql"}
"""Where volumes that are written to are mounted."""

TOKEN_FOLDER: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
TOKEN_FILES: Final = ("token", "ca.crt", "namespace")
"""What a workload with rights has, mounted explicitly because no token is mounted by itself."""

WAIT_SECONDS: Final = (60, 900)
"""How long a Job waits for what it needs: all is applied at once, in any order."""

# Ends of connections that are no workloads.
CLIENTS: Final = "clients"
OUTSIDE: Final = "outside"  # any public address
PRIVATE: Final = "a private network"  # that is not the pods'
OTHER: Final = "another namespace"
SYSTEM: Final = "another pod of kube-system"
DNS: Final = "DNS"
LOAD_BALANCER: Final = "load balancer"
DATABASE: Final = "managed database"
IDENTITY: Final = "agent of pod identities"

EDGES: Final = frozenset(
    {
        (CLIENTS, "receiver", 8000),
        (CLIENTS, "frontend", 8080),
        ("receiver", "mariadb", 3306),
        ("receiver", "nsqd", 4151),
        ("receiver", "object-store", 7070),
        ("receiver", "face-recog", 50051),
        ("receiver", "people", 50052),
        ("image-processor", "nsqlookupd", 4161),
        ("image-processor", "nsqd", 4150),
        ("image-processor", "mariadb", 3306),
        ("image-processor", "object-store", 7070),
        ("image-processor", "face-recog", 50051),
        ("redeemer", "mariadb", 3306),
        ("redeemer", "nsqd", 4151),
        ("redeemer", "object-store", 7070),
        ("people", "mariadb", 3306),
        ("people", "face-recog", 50051),
        ("webhooks", "mariadb", 3306),
        ("webhooks", OUTSIDE, 443),
        ("face-recog", "object-store", 7070),
        ("frontend", "receiver", 8000),
        ("nsqd", "nsqlookupd", 4160),
        ("migrations", "mariadb", 3306),
    }
)
"""Who opens connections to whom, at which port of the pod. Everybody asks DNS besides."""

PROVIDER_EDGE: Final = ("frontend", OUTSIDE, 443)
"""To the provider of OpenID Connect, where an overlay names one."""

DISCOVERED: Final = frozenset({("image-processor", "nsqd", 4150)})
"""Edges whose address no setting holds: nsqlookupd tells it."""

# Its address is not known beforehand, so its ports are open to any address.
API_SERVER: Final = {"certificates": 443, "credentials": 443}
"""Who talks to the API server, at which port of its Service."""

KUBEADM_PORT: Final = 6443
"""Where the API server of a cluster on one's own machines listens, but for minikube's."""

API_SERVER_PORTS: Final = frozenset({443, KUBEADM_PORT, 8443})
"""Where API servers listen behind that: the fact ``api_server_port`` says which it is."""

MANAGED: Final = {
    "mariadb": ((DATABASE, 3306),),
    "object-store": ((OUTSIDE, 443), (IDENTITY, 80)),
}
"""Who is asked, at which port, where a cloud takes the place of a workload."""

REGISTRIES: Final = r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com|ghcr\.io/[a-z0-9-]+"
"""Registries that hold our own images; a name without one is what a node has already."""

POD_NETWORK: Final = "10.244.0.0/16"

UNIT_IMAGES: Final = {"registry.k8s.io/metrics-server/metrics-server": "v0.9.0"}
"""What units in apps/ run, each at one version."""

UNIT_CLUSTER_RIGHTS: Final = {
    "system:metrics-server": frozenset(
        {("", "nodes/metrics", "get")}
        | {("", kind, verb) for kind in ("nodes", "pods") for verb in ("get", "list", "watch")}
    ),
    "system:aggregated-metrics-reader": frozenset(
        ("metrics.k8s.io", kind, verb)
        for kind in ("nodes", "pods")
        for verb in ("get", "list", "watch")
    ),
}
"""What a unit may do in all namespaces, by ClusterRole: group, kind, verb."""

GIVEN_ROLES: Final = {
    "metrics-server": frozenset(
        {
            (None, "ClusterRole", "system:auth-delegator"),
            ("kube-system", "Role", "extension-apiserver-authentication-reader"),
        }
    ),
}
"""Roles of Kubernetes' own that a unit's ServiceAccount has: namespace, kind, name."""
