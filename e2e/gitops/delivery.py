"""A cluster that is run by pushing to a repository, and everything that takes."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from threading import Timer
from typing import Final

from e2e.cluster import NO_REGISTRY, Cluster, phase, run
from e2e.gitops.flux import ENTRY, ENTRY_FOLDER, NAMESPACE, Flux
from e2e.gitops.git import GitServer, Repository
from e2e.versions import write_tags
from e2e.waiting import wait_until

READY_SECONDS: Final = 600
"""How long a push may take until all is ready."""

NOTE_SECONDS: Final = 180
"""How long a push may take until its first object is applied.

Flux notices a server that has just gone away after 127 s where nothing answers: that is how long
Linux tries to connect (tcp_syn_retries in tcp(7)).
"""

_BOOTSTRAP_SECONDS: Final = 420
_NOTE: Final = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: note
  namespace: flux-system
data:
  text: {text}
"""

# Times that show a failure soon. All else is what every cluster of kind has.
_SOON: Final = """\
patches:
- target: {kind: Kustomization, name: facestack}
  patch: |
    - {op: replace, path: /spec/retryInterval, value: 5s}
    - op: add
      path: /spec/patches/-
      value:
        target: {kind: Kustomization, labelSelector: "!facestack.dev/root"}
        patch: |
          apiVersion: kustomize.toolkit.fluxcd.io/v1
          kind: Kustomization
          metadata:
            name: any
          spec:
            retryInterval: 5s
            timeout: 3m
"""
# What undoes changes by hand soon: an hour is too long for a test.
_OFTEN: Final = """\
    - op: add
      path: /spec/patches/-
      value:
        target: {kind: Kustomization, name: face-services}
        patch: |
          - {op: replace, path: /spec/interval, value: 10s}
"""


class Delivery:
    """A cluster, the repository that it follows, and the server between them."""

    def __init__(self, cluster: Cluster, server: GitServer, repository: Repository) -> None:
        self.cluster = cluster
        self.server = server
        self.repository = repository
        self.flux = Flux(cluster)
        self.bootstrapped = ""
        """What the first bootstrap has said."""
        self.first_push_seconds = 0.0
        """From the first push to everything ready."""
        self._good = ""

    def begin(self) -> None:
        """Bring a cluster with nothing of ours on it to where the first push leaves it."""
        self.add_entry(ENTRY)
        # Tests compare pods and may not find one more or less of them.
        facts = f"{ENTRY_FOLDER}/cluster.yaml"
        self.repository.replace(facts, 'receiver_max_replicas: "4"', 'receiver_max_replicas: "2"')
        entry = f"{ENTRY_FOLDER}/kustomization.yaml"
        self.repository.replace(entry, "- cluster.yaml\n", "- cluster.yaml\n- note.yaml\n")
        self.write_note("first")
        self.repository.commit("A cluster for tests")
        self._load_images()
        with phase("git server"):
            self.server.start()
        pushed = 0.0

        def accept(deploy_key: str) -> None:
            nonlocal pushed
            self.server.accept(deploy_key)
            pushed = self.repository.push("--force")

        with phase("bootstrap and the first push"):
            result = self.bootstrap(accept=accept)
        assert result.returncode == 0, "bootstrap failed: see above"
        assert pushed, "bootstrap has not printed a deploy key: see above"
        self.bootstrapped = result.stdout
        self.first_push_seconds = time.monotonic() - pushed
        self._good = self.repository.head

    def add_entry(self, name: str, like: str = "kind") -> None:
        """Add a cluster as the docs tell: copy a folder and change its facts."""
        clusters = self.repository.folder / "flux" / "clusters"
        folder = clusters / name
        shutil.copytree(clusters / like, folder)
        facts = f"flux/clusters/{name}/cluster.yaml"
        self.repository.replace(facts, f"cluster: {like}", f"cluster: {name}")
        if like == "kind":
            with (folder / "kustomization.yaml").open("a") as file:
                file.write(_SOON)

    def look_often(self) -> None:
        """Have Flux look after the services every 10 s and not every hour."""
        with (self.repository.folder / ENTRY_FOLDER / "kustomization.yaml").open("a") as file:
            file.write(_OFTEN)

    def bootstrap(
        self, entry: str = ENTRY, accept: Callable[[str], None] = lambda _: None
    ) -> subprocess.CompletedProcess[str]:
        """Run bootstrap as a person would, who gives the git host the key that it prints."""
        said = []
        with subprocess.Popen(
            [self.repository.folder / "scripts" / "bootstrap"],
            cwd=self.repository.folder,
            env={
                **self.cluster.environment,
                "CLUSTER": entry,
                "GIT_URL": self.server.url,
                "KNOWN_HOSTS": str(self.server.known_hosts),
                "INTERVAL": "2s",
                "TIMEOUT": str(_BOOTSTRAP_SECONDS),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            timer = Timer(2 * _BOOTSTRAP_SECONDS, process.kill)
            timer.start()
            try:
                for line in process.stdout:
                    print(f"   {line}", end="", flush=True)
                    said.append(line)
                    if key := re.search(r"ssh-ed25519 AAAA\S+", line):
                        accept(key.group())
            finally:
                timer.cancel()
        return subprocess.CompletedProcess(process.args, process.returncode, "".join(said))

    def push(self, message: str) -> float:
        """Commit everything and push it; return the time at which the server had it."""
        self.repository.commit(message)
        return self.repository.push()

    def wait_ready(self, since: float | None = None) -> None:
        """Return when all of Flux is ready with the last commit, which is then the good one."""
        self.flux.wait_ready(self.repository.revision, READY_SECONDS)
        self._good = self.repository.head
        if since is not None:
            print(f"   from push to ready: {time.monotonic() - since:.0f} s", flush=True)

    def restore(self) -> None:
        """Bring repository and cluster back to the last good state, if they are elsewhere."""
        if self.repository.head == self._good and not self.repository.git("status", "--porcelain"):
            return
        self.repository.git("reset", "--quiet", "--hard", self._good)
        self.repository.git("clean", "--quiet", "-d", "--force")
        self.repository.push("--force")
        self.wait_ready()

    def write_note(self, text: str) -> None:
        """Change what a ConfigMap in the entry folder says: the smallest change there is."""
        self.repository.write(f"{ENTRY_FOLDER}/note.yaml", _NOTE.format(text=text))

    def note(self) -> str:
        """Return what that ConfigMap says on the cluster."""
        text: str = self.cluster.get("configmap", "note", NAMESPACE)["data"]["text"]
        return text

    def wait_note(self, text: str, since: float | None = None) -> None:
        """Return when the cluster has the note of the last commit, which is then a good one."""
        wait_until(lambda: self.note() == text, NOTE_SECONDS, f"the note to say {text!r}")
        self._good = self.repository.head
        if since is not None:
            print(f"   from push to applied: {time.monotonic() - since:.1f} s", flush=True)

    def _load_images(self) -> None:
        """Have all images in the nodes: the pipeline's, Flux's, and those of units."""
        names = ("source-controller", "kustomize-controller", "metrics-server")
        run(NO_REGISTRY / "images" / "build", *names)
        for folder in ("overlays/kind", "flux/controllers/core", "apps/metrics-server/manifests"):
            rendered = self.cluster.kubectl("kustomize", str(self.repository.folder / folder))
            self.cluster.load_missing(rendered.stdout)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Write other tags of some workloads' images behind the one of all, as a release does."""
        write_tags(self.repository.folder, tags)
