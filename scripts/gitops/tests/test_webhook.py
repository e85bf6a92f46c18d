"""A git host's report, as Flux's Receiver takes and refuses it."""

import hashlib
import hmac
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, ClassVar, Final

import pytest
import yaml

from scripts.gitops import webhook
from scripts.gitops.source import ROOT

TOKEN: Final = "a-token-of-many"
RECEIVER: Final[dict[str, Any]] = yaml.safe_load(
    (ROOT / "flux/notifications/manifests/receiver.yaml").read_text()
)


class Receiver(BaseHTTPRequestHandler):
    """Judges a report as notification-controller does for a Receiver of the type github."""

    reconciled: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.send_response(self._judge(self.rfile.read(int(self.headers["Content-Length"]))))
        self.end_headers()

    def _judge(self, body: bytes) -> int:
        name = RECEIVER["metadata"]["name"]
        digest = hashlib.sha256((TOKEN + name + "flux-system").encode()).hexdigest()
        if self.path != f"/hook/{digest}":
            return 404
        kind, _, signature = self.headers.get("X-Hub-Signature-256", "").partition("=")
        right = hmac.new(TOKEN.encode(), body, hashlib.sha256).hexdigest()
        if kind != "sha256" or not hmac.compare_digest(signature, right):
            return 400
        if self.headers.get("Content-Type") != "application/json":
            return 400
        events = [event.lower() for event in RECEIVER["spec"]["events"]]
        if self.headers.get("X-GitHub-Event", "").lower() not in events:
            return 400
        self.reconciled.extend(resource["name"] for resource in RECEIVER["spec"]["resources"])
        return 200

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Receiver.reconciled.clear()
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("event", webhook.EVENTS)
def test_a_signed_report_makes_flux_look_at_the_repository(url: str, event: str) -> None:
    assert webhook.send(url, TOKEN, event) == 200
    assert Receiver.reconciled == ["facestack"]


def test_who_does_not_know_the_token_finds_nothing(url: str) -> None:
    assert webhook.send(url, "another", "push") == 404
    assert Receiver.reconciled == []


def test_who_knows_the_address_and_not_the_token_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = webhook.path(TOKEN)
    monkeypatch.setattr(webhook, "path", lambda _: address)
    assert webhook.send(url, "another", "push") == 400
    assert Receiver.reconciled == []


def test_an_event_that_is_no_push_is_refused(url: str) -> None:
    assert webhook.send(url, TOKEN, "issues") == 400
    assert Receiver.reconciled == []


def test_the_signature_is_githubs() -> None:
    # The example of GitHub's own documentation.
    found = webhook.headers("It's a Secret to Everybody", "push", b"Hello, World!")
    expected = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert found["X-Hub-Signature-256"] == f"sha256={expected}"


def test_the_receiver_is_the_one_whose_path_is_computed() -> None:
    assert RECEIVER["metadata"]["name"] == webhook.RECEIVER
    assert RECEIVER["spec"]["type"] == "github"
    assert RECEIVER["spec"]["secretRef"] == {"name": webhook.SECRET}
    assert set(webhook.EVENTS) == set(RECEIVER["spec"]["events"])
