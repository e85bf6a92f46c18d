"""With cert-manager's Certificates, everything is as with those of the Jobs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.manifests import tools
from scripts.manifests.model import Manifests, at
from scripts.manifests.rendering import facts, parse, render
from scripts.manifests.rules import check

pytestmark = pytest.mark.usefixtures("flux_build")


def test_certificates_of_cert_manager_take_the_place_of_the_jobs(
    tool: Callable[[str], str],
) -> None:
    tool("kubeconform")
    manifest = render(Path(__file__).parent / "cert-manager")
    manifests = Manifests(parse(manifest), facts("kind"))
    found = [*check(manifests), *tools.kubeconform(manifest)]
    assert [str(finding) for finding in found] == []
    assert "certificates" not in {workload.name for workload in manifests.workloads}
    names = {
        at(certificate, "spec.secretName"): certificate
        for certificate in manifests.kind("Certificate")
    }
    for secret in names.keys() - {"tls-ca"}:
        name, spec = secret.removeprefix("tls-"), names[secret]["spec"]
        assert spec["dnsNames"] == [
            name,
            *(f"{name}.{rest}" for rest in ("face", "face.svc", "face.svc.cluster.local")),
        ]
        assert spec["issuerRef"]["name"] == "facestack"
