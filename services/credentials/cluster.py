"""Reads and writes Secrets through the API server, with the identity of this pod.

By hand, for it is three requests: the ``kubernetes`` library would be 74 MB more in the image and
0.2 s more at the start, ``lightkube`` a second HTTP client, and neither knows which refusals pass.
"""

import base64
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx

from services.common.errors import RefusedError
from services.common.jobs import NotYetError
from services.credentials.settings import CredentialsSettings

LABELS: Final = {
    "app.kubernetes.io/part-of": "facestack",
    "app.kubernetes.io/managed-by": "credentials",
}

_TIMEOUT_SECONDS: Final = 10.0
# Permissions may arrive after this pod; a quota answers "Conflict" to requests at the same time.
_PASSING: Final = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class Cluster:
    """This pod's namespace; ``folder`` holds ``token``, ``ca.crt`` and ``namespace``."""

    def __init__(self, host: str, port: int, folder: Path) -> None:
        self.namespace = (folder / "namespace").read_text().strip()
        self._token = folder / "token"
        self._url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        self._client = httpx.Client(
            base_url=self._url,
            verify=ssl.create_default_context(cafile=str(folder / "ca.crt")),
            timeout=_TIMEOUT_SECONDS,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def create_secret(self, name: str, values: Mapping[str, str], *, kind: str = "Opaque") -> bool:
        """Create a Secret; ``False`` when there is one already, which stays as it is.

        Raises :class:`NotYetError`, or :class:`RefusedError` when it will never be taken.
        """
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": kind,
            "metadata": {"name": name, "labels": LABELS},
            "stringData": dict(values),
        }
        response = self._ask("POST", "", secret)
        if response.status_code == HTTPStatus.CREATED:
            return True
        if (response.status_code, _status(response)[0]) == (HTTPStatus.CONFLICT, "AlreadyExists"):
            return False
        raise self._problem(response, name, "create", *values.values())

    def read_secret(self, name: str) -> dict[str, bytes] | None:
        """Return a Secret's values, ``None`` when there is none; raises as the others do."""
        response = self._ask("GET", f"/{name}")
        if response.status_code == HTTPStatus.OK:
            data = response.json().get("data") or {}
            return {key: base64.b64decode(value) for key, value in data.items()}
        if (response.status_code, _status(response)[0]) == (HTTPStatus.NOT_FOUND, "NotFound"):
            return None
        raise self._problem(response, name, "get")

    def change_secret(self, name: str, values: Mapping[str, str]) -> None:
        """Give a Secret that there is other values, all at once; raises as the others do."""
        response = self._ask("PATCH", f"/{name}", {"stringData": dict(values)})
        if response.status_code != HTTPStatus.OK:
            raise self._problem(response, name, "patch", *values.values())

    def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> httpx.Response:
        kind = "merge-patch+json" if method == "PATCH" else "json"
        try:
            return self._client.request(
                method,
                f"/api/v1/namespaces/{self.namespace}/secrets{path}",
                content=None if body is None else json.dumps(body),
                headers={
                    # The kubelet renews the file.
                    "Authorization": f"Bearer {self._token.read_text().strip()}",
                    "Content-Type": f"application/{kind}",
                },
            )
        except httpx.TransportError as error:
            raise NotYetError(
                f"the API server {self._url} does not answer: {error or type(error).__name__}"
            ) from error

    def _problem(
        self, response: httpx.Response, name: str, verb: str, *values: str
    ) -> NotYetError | RefusedError:
        _, message = _status(response)
        for value in values:  # whatever a webhook may repeat
            message = message.replace(value, "...")
        problem = f"the API server refused Secret {name}: {response.status_code} {message}"
        if response.status_code == HTTPStatus.FORBIDDEN:
            problem += (
                f"; the ServiceAccount of this pod needs a Role in namespace {self.namespace}"
                f" with the verb {verb} on secrets"
            )
        if response.status_code in _PASSING or response.is_server_error:
            return NotYetError(problem)
        return RefusedError(problem)


def _status(response: httpx.Response) -> tuple[str, str]:
    """Return reason and message of the API server's answer, which is an object of kind Status."""
    try:
        status = response.json()
        return str(status.get("reason", "")), str(status.get("message", ""))
    except (ValueError, AttributeError):
        return "", response.reason_phrase


@contextmanager
def connected(settings: CredentialsSettings, job: str) -> Iterator[Cluster]:
    """Open a job's way to the cluster, or end the process with the line that says what is wrong."""
    try:
        cluster = Cluster(
            settings.kubernetes_service_host,
            settings.kubernetes_service_port,
            settings.service_account_folder,
        )
        with closing(cluster):
            yield cluster
    except OSError as error:
        raise SystemExit(
            f"{job}: {error}: the pod needs a volume with token, ca.crt and namespace"
        ) from None
    except (NotYetError, RefusedError) as error:
        raise SystemExit(f"{job}: {error}") from None
