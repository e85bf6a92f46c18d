"""Passwords come out of git, encrypted; they change without a failed request."""

import time

import pytest

from e2e.cluster import STATE
from e2e.gitops.delivery import Delivery
from e2e.gitops.passwords import KEYS, USERS, Passwords
from e2e.load import Load, no_request_fails

pytestmark = pytest.mark.long

SOON = 90
"""Seconds for Flux to say that something is wrong."""


@pytest.fixture(scope="module")
def passwords(delivery: Delivery) -> Passwords:
    """A person with a key that is not there yet."""
    key = STATE / "gitops" / "age.key"
    key.unlink(missing_ok=True)
    return Passwords(delivery, key)


@pytest.fixture
def load(delivery: Delivery) -> Load:
    """Requests that each need the database."""
    return Load(delivery.cluster)


def test_a_running_cluster_goes_on_with_its_passwords_out_of_git(
    delivery: Delivery, passwords: Passwords, load: Load
) -> None:
    cluster = delivery.cluster
    before = passwords.values()
    assert before.keys() == {*USERS.values(), *KEYS, "object-store"}

    # New ones for a database that has others would lock everybody out.
    refused = passwords.make_secrets()
    context = cluster.kubectl("config", "current-context").stdout.strip()
    assert refused.returncode == 1
    assert "CONTEXT=NAME of kubectl takes over" in refused.stderr
    assert passwords.make_secrets(f"--context={context}").returncode == 0
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AGE_KEY", str(passwords.key))
        assert delivery.bootstrap().returncode == 0

    with no_request_fails(cluster, load):
        load.wait_served()
        pushed = delivery.push("Passwords in git, encrypted")
        passwords.wait_rolled_out()
        delivery.wait_ready(pushed)
    assert passwords.values() == before
    layer = {
        secret["metadata"]["labels"].get("kustomize.toolkit.fluxcd.io/name")
        for secret in cluster.get("secrets")["items"]
        if secret["metadata"]["name"] in before
    }
    assert layer == {"face-secrets"}
    assert "AGE-SECRET-KEY-1" in passwords.key.read_text()
    assert passwords.make_secrets("--check").returncode == 0


def test_a_rotated_password_reaches_the_pods_without_a_failed_request(
    delivery: Delivery, passwords: Passwords, load: Load
) -> None:
    everybody = set(passwords.logins())
    first = passwords.logins()
    with no_request_fails(delivery.cluster, load):
        load.wait_served()

        load.phase = "rotate"
        assert passwords.make_secrets("--rotate=database,mariadb-admin").returncode == 0
        refused = passwords.make_secrets("--finish=1")
        assert refused.returncode == 1
        assert "condition not met for kustomizations/face-services" in refused.stderr
        pushed = delivery.push("New passwords")
        passwords.wait_rolled_out()
        print(f"   from push to all pods with them: {time.monotonic() - pushed:.0f} s", flush=True)
        delivery.wait_ready(pushed)
        second = passwords.logins()
        assert not set(first.values()) & set(second.values())
        for logins in (first, second):
            assert passwords.taken(logins) == dict.fromkeys(everybody, True)
        assert passwords.make_secrets("--rotate=database").returncode == 1

        load.phase = "finish"
        assert passwords.make_secrets("--finish=1").returncode == 0
        pushed = delivery.push("Only the new passwords")
        passwords.wait_rolled_out()
        delivery.wait_ready(pushed)
        assert passwords.taken(first) == dict.fromkeys(everybody, False)
        assert passwords.taken(second) == dict.fromkeys(everybody, True)

        load.phase = "after the rotation"
        load.wait_more(50)


def test_what_the_cluster_cannot_decrypt_changes_nothing_and_a_revert_heals_it(
    delivery: Delivery, passwords: Passwords, load: Load
) -> None:
    repository = delivery.repository
    other = STATE / "gitops" / "other-age.key"
    other.unlink(missing_ok=True)
    repository.replace(".sops.yaml", passwords.recipient(), passwords.new_key(other))
    assert passwords.make_secrets().returncode == 0
    before = pods(delivery)
    with no_request_fails(delivery.cluster, load):
        load.wait_served()
        delivery.push("The cluster's key is not among the recipients any more")
        message = delivery.flux.wait_failed("face-secrets", repository.revision, SOON)
        print(f"   face-secrets says: {message}", flush=True)
        assert "sops" in message
        states = delivery.flux.states()
        later = ("face-stores", "face-services")
        assert repository.revision not in {states[layer].applied for layer in later}
        repository.revert()
        pushed = repository.push()
        delivery.wait_ready(pushed)
    assert pods(delivery) == before


def pods(delivery: Delivery) -> set[str]:
    """Return the names of the services' pods."""
    items = delivery.cluster.staying("pods", "-l", "app.kubernetes.io/part-of=facestack")
    return {pod["metadata"]["name"] for pod in items if pod["status"]["phase"] == "Running"}
