"""What scripts/bootstrap refuses before it has changed anything, and what it does with keys."""

import os
import re
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
  *"config view"*)
    [ ! -e "$FAKE/nowhere" ] || { echo "no context" >&2; exit 1; }
    echo "somewhere (https://192.0.2.1:6443)" ;;
  *--raw=/readyz*) [ ! -e "$FAKE/away" ] || { echo "connection refused" >&2; exit 1; } ;;
  *"get kustomization facestack"*) cat "$FAKE/follows" ;;
  *"get deployments"*) cat "$FAKE/foreign" ;;
  *"get gitrepository"*|*"get secret"*) ;;
  *" get "*|*" rollout status "*) ;;
  *" diff "*) exit 1 ;;
  *" create secret "*)
    echo "Secret $5"; cd "${6#--from-file=}"
    for file in *; do [ ! -f "$file" ] || echo "$file: $(cat "$file")"; done ;;
  *" apply "*) while [ "$1" != -f ]; do shift; done; cat "$2" >>"$FAKE/applied" ;;
  *) echo "nothing else may be asked here: $*" >&2; exit 1 ;;
esac
"""
HOST = "git.example.com"
URL = f"ssh://git@{HOST}/facestack.git"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGf1MSh1Gp9jGvxmJLBgLQcHUdnFqkZ5OVaPRUUlfbMG"


class Bench:
    """A copy of what bootstrap reads, and a kubectl that says what the test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("flux", "apps"):
            shutil.copytree(ROOT / name, folder / name)
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "bootstrap", folder / "scripts")
        (folder / "scripts" / "flux-wait").write_text("#!/bin/sh\n")
        (folder / "scripts" / "flux-wait").chmod(0o755)
        for name in ("follows", "foreign", "calls"):
            (folder / name).touch()
        kubectl = folder / "bin" / "kubectl"
        kubectl.parent.mkdir()
        kubectl.write_text(KUBECTL)
        kubectl.chmod(0o755)

    def run(self, **environment: str) -> str:
        """Return what bootstrap says when it refuses."""
        done = self.call(**environment)
        assert done.returncode == 1, done
        calls = (self.folder / "calls").read_text()
        assert not any(verb in calls for verb in ("apply", "create", "annotate", "delete")), calls
        return done.stderr

    def applied(self, **environment: str) -> str:
        """Return what bootstrap applies when all is well."""
        (self.folder / "applied").unlink(missing_ok=True)
        done = self.call(**environment)
        assert done.returncode == 0, done
        self.said = done.stdout + done.stderr
        return (self.folder / "applied").read_text()

    def call(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
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


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def ssh() -> None:
    """The client of OpenSSH, or the test is skipped."""
    find_binary("ssh-keygen")


@pytest.mark.parametrize("cluster", ["", "production"])
def test_no_cluster_is_named_or_one_without_a_folder(bench: Bench, cluster: str) -> None:
    said = bench.run(CLUSTER=cluster, GIT_URL=URL)
    assert "say which cluster this is: CLUSTER=NAME, one of: aws kind minikube; a new" in said


def test_a_copied_folder_that_still_has_its_old_name(bench: Bench) -> None:
    clusters = bench.folder / "flux" / "clusters"
    shutil.copytree(clusters / "kind", clusters / "second")
    said = bench.run(CLUSTER="second", GIT_URL=URL)
    assert "clusters/second/cluster.yaml says 'cluster: kind': it must be the name of its" in said


def test_a_machine_without_kubectl(bench: Bench) -> None:
    bare = bench.folder / "bare"
    bare.mkdir()
    for name in ("bash", "env", "uname", "dirname", "sed", "ls"):
        found = shutil.which(name)
        assert found
        (bare / name).symlink_to(found)
    said = bench.run(CLUSTER="kind", GIT_URL=URL, PATH=str(bare))
    assert "kubectl is missing" in said


def test_no_cluster_is_chosen(bench: Bench) -> None:
    (bench.folder / "nowhere").touch()
    said = bench.run(CLUSTER="kind", GIT_URL=URL)
    assert "no context\nbootstrap: that is no cluster: set KUBECONFIG=FILE, or CONTEXT=NAME" in said


def test_a_cluster_that_does_not_answer(bench: Bench) -> None:
    (bench.folder / "away").touch()
    said = bench.run(CLUSTER="kind", GIT_URL=URL)
    assert "the cluster of context somewhere (https://192.0.2.1:6443) does not answer" in said
    assert "connection refused" in said


def test_a_cluster_that_follows_another_folder(bench: Bench) -> None:
    (bench.folder / "follows").write_text("./flux/clusters/minikube")
    said = bench.run(CLUSTER="kind", GIT_URL=URL)
    assert "follows ./flux/clusters/minikube already: nothing was changed" in said


def test_a_cluster_with_somebody_elses_flux(bench: Bench) -> None:
    (bench.folder / "foreign").write_text("other-system")
    said = bench.run(CLUSTER="kind", GIT_URL=URL)
    assert "in its namespace other-system runs a Flux that is not from here" in said


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "say where the repository is: GIT_URL="),
        ("http://git.example.com/facestack.git", "git@HOST:PATH or https://HOST/PATH, not 'http:"),
        ("git.example.com/facestack.git", "https://HOST/PATH, not 'git.example.com/"),
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
    assert f"has no key of {entry}: " in said


