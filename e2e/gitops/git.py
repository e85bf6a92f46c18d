"""The git server inside the cluster, and the repository of somebody who pushes to it."""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Final

from e2e.cluster import NO_REGISTRY, ROOT, Cluster, build_image, run

HOST: Final = "git.git.svc.cluster.local"
_NAMESPACE: Final = "--namespace=git"
_CONTEXT: Final = Path(__file__).parent / "server"
_REPOSITORY: Final = "/srv/git/facestack.git"
ENVIRONMENT: Final = {
    # Nobody's own settings count: no signing, no hooks, no other names.
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "e2e",
    "GIT_AUTHOR_EMAIL": "e2e@example.com",
    "GIT_COMMITTER_NAME": "e2e",
    "GIT_COMMITTER_EMAIL": "e2e@example.com",
}
_HOST_KEY: Final = "host-key"
_READY_SECONDS: Final = 120


class GitServer:
    """An SSH server in the namespace ``git``: one repository, one key that may push."""

    url: Final = f"ssh://git@{HOST}{_REPOSITORY}"

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self.known_hosts = folder / "known_hosts"
        """The server's host key, as somebody would copy it from the host's page."""

    def start(self) -> None:
        """Make the server's image and keys, and wait until it answers."""
        run(NO_REGISTRY / "install", "pushing to a git server over SSH", "git", "openssh-client")
        image = self._image()
        if self._cluster.missing_images([image]):
            self._cluster.load_image(image)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.known_hosts.write_text(f"{HOST} {self._key(_HOST_KEY)}\n")
        manifest = Template((_CONTEXT / "git.yaml").read_text()).substitute(image=image)
        self._cluster.kubectl("apply", "-f", "-", input=manifest)
        self._give_keys(_HOST_KEY)
        self._wait_ready()

    def stop(self) -> None:
        """Remove the server and its repository."""
        self._cluster.kubectl("delete", "namespace", "git", "--ignore-not-found")

    def accept(self, deploy_key: str) -> None:
        """Let the key fetch, and nothing else."""
        fetch = f"git-upload-pack '{_REPOSITORY}'"
        line = f'restrict,command="{fetch}" {deploy_key}\n'
        append = ("sh", "-c", "cat >>/srv/git/deploy-keys")
        self._cluster.kubectl("exec", "-i", _NAMESPACE, "git-0", "--", *append, input=line)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Have no server while the block runs."""
        self._scale(0)
        try:
            yield
        finally:
            self._scale(1)
            self._wait_ready()

    @contextmanager
    def impostor(self) -> Iterator[None]:
        """Have somebody else answer at the address of a server that is away."""
        self._give_keys("impostor-key")
        self._scale(1)
        self._wait_ready()
        try:
            yield
        finally:
            self._give_keys(_HOST_KEY)
            self._scale(0)

    @contextmanager
    def open(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Give the address to push to from here, and what git needs in its environment.

        All pushes of the block share one connection, so that the second takes no time to begin.
        """
        with (
            # A socket's path may have 107 characters, which a checkout's may exceed.
            TemporaryDirectory() as sockets,
            self._cluster.forward("svc/git", 22, namespace="git") as port,
        ):
            options = {
                "ControlMaster": "auto",
                "ControlPath": f"{sockets}/ssh",
                "ControlPersist": "yes",
                "IdentityFile": self._folder / "push-key",
                "IdentitiesOnly": "yes",
                "StrictHostKeyChecking": "yes",
                "UserKnownHostsFile": self.known_hosts,
                "GlobalKnownHostsFile": "/dev/null",
                "HostKeyAlias": HOST,
            }
            ssh = ["ssh", "-F", "none", *(f"-o{k}={v}" for k, v in options.items())]
            address = f"ssh://git@127.0.0.1:{port}"
            try:
                yield f"{address}{_REPOSITORY}", {"GIT_SSH_COMMAND": shlex.join(ssh)}
            finally:
                subprocess.run([*ssh, "-O", "exit", address], capture_output=True, check=False)

    def _give_keys(self, host_key: str) -> None:
        """Say what the server shows who it is with, and who may push."""
        self._key(host_key)
        keys = self._folder / "authorized-keys"
        keys.write_text(f"restrict {self._key('push-key')}\n")
        files = (f"host-key={self._folder / host_key}", keys)
        create = ("create", "secret", "generic", "git-server", _NAMESPACE)
        rendered = self._cluster.kubectl(
            *create, *(f"--from-file={file}" for file in files), "--dry-run=client", "-o", "yaml"
        ).stdout
        self._cluster.kubectl("apply", "-f", "-", input=rendered)

    def _key(self, name: str) -> str:
        file = self._folder / name
        if not file.is_file():
            quiet = ("-q", "-t", "ed25519", "-N", "", "-C", "")
            subprocess.run(["ssh-keygen", *quiet, "-f", str(file)], check=True)
        return file.with_suffix(".pub").read_text().strip()

    def _image(self) -> str:
        content = b"".join(file.read_bytes() for file in sorted(_CONTEXT.iterdir()))
        name = f"localhost/git-server:{sha256(content).hexdigest()[:12]}"
        inspect = ["docker", "image", "inspect", name]
        if subprocess.run(inspect, capture_output=True, check=False).returncode:
            build_image(name, _CONTEXT)
        return name

    def _scale(self, replicas: int) -> None:
        self._cluster.kubectl("scale", _NAMESPACE, "statefulset/git", f"--replicas={replicas}")
        if not replicas:
            wait = ("wait", "--for=delete", _NAMESPACE, "pod/git-0")
            self._cluster.kubectl(*wait, f"--timeout={_READY_SECONDS}s")

    def _wait_ready(self) -> None:
        self._cluster.kubectl(
            "rollout", "status", _NAMESPACE, "statefulset/git", f"--timeout={_READY_SECONDS}s"
        )


