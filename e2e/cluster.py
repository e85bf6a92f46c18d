"""A running cluster with the pipeline on it, through kubectl."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import pytest
import yaml

from e2e.waiting import wait_until

ROOT: Final = Path(__file__).parents[1]
STATE: Final = ROOT / "var" / "e2e"
NO_REGISTRY: Final = ROOT / "e2e" / "no-registry"
_KUBECTL_SECONDS: Final = 300
_BUILD_SECONDS: Final = 300
_READY_SECONDS: Final = 420
_STALLED_SECONDS: Final = 20
_CONTROL_PLANE: Final = "node-role.kubernetes.io/control-plane"


IN_USE: Final = pytest.StashKey["Cluster"]()
"""The cluster that tests now use: what they leave behind is collected when they fail."""


class ClusterError(Exception):
    """The cluster cannot be made or used; the text says what to do."""


@contextmanager
def phase(what: str) -> Iterator[None]:
    """Say what goes on, and afterwards how long it took."""
    print(f"== {what} ...", flush=True)
    started = time.monotonic()
    yield
    print(f"== {what}: {time.monotonic() - started:.0f} s", flush=True)


def run(*command: str | Path) -> None:
    """Run a command whose words are for the terminal."""
    result = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)
    if result.returncode != 0:
        raise ClusterError(f"'{' '.join(map(str, command))}' failed: see above")


def output(*command: str | Path) -> str:
    """Run a command for its result; what it says besides goes to the terminal."""
    result = subprocess.run(
        [str(part) for part in command], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False
    )
    if result.returncode != 0:
        raise ClusterError(f"'{' '.join(map(str, command))}' failed: see above")
    return result.stdout.strip()


def build_image(name: str, context: Path, *options: str) -> None:
    """Build an image in the local engine."""
    built = subprocess.run(
        ["docker", "build", "--quiet", f"--tag={name}", *options, "."],
        cwd=context,
        # The old builder is enough, and needs no plugin with any client.
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_SECONDS,
    )
    assert built.returncode == 0, f"{name}: {built.stderr}"


def _mapped(port: int) -> str:
    """Return the address at which kind has a port of the control plane on this machine."""
    nodes = yaml.safe_load((ROOT / "e2e" / "kind.yaml").read_text())["nodes"]
    ports = {one["containerPort"]: one["hostPort"] for one in nodes[0]["extraPortMappings"]}
    return f"http://127.0.0.1:{ports[port]}"


def tool(name: str) -> str:
    """Return the path of kind or kubectl."""
    return output(NO_REGISTRY / "tool", name)


class Cluster:
    """One cluster; the tests' only way to it beside HTTP."""

    namespace: Final = "face"

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.api_url = os.environ.get("API_URL") or _mapped(30000)
        self.page_url = os.environ.get("PAGE_URL") or _mapped(30080)
        self.stays = True
        """Does somebody use it after the tests, so that they must take away what is theirs?"""
        self._kubectl = tool("kubectl")
        # Commands without a namespace then mean the pipeline's, here and in a user's shell.
        self.kubectl("config", "set-context", "--current", f"--namespace={self.namespace}")
        self._containers = self._node_containers()

    @classmethod
    def given(cls, kubeconfig: Path) -> Self:
        """Use an existing cluster through a copy of its kubeconfig, which stays as it is."""
        if not kubeconfig.is_file():
            raise ClusterError(f"there is no kubeconfig {kubeconfig}")
        STATE.mkdir(parents=True, exist_ok=True)
        copy = STATE / "given-kubeconfig"
        copy.touch(mode=0o600)
        flat = ("config", "view", "--flatten", "--minify", f"--kubeconfig={kubeconfig.resolve()}")
        copy.write_text(output(tool("kubectl"), *flat))
        return cls(copy)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of somebody with this cluster as current context, and with kubectl."""
        return {
            **os.environ,
            "PATH": f"{Path(self._kubectl).parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(self.kubeconfig),
        }

    @property
    def is_ours(self) -> bool:
        """Is every node a container here, so that a test may stop it and load images into it?"""
        return self._containers is not None

    def nodes(self) -> list[str]:
        """Return the names of all nodes."""
        return self.kubectl("get", "nodes", "-o", "name").stdout.replace("node/", "").split()

    def nodes_ready(self) -> bool:
        """Is every node ready to run pods?"""
        path = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
        ready = self.kubectl("get", "nodes", "-o", f"jsonpath={path}").stdout.split()
        return set(ready) == {"True"}

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 - as subprocess calls it
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl; without ``--namespace`` it means the pipeline's."""
        result = subprocess.run(
            [self._kubectl, *args],
            env=self.environment,
            input=input,
            text=True,
            capture_output=True,
            check=False,
            timeout=_KUBECTL_SECONDS,
        )
        if check and result.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(args)}: {result.stderr or result.stdout}")
        return result

    def get(self, *args: str) -> dict[str, Any]:
        """Return what ``kubectl get`` finds."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *args, "-o", "json").stdout)
        return found

    def staying(self, *args: str) -> list[dict[str, Any]]:
        """Return what ``kubectl get`` lists, without what is on its way out."""
        return [
            item for item in self.get(*args)["items"] if "deletionTimestamp" not in item["metadata"]
        ]

    @contextmanager
    def forward(
        self, target: str, port: int, namespace: str = namespace, *options: str
    ) -> Iterator[int]:
        """Give a local port that leads to one of a pod or Service, past every network policy.

        For a moment: when the pod resets one connection, as servers do with idle ones, kubectl ends
        (https://github.com/kubernetes/kubernetes/issues/111825).
        """
        with subprocess.Popen(
            [
                *(self._kubectl, "port-forward", f"--namespace={namespace}"),
                *(*options, target, f":{port}"),
            ],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            said = ""
            local = None
            try:
                # It may complain first, as of an API that does not answer.
                while local is None and (line := process.stdout.readline()):
                    local = re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", line)
                    said += line
                if local is None:
                    raise AssertionError(f"kubectl port-forward {target} {port}: {said.strip()}")
                yield int(local.group(1))
            finally:
                if process.poll() is not None:
                    print(f"   kubectl port-forward {target} has ended: {process.stdout.read()}")
                process.terminate()

    def administrator_key(self) -> str:
        """Return the key that the credentials Job made, by the command that the docs give."""
        return self._password("administrator-key")

    def sql(self, statement: str, user: str = "root") -> list[tuple[str | None, ...]]:
        """Run SQL on the database as one of its users and return the rows, as text."""
        name = "mariadb-admin" if user == "root" else f"database-{user.replace('_', '-')}"
        password = self._password(name)
        client = (
            "read -r MYSQL_PWD; export MYSQL_PWD; "
            f"exec mariadb --host=127.0.0.1 --user={user} --batch --skip-column-names facestack"
        )
        rows = self.kubectl(
            "exec", "-i", "mariadb-0", "--", "sh", "-c", client, input=f"{password}\n{statement}\n"
        ).stdout
        return [tuple(map(_column, row.split("\t"))) for row in rows.splitlines()]

    def _password(self, secret: str) -> str:
        value = "go-template={{.data.password | base64decode}}"
        return self.kubectl("get", "secret", secret, "-o", value).stdout

    def pictures(self) -> int:
        """Return how many pictures the pipeline holds, as far as its database answers."""
        try:
            return int(str(self.sql("SELECT COUNT(*) FROM images")[0][0]))
        except AssertionError:
            return 0

    def load_image(self, *names: str) -> None:
        """Copy images from the local engine to every node that runs pods."""
        if self._containers is None:
            raise ClusterError("images can be loaded into a kind cluster on this machine only")
        missing = [
            name
            for name in names
            if subprocess.run(
                ["docker", "image", "inspect", name], capture_output=True, check=False
            ).returncode
        ]
        if missing:
            raise ClusterError(f"not in the local engine: {', '.join(missing)}: run 'make images'")
        with tempfile.NamedTemporaryFile(suffix=".tar", dir=STATE) as archive:
            # One archive holds a layer that several images share once.
            run("docker", "save", *_one_platform(), "--output", archive.name, *names)
            nodes = f"--nodes={','.join(self._containers)}"
            run(
                tool("kind"), "load", "image-archive", archive.name, nodes, f"--name={self._name()}"
            )

    def missing_images(self, names: Sequence[str]) -> list[str]:
        """Return those images that some node does not have."""
        if self._containers is None:
            return []
        missing = set()
        for node in self._containers:
            held = subprocess.run(
                ["docker", "exec", node, "ctr", "--namespace=k8s.io", "images", "list", "--quiet"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
            # containerd calls Docker's "mariadb" by its full name, docker.io/library/mariadb.
            short = {re.sub(r"^docker\.io/(library/)?", "", name) for name in held}
            missing |= set(names) - short
        return sorted(missing)

    def load_missing(self, rendered: str) -> None:
        """Load those images that rendered manifests run and some node does not have."""
        if missing := self.missing_images(images_of(rendered)):
            with phase(f"loading {len(missing)} images into the nodes"):
                self.load_image(*missing)

    def deploy(self, overlay: Path = ROOT / "overlays" / "kind") -> None:
        """Apply an overlay and return when all of it is ready."""
        rendered = self.kubectl("kustomize", str(overlay)).stdout
        self.load_missing(rendered)
        with phase(f"applying {overlay.relative_to(ROOT)}"):
            applied = self.kubectl("apply", "-f", "-", "-o", "name", input=rendered).stdout.split()
        with phase("waiting until all is ready"):
            self.wait_ready(applied)

    def wait_ready(self, names: Sequence[str] = ()) -> None:
        """Return when all workloads are ready; of Jobs only those that are named count."""
        progress = _Progress()

        def ready() -> bool:
            waiting = self.not_ready(names)
            progress.show(waiting)
            return not waiting

        try:
            wait_until(ready, _READY_SECONDS, "every workload to be ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{progress.details()}") from None

    def not_ready(self, names: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
        """Return what is not ready: how far it is, and why, as far as Kubernetes tells."""
        waiting = {}
        # Asked for at once: while the cluster starts, every kubectl takes its share of the machine.
        found = self.get("pods,events,deployments,statefulsets,jobs")["items"]
        pods = [item for item in found if item["kind"] == "Pod"]
        warned = {
            item["involvedObject"]["name"]: item.get("message", "")
            for item in found
            if item["kind"] == "Event" and item["type"] == "Warning"
        }
        for item in found:
            if item["kind"] in {"Pod", "Event"}:
                continue
            name = item["metadata"]["name"]
            if item["kind"] == "Job" and f"job.batch/{name}" not in names:
                continue
            if (progress := _progress(item)) is not None:
                labels = item["spec"]["template"]["metadata"]["labels"]
                waiting[name] = (progress, _reason(pods, labels, warned))
        return waiting

    def collect(self, folder: Path) -> None:
        """Write down all that tells why something failed."""
        folder.mkdir(parents=True, exist_ok=True)

        def keep(name: str, *args: str) -> None:
            # What kubectl cannot tell is said in its place, so that the rest is still collected.
            try:
                result = self.kubectl(*args, check=False)
                text = result.stdout + result.stderr
            except subprocess.TimeoutExpired as error:
                text = str(error)
            (folder / f"{name}.txt").write_text(text)

        keep("all", "get", "all,networkpolicies,pvc,nodes", "-o", "wide", "--show-labels=false")
        keep("events", "get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp")
        if self.kubectl("get", "namespace", "flux-system", check=False).returncode == 0:
            flux = "--namespace=flux-system"
            keep("flux", "get", "gitrepositories,kustomizations", flux, "-o", "yaml")
            keep("flux.log", "logs", flux, "--selector=app.kubernetes.io/part-of=flux", "--tail=-1")
            keep("git.log", "logs", "--namespace=git", "git-0")
        with suppress(AssertionError, subprocess.TimeoutExpired):
            for pod in self.get("pods")["items"]:
                name = pod["metadata"]["name"]
                keep(f"{name}.log", "logs", name, "--all-containers", "--timestamps")
                statuses = pod["status"].get("containerStatuses", [])
                if any(status["restartCount"] for status in statuses):
                    previous = ("--all-containers", "--timestamps", "--previous")
                    keep(f"{name}.previous.log", "logs", name, *previous)
                if pod["status"]["phase"] != "Succeeded" and not is_ready(pod):
                    keep(f"{name}.describe", "describe", "pod", name)

    def _node_containers(self) -> list[str] | None:
        """Return the nodes that may run pods, if every node is a kind container of this engine."""
        if not shutil.which("docker"):
            return None
        nodes = self.get("nodes")["items"]
        if not all(
            node["spec"].get("providerID", "").startswith("kind://docker/") for node in nodes
        ):
            return None
        names = [node["metadata"]["name"] for node in nodes]
        inspected = subprocess.run(
            ["docker", "container", "inspect", *names], capture_output=True, check=False
        )
        if inspected.returncode != 0:
            return None
        return [
            node["metadata"]["name"]
            for node in nodes
            if not any(taint["key"] == _CONTROL_PLANE for taint in node["spec"].get("taints", []))
        ]

    def _name(self) -> str:
        provider: str = self.get("nodes")["items"][0]["spec"]["providerID"]
        return provider.split("/")[3]


class _Progress:
    """One line whenever something moved; the reasons when nothing did for a while."""

    def __init__(self) -> None:
        self._started = self._moved = time.monotonic()
        self._line = self._told = ""
        self._waiting: dict[str, tuple[str, str]] = {}

    def show(self, waiting: dict[str, tuple[str, str]]) -> None:
        self._waiting = waiting
        now = time.monotonic()
        line = ", ".join(f"{name} {progress}" for name, (progress, _) in sorted(waiting.items()))
        if line != self._line:
            self._line, self._moved = line, now
            if line:
                print(f"   {now - self._started:3.0f} s  waiting for {line}", flush=True)
        elif now - self._moved > _STALLED_SECONDS and self.details() != self._told:
            self._told = self.details()
            print(self._told, flush=True)

    def details(self) -> str:
        return "\n".join(
            f"          {name} {progress}: {why[:200] or 'no reason is known'}"
            for name, (progress, why) in sorted(self._waiting.items())
        )


def images_of(rendered: str) -> list[str]:
    """Return every image that rendered manifests run."""
    images = set()
    for document in yaml.safe_load_all(rendered):
        spec = (document or {}).get("spec", {})
        pod = spec.get("jobTemplate", {}).get("spec", spec).get("template", {}).get("spec", {})
        for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
            images.add(container["image"])
    return sorted(images)


def _one_platform() -> list[str]:
    """Return what makes `docker save` leave out the platforms that were never pulled.

    An engine that keeps images in containerd names them all in the archive, and kind would look
    for each: https://github.com/kubernetes-sigs/kind/issues/3795.
    """
    info = ("docker", "info", "--format", "{{.OSType}}/{{.Architecture}} {{.DriverStatus}}")
    platform, _, status = output(*info).partition(" ")
    if "io.containerd.snapshotter" not in status:
        return []
    return [f"--platform={platform.replace('x86_64', 'amd64').replace('aarch64', 'arm64')}"]


def _column(text: str) -> str | None:
    """Undo the escapes of the MariaDB client's batch format."""
    if text == "NULL":
        return None
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t", "0": "\0"}.get(m[1], m[1]), text)


def _progress(item: dict[str, Any]) -> str | None:
    """Return how far a workload is, or None when it is as it should be."""
    status = item["status"]
    if item["kind"] == "Job":
        conditions = {each["type"]: each for each in status.get("conditions", [])}
        if "Complete" in conditions:
            return None
        failed = conditions.get("Failed")
        return failed.get("message", "failed") if failed else "not done"
    wanted = item["spec"]["replicas"]
    if status.get("observedGeneration", 0) < item["metadata"]["generation"]:
        return "not looked at"
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    return None if counts == [wanted] * 3 else f"{min(counts[1:])}/{wanted}"


def is_ready(pod: dict[str, Any]) -> bool:
    """Tell whether a pod gets traffic."""
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _reason(
    pods: Sequence[dict[str, Any]], labels: dict[str, str], warned: Mapping[str, str]
) -> str:
    """Return why the first of a workload's pods that is not ready is not ready."""
    for pod in pods:
        if is_ready(pod) or not labels.items() <= pod["metadata"]["labels"].items():
            continue
        conditions = {each["type"]: each for each in pod["status"].get("conditions", [])}
        for status in pod["status"].get("containerStatuses", []):
            waiting = status["state"].get("waiting")
            if waiting and waiting["reason"] != "ContainerCreating":
                return f"{waiting['reason']} {waiting.get('message', '')}".strip()
        if conditions.get("PodScheduled", {}).get("status") == "False":
            return str(conditions["PodScheduled"].get("message", ""))
        return warned.get(pod["metadata"]["name"], "")
    return ""
