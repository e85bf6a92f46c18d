"""What a running cluster has, through kubectl."""

import base64
import json
from collections.abc import Collection
from typing import Any, Final

from scripts.kubectl import Kubectl, KubectlError
from scripts.secrets.errors import NoContextError, SecretsError
from scripts.secrets.store import NAMESPACE

STAMP: Final = "facestack.dev/credentials"
_FLUX: Final = "flux-system"
_SECONDS: Final = 10


class Running:
    """The cluster of a context of kubectl; None: of the current one, NoContextError without."""

    def __init__(self, context: str | None = None) -> None:
        # Not `config current-context`: it fails without one just as with a file that is broken.
        view = ("config", "view", "--output=jsonpath={.current-context}")
        self._context = context or _said_by(Kubectl(), *view).strip()
        if not self._context:
            raise NoContextError("kubectl's current-context is not set")

    def __str__(self) -> str:
        return self._context

    def expect(self, cluster: str) -> None:
        """Refuse a cluster that follows another entry folder."""
        facts = self._get("configmap", "cluster", _FLUX)
        found = facts["data"].get("cluster") if facts else None
        if found and found != cluster:
            raise SecretsError(f"context {self} is the cluster that follows flux/clusters/{found}")

    def secret(self, name: str, namespace: str) -> dict[str, str] | None:
        """Return the values of a Secret; None when there is none."""
        found = self._get("secret", name, namespace)
        if found is None:
            return None
        data = found.get("data") or {}
        return {key: base64.b64decode(text).decode() for key, text in data.items()}

    def lagging(self, stamp: str, secrets: Collection[str]) -> list[str]:
        """Return what does not run with the stamp yet, of all that uses one of the Secrets."""
        found = []
        jobs = self._items("jobs", "--selector=app.kubernetes.io/name=migrations")
        if not any(_stamp(job) == stamp and job["status"].get("succeeded") for job in jobs):
            found.append("the migrations have not run with them")
        for deployment in self._items("deployments"):
            name = deployment["metadata"]["name"]
            if _mounted(deployment).isdisjoint(secrets):
                continue
            if _stamp(deployment) != stamp:
                found.append(f"deployment {name} has not got them")
            elif not _rolled_out(deployment):
                found.append(f"deployment {name} is still rolling")
        return found

    def _items(self, *what: str) -> list[dict[str, Any]]:
        answer = json.loads(
            self._kubectl("get", *what, f"--namespace={NAMESPACE}", "--output=json")
        )
        items: list[dict[str, Any]] = answer["items"]
        return items

    def _get(self, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        where = (kind, name, f"--namespace={namespace}")
        text = self._kubectl("get", *where, "--ignore-not-found", "--output=json")
        found: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return found

    def _kubectl(self, *arguments: str) -> str:
        return _said_by(Kubectl(self._context), f"--request-timeout={_SECONDS}s", *arguments)


def _said_by(kubectl: Kubectl, *arguments: str) -> str:
    try:
        return kubectl.get(*arguments)
    except KubectlError as error:
        raise SecretsError(f"kubectl says: {error}") from None


def _mounted(deployment: dict[str, Any]) -> set[str]:
    """Return the Secrets in the volumes of a deployment's pods."""
    volumes = deployment["spec"]["template"]["spec"].get("volumes") or []
    sources = [
        source
        for volume in volumes
        for source in (volume.get("projected") or {"sources": [volume]})["sources"]
    ]
    secrets = [one["secret"] for one in sources if one.get("secret")]
    return {secret.get("secretName") or secret["name"] for secret in secrets}


def _stamp(item: dict[str, Any]) -> str | None:
    annotations = item["spec"]["template"]["metadata"].get("annotations") or {}
    found: str | None = annotations.get(STAMP)
    return found


def _rolled_out(deployment: dict[str, Any]) -> bool:
    status = deployment["status"]
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return False
    wanted = deployment["spec"]["replicas"]
    names = ("replicas", "updatedReplicas", "availableReplicas")
    return [status.get(name, 0) for name in names] == [wanted] * len(names)