class Repository:
    """The checkout under test as a repository of its own, with one commit, to change and push."""

    def __init__(self, folder: Path, server: GitServer) -> None:
        self.folder = folder
        self._server = server
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in _files():
            copy = folder / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy, follow_symlinks=False)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("The checkout under test")

    def git(self, *args: str, environment: Mapping[str, str] | None = None) -> str:
        """Run git in the repository and return what it prints."""
        result = subprocess.run(
            ["git", *args],
            cwd=self.folder,
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 0, f"git {' '.join(args)}: {result.stderr or result.stdout}"
        return result.stdout.strip()

    @property
    def head(self) -> str:
        """The commit that is checked out."""
        return self.git("rev-parse", "HEAD")

    @property
    def revision(self) -> str:
        """What Flux calls that commit."""
        return f"main@sha1:{self.head}"

    def write(self, file: str, text: str) -> None:
        """Write a file of the repository."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def replace(self, file: str, old: str, new: str) -> None:
        """Replace a text that stands once in a file of the repository."""
        text = (self.folder / file).read_text()
        assert text.count(old) == 1, f"{file} has {text.count(old)} times: {old}"
        self.write(file, text.replace(old, new))

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")

    def push(self, *options: str) -> float:
        """Push to the server; return the monotonic time at which it had the commit."""
        with self._server.open() as (url, environment):
            self.git("push", "--quiet", *options, url, "HEAD:main", environment=environment)
        return time.monotonic()

    def push_commits(self, *commits: str) -> None:
        """Push one commit after the other over one way to the server."""
        with self._server.open() as (url, environment):
            for commit in commits:
                self.git("push", "--quiet", url, f"{commit}:main", environment=environment)

    def revert(self) -> None:
        """Undo the last commit by another one."""
        self.git("revert", "--no-edit", "HEAD")


def _files() -> list[str]:
    """Return the files of the checkout: those of the last commit, changed ones, and new ones."""
    # As root in a folder of somebody else's git refuses without this.
    listed = subprocess.run(
        [
            *("git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--deduplicate"),
            *("--cached", "--others", "--exclude-standard"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [file for file in listed.split("\0") if file and os.path.lexists(ROOT / file)]
