"""With cert-manager's Certificates, everything is as with those of the Jobs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from scripts.manifests import tools
from scripts.manifests.model import Manifests, at
from scripts.manifests.rules import check
from scripts.manifests.tests.rendering import facts, render

pytestmark = pytest.mark.usefixtures("flux_build")


def test_certificates_of_cert_manager_take_the_place_of_the_jobs(
    tool: Callable[[str], str],
) -> None:
    tool("kubeconform")
    manifests = Manifests(render(Path(__file__).parent / "cert-manager", {}), facts("kind"))
    manifest = yaml.safe_dump_all(manifests.documents)
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