@pytest.mark.usefixtures("ssh")
def test_a_key_that_nobody_has_accepted(bench: Bench) -> None:
    said = bench.run(CLUSTER="kind", GIT_URL=URL)
    assert (
        f"{bench.folder}/.ssh/known_hosts has no key of git.example.com: call 'ssh ssh://" in said
    )


@pytest.mark.usefixtures("ssh")
def test_a_key_that_ssh_knows_is_taken_and_a_deploy_key_is_made(bench: Bench) -> None:
    (bench.folder / ".ssh").mkdir()
    (bench.folder / ".ssh" / "known_hosts").write_text(f"{HOST} {KEY}\n")
    applied = bench.applied(CLUSTER="kind", GIT_URL=URL)
    assert f"known_hosts: {HOST} {KEY}\n" in applied
    assert "secretRef: {name: facestack-git}" in applied
    [deploy_key] = re.findall(r"^ssh-ed25519 \S+ facestack kind$", bench.said, re.MULTILINE)
    assert f"identity.pub: {deploy_key}\n" in applied


def test_a_token_is_in_the_secret_and_in_no_argument_and_no_output(bench: Bench) -> None:
    token = "glpat-1234"
    (bench.folder / "token").write_text(f"{token}\n")
    url = f"https://{HOST}/facestack.git"
    for given in ({"GIT_TOKEN": token}, {"GIT_TOKEN_FILE": str(bench.folder / "token")}):
        applied = bench.applied(CLUSTER="kind", GIT_URL=url, **given)
        assert f"Secret facestack-git\npassword: {token}\nusername: git\n" in applied
        assert "secretRef: {name: facestack-git}" in applied
        assert token not in bench.said
        assert token not in (bench.folder / "calls").read_text()


def test_a_public_repository_needs_no_key(bench: Bench) -> None:
    applied = bench.applied(CLUSTER="kind", GIT_URL=f"https://{HOST}/facestack.git")
    assert "facestack-git" not in applied
    assert "secretRef" not in applied


def test_a_token_that_many_would_see(bench: Bench) -> None:
    said = bench.run(CLUSTER="kind", GIT_URL=f"https://you:secret@{HOST}/x.git")
    assert "GIT_TOKEN_FILE=FILE says where it is" in said
    assert "secret" not in said


def test_encrypted_secrets_without_their_key(bench: Bench) -> None:
    facts = bench.folder / "flux" / "clusters" / "kind" / "cluster.yaml"
    facts.write_text(facts.read_text().replace("credentials: none", 'credentials: "2026-01-01"'))
    said = bench.run(CLUSTER="kind", GIT_URL="https://git.example.com/facestack.git")
    assert f"their key is not in {bench.folder}/.config/facestack/kind.agekey" in said
