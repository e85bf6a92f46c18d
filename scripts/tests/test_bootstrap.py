"""What scripts/bootstrap refuses before it has changed anything; the rest is for a cluster."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from services.testing.servers import find_binary

ROOT = Path(__file__).parents[2]

KUBECTL = """\
#!/bin/sh
echo "$*" >>"$FAKE/calls"
case "$*" in
  kustomize*) echo "kind: List" ;;
  *current-context) echo somewhere ;;
  *"config view"*) echo https://192.0.2.1:6443 ;;
  *--raw=/readyz*) [ ! -e "$FAKE/away" ] || { echo "connection refused" >&2; exit 1; } ;;
  *"get kustomization facestack"*) cat "$FAKE/follows" ;;
  *"get deployments"*) cat "$FAKE/foreign" ;;
  *"get gitrepository"*|*"get secret"*) ;;
  *) echo "nothing else may be asked here: $*" >&2; exit 1 ;;
esac
"""
URL = "ssh://git@git.example.com/facestack.git"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGf1MSh1Gp9jGvxmJLBgLQcHUdnFqkZ5OVaPRUUlfbMG"


class Bench:
    """A copy of what bootstrap reads, and a kubectl that says what the test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("flux", "apps"):
            shutil.copytree(ROOT / name, folder / name)
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "bootstrap", folder / "scripts")
        for name in ("follows", "foreign", "calls"):
            (folder / name).touch()
        kubectl = folder / "bin" / "kubectl"
        kubectl.parent.mkdir()
        kubectl.write_text(KUBECTL)
        kubectl.chmod(0o755)

    def run(self, **environment: str) -> str:
        """Return what bootstrap says when it refuses."""
        done = subprocess.run(
            [self.folder / "scripts" / "bootstrap"],
            env={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "FAKE": str(self.folder),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1, done
        calls = (self.folder / "calls").read_text()
        assert not any(verb in calls for verb in ("apply", "create", "annotate", "delete")), calls
        return done.stderr


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def ssh() -> None:
    """The client of OpenSSH, or the test is skipped."""
    for name in ("ssh-keygen", "ssh-keyscan"):
        find_binary(name)


def test_no_cluster_is_named(bench: Bench) -> None:
    assert "say which cluster this is: CLUSTER=NAME, one of: aws kind minikube" in bench.run()


def test_a_cluster_without_a_folder(bench: Bench) -> None:
    said = bench.run(CLUSTER="production", GIT_URL=URL)
    assert "there is no cluster production, only aws kind minikube" in said


def test_a_copied_folder_that_still_has_its_old_name(bench: Bench) -> None:
    shutil.copytree(bench.folder / "flux" / "kind", bench.folder / "flux" / "second")
    said = bench.run(CLUSTER="second", GIT_URL=URL)
    assert (
        "flux/second/cluster.yaml says 'cluster: kind': it must be the name of its folder" in said
    )


def test_a_machine_without_kubectl(bench: Bench) -> None:
    bare = bench.folder / "bare"
    bare.mkdir()
    for name in ("bash", "env", "dirname", "basename", "paste", "sed", "ls"):
        found = shutil.which(name)
        assert found
        (bare / name).symlink_to(found)
    said = bench.run(CLUSTER="kind", GIT_URL=URL, PATH=str(bare))
    assert "kubectl is missing" in said


def test_a_cluster_that_does_not_answer(bench: Bench) -> None:
    (bench.folder / "away").touch()
    said = bench.run(CLUSTER="kind", GIT_URL=URL)
    assert "context somewhere does not answer at https://192.0.2.1:6443" in said
    assert "connection refused" in said


def test_a_cluster_that_follows_another_folder(bench: Bench) -> None:
    (bench.folder / "follows").write_text("./flux/minikube")
    said = bench.run(CLUSTER="kind", GIT_URL=URL)
    assert "follows ./flux/minikube already: nothing was changed" in said


def test_a_cluster_with_somebody_elses_flux(bench: Bench) -> None:
    (bench.folder / "foreign").write_text("other-system")
    said = bench.run(CLUSTER="kind", GIT_URL=URL)
    assert "in its namespace other-system runs a Flux that is not from here" in said


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "say where the repository is: GIT_URL="),
        ("http://git.example.com/facestack.git", "only ssh:// and https:// are safe"),
        ("git.example.com/facestack.git", "it must be like ssh://git@HOST/PATH"),
    ],
)
def test_an_address_that_does_not_do(bench: Bench, url: str, problem: str) -> None:
    assert problem in bench.run(CLUSTER="kind", GIT_URL=url)


@pytest.mark.usefixtures("ssh")
@pytest.mark.parametrize(
    ("url", "entry"),
    [
        (URL, "git.example.com"),
        ("git@git.example.com:you/facestack.git", "git.example.com"),
        ("ssh://git@git.example.com:2222/facestack.git", "[git.example.com]:2222"),
    ],
)
def test_host_keys_of_another_server(bench: Bench, url: str, entry: str) -> None:
    hosts = bench.folder / "known_hosts"
    hosts.write_text("git.example.org ssh-ed25519 AAAA\n")
    said = bench.run(CLUSTER="kind", GIT_URL=url, KNOWN_HOSTS=str(hosts))
    assert f"has no key of {entry}\n" in said


@pytest.mark.usefixtures("ssh")
def test_a_server_that_does_not_show_its_key(bench: Bench) -> None:
    said = bench.run(CLUSTER="kind", GIT_URL="ssh://git@127.0.0.1:9/facestack.git")
    assert "127.0.0.1:9 tells no host key from here: save it in a file and say KNOWN_HOSTS=" in said


@pytest.mark.usefixtures("ssh")
def test_a_key_that_nobody_has_accepted(bench: Bench) -> None:
    show_key(bench)
    said = bench.run(CLUSTER="kind", GIT_URL=URL)
    assert "nobody is here to compare the key of git.example.com: save it in a file" in said


@pytest.mark.usefixtures("ssh")
def test_a_key_that_ssh_knows_is_taken_and_the_server_not_asked(bench: Bench) -> None:
    (bench.folder / ".ssh").mkdir()
    (bench.folder / ".ssh" / "known_hosts").write_text(f"git.example.com {KEY}\n")
    said = bench.run(CLUSTER="kind", GIT_URL=URL)
    # It is what the fake kubectl refuses, after the key.
    assert "nothing else may be asked here: --namespace=flux-system get nodes" in said


def show_key(bench: Bench) -> None:
    """Have a server that shows a key."""
    scan = bench.folder / "bin" / "ssh-keyscan"
    scan.write_text(f"#!/bin/sh\necho 'git.example.com {KEY}'\n")
    scan.chmod(0o755)


def test_encrypted_secrets_without_their_key(bench: Bench) -> None:
    (bench.folder / "flux" / "kind" / "secrets").mkdir(exist_ok=True)
    said = bench.run(CLUSTER="kind", GIT_URL="https://git.example.com/facestack.git")
    assert f"their key is not in {bench.folder}/.config/facestack/kind.agekey" in said
