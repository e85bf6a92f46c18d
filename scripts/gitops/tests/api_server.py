"""A real API server without nodes, on which objects are applied as Flux applies them."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import pytest

from scripts.gitops.flux import NAMESPACE, Cluster, Kustomization, Object
from scripts.manifests.model import FLUX_API
from scripts.programs import Kubectl, KubectlError
from services.local.processes import free_port
from services.testing.servers import ServerProcess, find_binary

_TOKEN: Final = "only-for-this-test"
_READY_SECONDS: Final = 120


@contextmanager
def running(folder: Path) -> Iterator[Kubectl]:
    """Start etcd and the API server in a folder; give its administrator's kubectl once it answers.

    Meanwhile the environment's kubeconfig is the administrator's, for what calls kubectl itself.
    """
    etcd_port, peer_port, port = free_port(), free_port(), free_port()
    etcd = ServerProcess(
        [
            find_binary("etcd"),
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        ],
        port=etcd_port,
        log=folder / "etcd.log",
    )
    # One binary is all of Kubernetes, and the name that it is called by chooses.
    (folder / "kube-apiserver").symlink_to(find_binary("kubernetes"))
    (folder / "tokens.csv").write_text(f"{_TOKEN},admin,admin,system:masters\n")
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    server = ServerProcess(
        [
            str(folder / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            "--bind-address=127.0.0.1",
            # By default it is that of a network, which a machine need not have.
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={folder}",
            "--service-account-issuer=https://localhost",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
        ],
        port=port,
        log=folder / "api-server.log",
    )
    address = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "trial", "cluster": address}],
        "users": [{"name": "admin", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "trial", "context": {"cluster": "trial", "user": "admin"}}],
        "current-context": "trial",
    }
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    try:
        etcd.start()
        server.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(kubeconfig))
            kubectl = Kubectl()
            _wait_ready(kubectl)
            yield kubectl
    finally:
        server.stop()
        etcd.stop()


def _wait_ready(kubectl: Kubectl) -> None:
    """Return when the API server answers."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        with suppress(KubectlError):
            kubectl.get("get", "--raw=/readyz")
            return
        time.sleep(0.2)
    pytest.fail(f"the API server is not ready after {_READY_SECONDS} s")


def apply(kubectl: Kubectl, documents: list[Any]) -> None:
    """Apply documents in the name of Flux's controller."""
    kubectl.get(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=kustomize-controller",
        "--filename=-",
        given="\n---\n".join(json.dumps(document) for document in documents),
    )


def note(kubectl: Kubectl, kind: str, name: str, **status: Any) -> None:
    """Write into the status of an object of Flux's."""
    kubectl.get(
        "patch",
        kind,
        name,
        f"--namespace={NAMESPACE}",
        "--subresource=status",
        "--type=merge",
        f"--patch={json.dumps({'status': status})}",
    )


def sync(kubectl: Kubectl, cluster: Cluster) -> None:
    """Do what Flux does: apply everything, and note for each Kustomization what it has applied."""
    owned = [(kustomization, one) for kustomization, one in cluster.objects()]
    first = {"Namespace", "CustomResourceDefinition"}
    apply(kubectl, [_labelled(one, k.name) for k, one in owned if one.key[1] in first])
    established = "--for=condition=Established"
    kubectl.get("wait", established, "customresourcedefinitions", "--all", "--timeout=60s")
    apply(kubectl, [_labelled(one, k.name) for k, one in owned if one.key[1] not in first])
    for kustomization in cluster.kustomizations.values():
        _note_inventory(kubectl, kustomization)


def _labelled(one: Object, owner: str) -> Any:
    """Return an object with the two labels that Flux adds."""
    document = deepcopy(one.document)
    labels = document["metadata"].setdefault("labels", {})
    labels["kustomize.toolkit.fluxcd.io/name"] = owner
    labels["kustomize.toolkit.fluxcd.io/namespace"] = "flux-system"
    return document


def _note_inventory(kubectl: Kubectl, kustomization: Kustomization) -> None:
    entries = []
    for one in kustomization.objects:
        group, kind, namespace, name = one.key
        version = str(one.document["apiVersion"]).rpartition("/")[2]
        name = name.replace(":", "__")
        entries.append({"id": f"{namespace}_{name}_{group}_{kind}", "v": version})
    kind = f"kustomizations.{FLUX_API}"
    note(kubectl, kind, kustomization.name, inventory={"entries": entries})
