"""Issue certificates for the services that the arguments name, and renew those that end soon.

Service NAME has its own in the Secret ``tls-NAME``, of type kubernetes.io/tls with ``ca.crt``. The
authority is the cluster's own: made by the first run, in the Secret ``tls-ca``.
"""

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog

from services.common import logs
from services.common.jobs import NotYetError, end_on_sigterm, persist
from services.common.settings import load
from services.credentials.certificates import KeyPair, end_of, is_due, issue, new_authority
from services.credentials.cluster import Cluster, connected
from services.credentials.settings import IssuingSettings

log = structlog.get_logger("services.credentials")

_AUTHORITY: Final = "tls-ca"
_AUTHORITY_DAYS: Final = 3650.0
"""Another one is a change of hands (docs/kubernetes.md), so it comes once in ten years."""

_KIND: Final = "kubernetes.io/tls"


def _now() -> datetime:
    return datetime.now(UTC)


class Issuer:
    """The authority and the certificates in a namespace; ``days`` is the life of the latter."""

    def __init__(
        self, cluster: Cluster, *, days: float, now: Callable[[], datetime] = _now
    ) -> None:
        self._cluster = cluster
        self._days = days
        self._now = now

    def authority(self) -> KeyPair:
        """Return the authority, made if there is none."""
        found = self._cluster.read_secret(_AUTHORITY)
        if found is None:
            name = f"facestack {self._cluster.namespace}"
            made = new_authority(name, days=_AUTHORITY_DAYS, now=self._now())
            # Another run may be quicker: whoever comes second takes what is there.
            if self._cluster.create_secret(_AUTHORITY, _values(made), kind=_KIND):
                log.info("made the authority", secret=_AUTHORITY, ends=_ends(made.certificate))
                return made
            raise NotYetError("another run has just made the authority")
        return KeyPair(found["tls.crt"], found["tls.key"])

    def certificate(self, service: str, authority: KeyPair) -> None:
        """Make a service's certificate if there is none, and another one if it is due."""
        secret, now = f"tls-{service}", self._now()
        names = [service, f"{service}.{self._cluster.namespace}"]
        names += [f"{names[1]}.svc", f"{names[1]}.svc.cluster.local"]
        found = self._cluster.read_secret(secret)
        if found and found.get("ca.crt") == authority.certificate:
            there = found.get("tls.crt", b"")
            if not is_due(there, authority.certificate, names, now=now):
                log.info("is valid, left alone", secret=secret, ends=_ends(there))
                return
        made = issue(authority, names, days=self._days, now=now)
        values = {**_values(made), "ca.crt": authority.certificate.decode()}
        if found is not None:
            self._cluster.change_secret(secret, values)
        elif not self._cluster.create_secret(secret, values, kind=_KIND):
            return  # another run was quicker
        log.info("renewed" if found else "issued", secret=secret, ends=_ends(made.certificate))


def _values(pair: KeyPair) -> dict[str, str]:
    return {"tls.crt": pair.certificate.decode(), "tls.key": pair.key.decode()}


def _ends(certificate: bytes) -> str:
    return end_of(certificate).isoformat()


def main(arguments: Sequence[str] | None = None) -> None:
    """Issue what is missing or due."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(
        prog="python -m services.credentials.issuing",
        description="Issue the certificates of services, and renew those that end soon.",
    )
    parser.add_argument("services", nargs="+", metavar="SERVICE")
    services: list[str] = parser.parse_args(arguments).services
    settings = load(IssuingSettings)
    logs.configure("certificates", settings.log_level)
    with connected(settings, "certificates") as cluster:
        issuer = Issuer(cluster, days=settings.certificate_days)
        authority = persist(issuer.authority, seconds=settings.wait_seconds)
        for service in services:
            persist(partial(issuer.certificate, service, authority), seconds=settings.wait_seconds)


if __name__ == "__main__":
    main()
