"""Which Secrets a cluster needs, and what can be done with them."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import yaml

from scripts.manifests.tools import MissingToolError
from scripts.secrets.errors import NoContextError, SecretsError
from scripts.secrets.running import Running
from scripts.secrets.store import NAMESPACE, Secret, Store

FLUX: Final = "flux-system"
PREVIOUS: Final = "previous-password"
_PASSWORD: Final = "password"  # noqa: S105, the name of a key
_VALUE_BYTES: Final = 32
_UNITS: Final = "../../../apps/notifications"

Say: TypeAlias = Callable[[str], object]


@dataclass(frozen=True)
class Wanted:
    """A Secret that must be there, with a random value for each key."""

    name: str
    namespace: str
    keys: tuple[str, ...]

    @property
    def has_two(self) -> bool:
        """Tell whether old and new password may be used side by side."""
        return self.keys == (_PASSWORD,)


@dataclass
class Passwords:
    """The use cases; ``running`` is the cluster, where one is named."""

    store: Store
    say: Say = print
    running: Running | None = None
    alerts: dict[str, str] = field(default_factory=dict, repr=False)

    def wanted(self) -> list[Wanted]:
        """Return what the cluster needs: what its credentials Job would make, and Flux's own."""
        found = []
        if not self._is_elsewhere():
            job = self.store.root / "base" / "credentials" / "job.yaml"
            (container,) = next(yaml.safe_load_all(job.read_text()))["spec"]["template"]["spec"][
                "containers"
            ]
            for argument in container["args"]:
                name, _, keys = argument.partition("=")
                found.append(Wanted(name, NAMESPACE, tuple(keys.split(","))))
        if _UNITS in self.store.entry():
            found.append(Wanted("webhook", FLUX, ("token",)))
        return found

    def _is_elsewhere(self) -> bool:
        """Tell whether the overlay gets its passwords from another store."""
        overlay = self.store.root / "overlays" / self.store.facts()["overlay"]
        return any("kind: ExternalSecret" in file.read_text() for file in overlay.rglob("*.yaml"))

    # Who may read.

    def prepare(self) -> None:
        """See to it that there is a key, that it counts, and that files are for this cluster."""
        store = self.store
        if lost := store.without_rule():
            raise SecretsError(lost)
        rule = store.rule()
        if rule is None:
            if not store.key.exists():
                store.make_key()
                self.say(
                    f"made {store.key}: whoever has it can read the passwords, and without it"
                    " nobody can. Keep a copy where you keep what must not be lost. 'make bootstrap"
                    f" CLUSTER={store.cluster}' gives it to the cluster; to one that follows git"
                    " already, before you push."
                )
            own = store.own_recipient()
            store.add_rule(own)
            self.say(f"added {own} to .sops.yaml")
            return
        if not rule:
            raise SecretsError(
                f".sops.yaml names no age key for flux/clusters/{store.cluster}/secrets: add one"
            )
        if not store.key.exists():
            raise SecretsError(
                f"there is no {store.key}: get it from who made it, or let him add the public key"
                f" of yours to .sops.yaml and run 'make secrets CLUSTER={store.cluster}'; AGE_KEY"
                " names another file"
            )
        own = store.own_recipient()
        readers = {name for file in store.files() for name in store.recipients(file)}
        if own not in (readers or rule):
            raise SecretsError(
                f"{store.key} is the key of {own}, and .sops.yaml has {', '.join(sorted(rule))}"
            )

    def encrypt_anew(self) -> None:
        """Give the files whose recipients are not those of ``.sops.yaml`` a new data key."""
        rule = self.store.rule()
        gone = set()
        for file in self.store.files():
            before = self.store.recipients(file)
            if before != rule:
                gone |= before - (rule or set())
                self.store.encrypt_anew(file)
                self.say(
                    f"encrypted {self.store.relative(file)} anew, for {_listed(rule or set())}"
                )
        if gone:
            self.say(
                f"{_listed(gone)} can still read every commit before this one: rotate what must be"
                " secret from there on (ROTATE=database,mariadb-admin)"
            )

    # What is there.

    def make(self, *, new: bool) -> None:
        """Make what is missing: with the values of the running cluster, or with random ones."""
        missing = [secret for secret in self.wanted() if not self.store.path(secret.name).exists()]
        self._make_alerts()
        if not missing:
            return
        source = self.running
        if source:
            source.expect(self.store.cluster)
        elif not new:
            self._refuse_to_lock_out(missing)
        for secret in missing:
            values = source.secret(secret.name, secret.namespace) if source else None
            if values is None:
                values = {key: secrets.token_urlsafe(_VALUE_BYTES) for key in secret.keys}
                how = "made"
            else:
                if lacking := [key for key in secret.keys if not values.get(key)]:
                    raise SecretsError(
                        f"Secret {secret.name} of {source} has no {', '.join(lacking)}"
                    )
                values = {key: values[key] for key in (*secret.keys, PREVIOUS) if values.get(key)}
                how = f"took over from {source}"
            self.store.write([Secret(secret.name, secret.namespace, values)])
            self.say(f"{how}: {secret.name}")

    def _make_alerts(self) -> None:
        if _UNITS not in self.store.entry():
            return
        if self.alerts:
            self.store.write([Secret("alerts", FLUX, self.alerts)])
            self.say("wrote alerts: where Flux reports a failure")
        elif not self.store.path("alerts").exists():
            self.say(
                "nobody is told of a failure yet: make secrets"
                f" CLUSTER={self.store.cluster} ALERTS=https://... says where to"
            )

    def _refuse_to_lock_out(self, missing: Iterable[Wanted]) -> None:
        """Make no new passwords for a database that has others: nobody could log in."""
        asked = "kubectl"
        try:
            current = Running()
            asked = f"your current context {current}"
            current.expect(self.store.cluster)
            there = [
                secret.name for secret in missing if current.secret(secret.name, secret.namespace)
            ]
        except (NoContextError, MissingToolError):
            return
        except SecretsError as error:
            raise SecretsError(
                f"asked {asked} whether {self.store.cluster} has passwords already: {error}."
                " CONTEXT=NAME names the cluster; NEW=1 makes new ones, which would lock everybody"
                " out of a database that has others."
            ) from None
        if there:
            raise SecretsError(
                f"the cluster of your current context {current} has {', '.join(there)} already. If"
                f" that is {self.store.cluster}, CONTEXT={current} takes them over; if it is"
                " another, NEW=1 makes new ones."
            )
        self.say(f"asked {asked}: it has none of them")

    def rotate(self, names: Iterable[str], *, outage: bool) -> None:
        """Give Secrets new values: all of them, or none where one is refused."""
        chosen = self._chosen(names)
        rotated = []
        for secret in chosen:
            before = self._read(secret.name)
            new = {key: secrets.token_urlsafe(_VALUE_BYTES) for key in secret.keys}
            if secret.has_two:
                if before.get(PREVIOUS):
                    raise SecretsError(
                        f"{secret.name} is being rotated: pods may still have the password before"
                        " the last. Push what is there, wait until the cluster has it, and"
                        " FINISH=1; what was never pushed"
                        f" 'git restore flux/clusters/{self.store.cluster}' takes back"
                    )
                new[PREVIOUS] = before[_PASSWORD]
            elif secret.namespace == NAMESPACE and not outage:
                raise SecretsError(
                    f"{secret.name} has only one key at a time, which its server reads at its"
                    " start: requests fail from the change until all have restarted. OUTAGE=1"
                    " rotates it;"
                    # Not `rollout restart`: Flux takes its annotation away, so it restarts twice.
                    f" once the cluster has it, 'kubectl --namespace={NAMESPACE} delete pod"
                    f" {secret.name}-0'"
                )
            rotated.append(Secret(secret.name, secret.namespace, new))
        self.store.write(rotated)
        for secret in chosen:
            self.say(f"rotated {secret.name}")
            if secret.has_two:
                self.say("  the previous password stays valid until FINISH=1")
            elif secret.namespace == FLUX:
                self.say("  tell the git host: until then a push is fetched within a minute")

    def finish(self, *, unchecked: bool) -> None:
        """Take away the previous passwords, when the cluster needs them no more; all or none."""
        finished = []
        for secret in self.wanted():
            values = self._read(secret.name) if secret.has_two else {}
            if values.pop(PREVIOUS, ""):
                finished.append(Secret(secret.name, secret.namespace, values))
        if not finished:
            self.say("no password is being rotated")
            return
        if not unchecked:
            self._expect_rolled_out([secret.name for secret in finished])
        self.store.write(finished)
        for written in finished:
            self.say(f"{written.name}: only the current password is left")

    def _expect_rolled_out(self, names: list[str]) -> None:
        try:
            running = self.running or Running()
            running.expect(self.store.cluster)
            lagging = running.lagging(self.store.stamp() or "", names)
        except SecretsError as error:
            raise SecretsError(
                f"FINISH=1 asks {self.store.cluster} whether its pods have the new passwords, and"
                f" {error}. CONTEXT= names it to kubectl; FINISH=unchecked asks nobody."
            ) from None
        if lagging:
            raise SecretsError(
                f"{running} does not run with the new passwords yet: {'; '.join(lagging)}. Push,"
                " and wait; the previous ones stay valid meanwhile."
            )

    def _chosen(self, names: Iterable[str]) -> list[Wanted]:
        known = {secret.name: secret for secret in self.wanted()}
        found: dict[str, Wanted] = {}
        for name in names:
            group = [secret_name for secret_name in known if secret_name.startswith("database-")]
            for each in group if name == "database" else [name]:
                if each not in known:
                    elsewhere = ""
                    if self._is_elsewhere():
                        elsewhere = (
                            "; its passwords are in AWS Secrets Manager, see docs/kubernetes.md"
                        )
                    raise SecretsError(
                        f"{self.store.cluster} has no Secret {each} here, only"
                        f" {', '.join(known) or 'none'}{elsewhere}"
                    )
                found[each] = known[each]
        return list(found.values())

    def _read(self, name: str) -> dict[str, str]:
        if not self.store.path(name).exists():
            raise SecretsError(
                f"there is no {self.store.relative(self.store.path(name))} yet: run 'make secrets"
                f" CLUSTER={self.store.cluster}' first"
            )
        return dict(self.store.read(name).values)


def default_key(cluster: str) -> Path:
    """Return where the private key of a cluster is."""
    return Path.home() / ".config" / "facestack" / f"{cluster}.agekey"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
