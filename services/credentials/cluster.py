"""Creates Secrets through the API server, with the identity of this pod.

By hand, for it is one POST: the ``kubernetes`` library would be 74 MB more in the image and 0.2 s
more at the start, ``lightkube`` a second HTTP client, and neither knows which refusals pass.
"""

import ssl
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx

from services.common.errors import RefusedError
from services.common.jobs import NotYetError

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

    def create_secret(self, name: str, values: Mapping[str, str]) -> bool:
        """Create a Secret; ``False`` when there is one already, which stays as it is.

        Raises :class:`NotYetError`, or :class:`RefusedError` when it will never be taken.
        """
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": name, "labels": LABELS},
            "stringData": dict(values),
        }
        try:
            response = self._client.post(
                f"/api/v1/namespaces/{self.namespace}/secrets",
                json=secret,
                # The kubelet renews the file.
                headers={"Authorization": f"Bearer {self._token.read_text().strip()}"},
            )
        except httpx.TransportError as error:
            raise NotYetError(
                f"the API server {self._url} does not answer: {error or type(error).__name__}"
            ) from error
        if response.status_code == HTTPStatus.CREATED:
            return True
        reason, message = _status(response)
        if response.status_code == HTTPStatus.CONFLICT and reason == "AlreadyExists":
            return False
        for value in values.values():  # whatever a webhook may repeat
            message = message.replace(value, "...")
        problem = f"the API server refused Secret {name}: {response.status_code} {message}"
        if response.status_code == HTTPStatus.FORBIDDEN:
            problem += (
                f"; the ServiceAccount of this pod needs a Role in namespace {self.namespace}"
                " with the verb create on secrets"
            )
        if response.status_code in _PASSING or response.is_server_error:
            raise NotYetError(problem)
        raise RefusedError(problem)


def _status(response: httpx.Response) -> tuple[str, str]:
    """Return reason and message of the API server's answer, which is an object of kind Status."""
    try:
        status = response.json()
        return str(status.get("reason", "")), str(status.get("message", ""))
    except (ValueError, AttributeError):
        return "", response.reason_phrase
