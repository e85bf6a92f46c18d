"""The program against an HTTPS server that answers as the API server of Kubernetes does."""

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.local.processes import free_port
from services.testing.servers import find_binary

SECRETS = "/api/v1/namespaces/face/secrets/"
FORBIDDEN = 'secrets is forbidden: User "face" cannot create resource "secrets" in API group ""'


def status(code: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "code": code, "reason": reason, "message": message}


@dataclass
class ApiServer:
    """Keeps the Secrets; the next answers are the ``faults``, while there are any."""

    port: int = 0
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    on_request: Callable[[], None] = lambda: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def post(self, path: str, token: str, secret: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.on_request()
            self.requests.append(path)
            self.tokens.append(token)
            if self.faults:
                return self.faults.pop(0)
            assert path == "/api/v1/namespaces/face/secrets"
            assert (secret["apiVersion"], secret["kind"]) == ("v1", "Secret")
            name = secret["metadata"]["name"]
            if name in self.secrets:
                return status(409, "AlreadyExists", f'secrets "{name}" already exists')
            self.secrets[name] = secret
            return 201, secret

    def get(self, name: str) -> tuple[int, dict[str, Any]]:
        secret = self.secrets.get(name)
        if secret is None:
            return status(404, "NotFound", f'secrets "{name}" not found')
        data = {
            key: base64.b64encode(value.encode()).decode()
            for key, value in secret["stringData"].items()
        }
        return 200, {"kind": "Secret", "data": data}

    def patch(self, name: str, change: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests.append(name)
        self.secrets[name]["stringData"].update(change["stringData"])
        return 200, self.secrets[name]

    def values(self) -> list[str]:
        return [
            value for secret in self.secrets.values() for value in secret["stringData"].values()
        ]


class Handler(BaseHTTPRequestHandler):
    def __init__(self, api: ApiServer, *arguments: Any) -> None:
        self.api = api
        super().__init__(*arguments)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(*self.api.post(self.path, self.headers["Authorization"], body))

    def do_GET(self) -> None:
        self._answer(*self.api.get(self.path.removeprefix(SECRETS)))

    def do_PATCH(self) -> None:
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(*self.api.patch(self.path.removeprefix(SECRETS), body))

    def _answer(self, code: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *(find_binary("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
            *("-keyout", str(folder / "key"), "-out", str(folder / "ca.crt")),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "ca.crt", folder / "key"


@pytest.fixture
def api(certificate: tuple[Path, Path]) -> Iterator[ApiServer]:
    served = ApiServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, served))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    served.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def identity(certificate: tuple[Path, Path], tmp_path: Path) -> Path:
    """What Kubernetes mounts into the pod."""
    folder = tmp_path / "identity"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(certificate[0].read_bytes())
    (folder / "namespace").write_text("face")
    (folder / "token").write_text("token-1")
    return folder


class Job:
    def __init__(self, identity: Path, port: int) -> None:
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(port),
            "SERVICE_ACCOUNT_FOLDER": str(identity),
        }

    def start(
        self, *arguments: str, module: str = "services.credentials", **environment: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**self._environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Return exit status and everything that it said."""
        process = self.start(*arguments, **environment)
        said = "".join(process.communicate(timeout=60))
        return process.returncode, said


@pytest.fixture
def job(api: ApiServer, identity: Path) -> Job:
    return Job(identity, api.port)


def test_every_key_gets_a_random_value_of_its_own(job: Job, api: ApiServer) -> None:
    exit_status, said = job.run("mariadb-admin=password", "object-store=access-key-id,secret")
    assert exit_status == 0, said
    assert list(api.secrets) == ["mariadb-admin", "object-store"]
    assert list(api.secrets["object-store"]["stringData"]) == ["access-key-id", "secret"]
    for secret in api.secrets.values():
        assert secret["type"] == "Opaque"
        assert secret["metadata"]["labels"] == {
            "app.kubernetes.io/part-of": "facestack",
            "app.kubernetes.io/managed-by": "credentials",
        }
    assert len(set(api.values())) == 3
    for value in api.values():
        assert re.fullmatch(r"[-_A-Za-z0-9]{43}", value)  # 256 bits
        assert value not in said
    assert set(api.tokens) == {"Bearer token-1"}
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["created", "created"]


def test_what_exists_is_left_alone(job: Job, api: ApiServer) -> None:
    job.run("mariadb-admin=password")
    before = json.dumps(api.secrets)
    exit_status, said = job.run("mariadb-admin=password,more", "database-receiver=password")
    assert exit_status == 0
    assert json.dumps({"mariadb-admin": api.secrets["mariadb-admin"]}) == before
    assert "database-receiver" in api.secrets
    assert [json.loads(line)["event"] for line in said.splitlines()] == [
        "exists, left alone",
        "created",
    ]


def test_two_runs_at_once_make_each_secret_once(job: Job, api: ApiServer) -> None:
    orders = [f"secret-{number}=password" for number in range(20)]
    processes = [job.start(*orders) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(api.secrets) == 20
    assert "".join(said).count('"created"') == 20


def test_a_run_that_was_cut_off_is_continued(job: Job, api: ApiServer) -> None:
    process = job.start("first=password", "second=password")

    def cut_off() -> None:
        if api.secrets:
            process.kill()
            api.faults = [status(500, "InternalError", "nobody hears this")]

    api.on_request = cut_off
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert list(api.secrets) == ["first"]
    api.on_request = lambda: None
    first = json.dumps(api.secrets["first"])
    assert job.run("first=password", "second=password")[0] == 0
    assert json.dumps(api.secrets["first"]) == first
    assert list(api.secrets) == ["first", "second"]


def test_a_missing_permission_is_named(job: Job, api: ApiServer) -> None:
    api.faults = [status(403, "Forbidden", FORBIDDEN)]
    exit_status, said = job.run("mariadb-admin=password")
    assert exit_status == 1
    assert FORBIDDEN in said
    assert "needs a Role in namespace face with the verb create on secrets" in said
    assert not api.secrets


def test_a_permission_that_comes_later_is_waited_for(job: Job, api: ApiServer) -> None:
    api.faults = [status(403, "Forbidden", FORBIDDEN)]
    exit_status, said = job.run("mariadb-admin=password", WAIT_SECONDS="60")
    assert exit_status == 0
    waiting, created = (json.loads(line) for line in said.splitlines())
    assert waiting["event"] == "waiting"
    assert FORBIDDEN in waiting["reason"]
    assert created["event"] == "created"


@pytest.mark.parametrize(
    "fault",
    [
        status(500, "InternalError", "etcdserver: leader changed"),
        status(429, "TooManyRequests", "too many requests"),
        status(409, "Conflict", "Operation cannot be fulfilled on resourcequotas"),
        status(401, "Unauthorized", "Unauthorized"),
    ],
    ids=lambda fault: fault[1]["reason"],
)
def test_a_fault_that_passes_is_waited_out(
    job: Job, api: ApiServer, fault: tuple[int, dict[str, Any]]
) -> None:
    api.faults = [fault]
    exit_status, said = job.run("mariadb-admin=password", WAIT_SECONDS="60")
    assert exit_status == 0
    assert fault[1]["message"] in said
    assert len(api.requests) == 2
    assert "mariadb-admin" in api.secrets


def test_what_can_never_work_ends_at_once(job: Job, api: ApiServer) -> None:
    api.faults = [status(404, "NotFound", 'namespaces "face" not found')]
    exit_status, said = job.run("mariadb-admin=password", WAIT_SECONDS="3600")
    assert exit_status == 1
    assert 'refused Secret mariadb-admin: 404 namespaces "face" not found' in said


def test_an_answer_that_is_no_status_is_told_as_it_is(job: Job, api: ApiServer) -> None:
    api.faults = [(418, {"a": "proxy"})]
    exit_status, said = job.run("mariadb-admin=password")
    assert exit_status == 1
    assert "refused Secret mariadb-admin: 418" in said


def test_the_token_is_read_for_each_request(job: Job, api: ApiServer, identity: Path) -> None:
    def renew() -> None:
        (identity / "token").write_text("token-2\n")

    api.on_request = renew
    assert job.run("first=password", "second=password")[0] == 0
    assert api.tokens == ["Bearer token-1", "Bearer token-2"]


def test_a_server_that_is_away_is_waited_for_and_named(identity: Path) -> None:
    port = free_port()
    exit_status, said = Job(identity, port).run("mariadb-admin=password", WAIT_SECONDS="0.6")
    assert exit_status == 1
    assert said.count('"waiting"') == 2
    assert f"the API server https://127.0.0.1:{port} does not answer" in said


def test_a_server_of_another_authority_gets_no_token(
    job: Job, api: ApiServer, identity: Path, tmp_path: Path
) -> None:
    subprocess.run(
        [
            *(find_binary("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-subj", "/CN=other", "-keyout", str(tmp_path / "key")),
            *("-out", str(identity / "ca.crt")),
        ],
        check=True,
        capture_output=True,
    )
    exit_status, said = job.run("mariadb-admin=password")
    assert exit_status == 1
    assert "certificate verify failed" in said
    assert not api.requests


def test_a_webhook_that_repeats_a_value_does_not_bring_it_into_the_log(
    job: Job, api: ApiServer
) -> None:
    seen: list[str] = []

    def repeat(path: str, token: str, secret: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        seen.append(secret["stringData"]["password"])
        return status(422, "Invalid", f"denied: password={seen[0]}")

    api.post = repeat  # type: ignore[method-assign]
    exit_status, said = job.run("mariadb-admin=password", LOG_LEVEL="DEBUG")
    assert exit_status == 1
    assert "denied: password=..." in said
    assert seen[0] not in said


def test_sigterm_ends_it_while_it_waits(identity: Path) -> None:
    process = Job(identity, free_port()).start("mariadb-admin=password", WAIT_SECONDS="3600")
    assert process.stdout
    assert "waiting" in process.stdout.readline()
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143


@pytest.mark.parametrize("missing", ["token", "ca.crt", "namespace"])
def test_a_pod_without_its_identity_is_told_what_it_needs(
    job: Job, identity: Path, missing: str
) -> None:
    (identity / missing).unlink()
    exit_status, said = job.run("mariadb-admin=password")
    assert exit_status == 1
    assert "needs a volume with token, ca.crt and namespace" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "the following arguments are required: SECRET=KEY[,KEY]"),
        (["mariadb-admin"], "'' is no key of a Secret"),
        (["=password"], "'' is no name of a Secret"),
        (["Upper=password"], "'Upper' is no name of a Secret"),
        (["../x=password"], "'../x' is no name of a Secret"),
        (["name=a b"], "'a b' is no key of a Secret"),
        (["name=.."], "'..' is no key of a Secret"),
        (["name=a,"], "'' is no key of a Secret"),
        (["name=a,a"], "a key is there twice"),
        (["name=a", "name=b"], "named twice: name"),
    ],
)
def test_wrong_arguments_give_usage(
    job: Job, api: ApiServer, arguments: list[str], problem: str
) -> None:
    exit_status, said = job.run(*arguments)
    assert exit_status == 2
    assert said.startswith("usage: python -m services.credentials")
    assert problem in said
    assert not api.requests


def test_outside_of_a_cluster_it_says_so(identity: Path) -> None:
    exit_status, said = Job(identity, 1).run("name=a", KUBERNETES_SERVICE_PORT="")
    assert exit_status == 2
    assert "credentials: wrong settings: KUBERNETES_SERVICE_PORT" in said


def test_certificates_are_made_once_and_renewed_later(job: Job, api: ApiServer) -> None:
    def run(days: str) -> list[str]:
        process = job.start(
            "people", "mariadb", module="services.credentials.issuing", CERTIFICATE_DAYS=days
        )
        said, problems = process.communicate(timeout=60)
        assert process.returncode == 0, problems
        for value in api.values():
            assert value.splitlines()[1] not in said
        return [json.loads(line)["event"] for line in said.splitlines()]

    assert run("0.00001") == ["made the authority", "issued", "issued"]
    assert sorted(api.secrets) == ["tls-ca", "tls-mariadb", "tls-people"]
    assert run("90") == ["renewed", "renewed"]
    assert run("90") == ["is valid, left alone", "is valid, left alone"]
    api.faults = [status(403, "Forbidden", FORBIDDEN)]
    del api.secrets["tls-people"]
    process = job.start("people", module="services.credentials.issuing")
    assert "needs a Role in namespace face with the verb create" in process.communicate()[1]
