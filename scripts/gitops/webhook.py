"""Say where a git host reports a push to a cluster, or report one as GitHub does."""

import argparse
import base64
import hashlib
import hmac
import json
import sys
from typing import Final

import httpx
import yaml

from scripts.gitops.diff import DiffError, Kubectl
from scripts.gitops.source import ROOT
from scripts.manifests import tools

NAMESPACE: Final = "flux-system"
RECEIVER: Final = "git-host"
SECRET: Final = "webhook"  # noqa: S105 - a name
EVENTS: Final = ("ping", "push")


def path(token: str) -> str:
    """Return the path of the Receiver, which only who knows the token can know."""
    digest = hashlib.sha256(f"{token}{RECEIVER}{NAMESPACE}".encode())
    return f"/hook/{digest.hexdigest()}"


def headers(token: str, event: str, body: bytes) -> dict[str, str]:
    """Return the headers of a report, which only who knows the token can sign."""
    signature = hmac.new(token.encode(), body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-Hub-Signature-256": f"sha256={signature}",
    }


def send(url: str, token: str, event: str, *, ref: str = "refs/heads/main") -> int:
    """Report an event to the Receiver below an address; return the status of its answer."""
    body = json.dumps({"zen": "ping"} if event == "ping" else {"ref": ref}).encode()
    answer = httpx.post(
        url.rstrip("/") + path(token), content=body, headers=headers(token, event, body), timeout=10
    )
    return answer.status_code


_ANSWERS: Final = {
    200: "understood: Flux looks at git now",
    400: "the signature or the event is wrong",
    404: "no Receiver has this path: is its token another one?",
    503: "the Receiver is not ready: kubectl describe receiver --namespace flux-system",
}


def _token(context: str | None) -> str:
    """Return the token of the cluster that kubectl talks to."""
    try:
        encoded = Kubectl(context).get(
            "get", "secret", SECRET, f"--namespace={NAMESPACE}", "--output=jsonpath={.data.token}"
        )
    except DiffError as error:
        raise SystemExit(f"webhook: {str(error).removeprefix('Error from server ')}") from None
    return base64.b64decode(encoded).decode()


def main() -> int:
    """Print the address, or send a report and print the answer; return 0 when it is understood."""
    parser = argparse.ArgumentParser(prog="scripts/webhook", description=__doc__)
    parser.add_argument("cluster", help="a folder of flux/")
    parser.add_argument("--context", help="of kubectl, when it is not the current one")
    parser.add_argument("--url", help="the Receiver's, when it is not https:// and webhook_host")
    parser.add_argument("--send", choices=EVENTS, help="report this event")
    arguments = parser.parse_args()
    file = ROOT / "flux" / arguments.cluster / "cluster.yaml"
    if not file.is_file():
        parser.error(f"there is no flux/{arguments.cluster}/cluster.yaml")
    facts = yaml.safe_load(file.read_text())["data"]
    if not arguments.url and "webhook_host" not in facts:
        parser.error(f"flux/{arguments.cluster}/cluster.yaml has no webhook_host: give --url")
    url = arguments.url or f"https://{facts['webhook_host']}"
    token = _token(arguments.context)
    if not arguments.send:
        print(f"address       {url.rstrip('/')}{path(token)}")
        print("content type  application/json")
        print(f"secret        the token in the Secret {SECRET} of {NAMESPACE}")
        print("events        push")
        return 0
    status = send(url, token, arguments.send)
    print(f"{status}: {_ANSWERS.get(status, 'not the answer of a Receiver')}")
    return 0 if status == 200 else 1  # noqa: PLR2004 - OK


if __name__ == "__main__":
    try:
        sys.exit(main())
    except tools.MissingToolError as error:
        sys.exit(f"webhook: {error}")
    except httpx.HTTPError as error:
        sys.exit(f"webhook: {error}")
