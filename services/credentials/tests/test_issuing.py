"""Certificates and their renewal, against an API server that keeps Secrets in memory."""

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from services.common.jobs import NotYetError
from services.credentials.certificates import issue, new_authority
from services.credentials.issuing import Issuer

NAMES = ["people", "people.face", "people.face.svc", "people.face.svc.cluster.local"]


class Secrets:
    """What :class:`Cluster` is to an issuer."""

    namespace = "face"

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, bytes]] = {}
        self.made_meanwhile: dict[str, dict[str, bytes]] = {}

    def create_secret(self, name: str, values: Mapping[str, str], *, kind: str) -> bool:
        assert kind == "kubernetes.io/tls"
        assert {"tls.crt", "tls.key"} <= values.keys()
        self.kept |= self.made_meanwhile
        if name in self.kept:
            return False
        self.change_secret(name, values)
        return True

    def read_secret(self, name: str) -> dict[str, bytes] | None:
        return self.kept.get(name)

    def change_secret(self, name: str, values: Mapping[str, str]) -> None:
        changed = {key: value.encode() for key, value in values.items()}
        self.kept[name] = self.kept.get(name, {}) | changed


class Bench:
    def __init__(self) -> None:
        self.secrets = Secrets()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        cluster: Any = self.secrets
        self.issuer = Issuer(cluster, days=90, now=lambda: self.now)

    def run(self, service: str = "people", *, after_days: float = 0) -> x509.Certificate:
        """Do what the Job does, and return the service's certificate."""
        self.now += timedelta(days=after_days)
        self.issuer.certificate(service, self.issuer.authority())
        return x509.load_pem_x509_certificate(self.secrets.kept[f"tls-{service}"]["tls.crt"])


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left() -> None:
    bench = Bench()
    first = bench.run()
    authority = bench.secrets.kept["tls-ca"]
    key = bench.secrets.kept["tls-people"]["tls.key"]
    assert first.not_valid_after_utc == bench.now + timedelta(days=90)
    assert bench.run(after_days=59) == first
    second = bench.run(after_days=2)
    assert second.not_valid_after_utc == bench.now + timedelta(days=90)
    assert bench.secrets.kept["tls-people"]["tls.key"] != key
    # Who has not heard of it yet takes it, and the other way round.
    assert bench.secrets.kept["tls-ca"] == authority
    assert bench.secrets.kept["tls-people"]["ca.crt"] == authority["tls.crt"]
    # It ends with its authority's at the latest.
    last = bench.run(after_days=3650 - 61 - 10)
    assert last.not_valid_after_utc == bench.now + timedelta(days=10)


def test_a_certificate_is_for_the_names_of_its_service_and_of_no_other() -> None:
    bench = Bench()
    found = bench.run().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert found.value.get_values_for_type(x509.DNSName) == NAMES
    assert bench.run("mariadb") != bench.run()


@pytest.mark.parametrize("spoil", ["ca.crt", "tls.crt", "all", "by another authority"])
def test_what_nobody_can_use_is_made_anew(spoil: str) -> None:
    bench = Bench()
    first = bench.run()
    kept = bench.secrets.kept["tls-people"]
    if spoil == "all":
        kept.clear()
    elif spoil == "by another authority":
        other = issue(new_authority("x", days=9, now=bench.now), NAMES, days=9, now=bench.now)
        kept["tls.crt"], kept["tls.key"] = other.certificate, other.key
    else:
        kept[spoil] = b"nonsense"
    made = bench.run()
    assert made != first
    authority = bench.secrets.kept["tls-ca"]["tls.crt"]
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    now = bench.secrets.kept["tls-people"]
    assert now["ca.crt"] == authority


def test_of_two_runs_at_once_one_makes_the_authority() -> None:
    bench, other = Bench(), Bench()
    other.run()
    bench.secrets.made_meanwhile = {"tls-ca": other.secrets.kept["tls-ca"]}
    with pytest.raises(NotYetError):
        bench.issuer.authority()
    assert bench.issuer.authority() == other.issuer.authority()


def test_strict_checkers_take_what_is_made() -> None:
    now = datetime.now(UTC)
    authority = new_authority("facestack face", days=2, now=now)
    pair = issue(authority, NAMES, days=1, now=now)
    roots = [x509.load_pem_x509_certificate(authority.certificate)]
    checks = x509.verification.PolicyBuilder().store(x509.verification.Store(roots))
    found = x509.load_pem_x509_certificate(pair.certificate)
    checks.build_server_verifier(x509.DNSName("people.face.svc")).verify(found, [])
    assert checks.build_client_verifier().verify(found, []).subjects
    with pytest.raises(x509.verification.VerificationError):
        checks.build_server_verifier(x509.DNSName("mariadb")).verify(found, [])
    assert ssl.create_default_context(cadata=authority.certificate.decode())
