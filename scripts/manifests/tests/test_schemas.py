"""The schemas are made strict, and keep what a schema leaves open on purpose."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.manifests import schemas
from scripts.manifests.schemas import _strict


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (
            {"type": "object", "properties": {"a": {"type": "string", "description": "text"}}},
            {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "additionalProperties": False,
            },
        ),
        ({"type": "object"}, {"type": "object"}),
        (
            {"properties": {"description": {"type": "string"}}, "additionalProperties": True},
            {"properties": {"description": {"type": "string"}}, "additionalProperties": True},
        ),
        (
            {"properties": {}, "x-kubernetes-preserve-unknown-fields": True},
            {"properties": {}, "x-kubernetes-preserve-unknown-fields": True},
        ),
        ({"x-kubernetes-int-or-string": True}, {"type": ["integer", "string"]}),
        (
            {"type": "string", "nullable": True},
            {"type": ["string", "null"], "nullable": True},
        ),
        (
            {"items": {"properties": {"a": {}}}},
            {"items": {"properties": {"a": {}}, "additionalProperties": False}},
        ),
        (
            {"additionalProperties": {"properties": {"a": {}}}},
            {"additionalProperties": {"properties": {"a": {}}, "additionalProperties": False}},
        ),
        (
            {"anyOf": [{"properties": {"a": {}}}]},
            {"anyOf": [{"properties": {"a": {}}}]},
        ),
    ],
)
def test_an_object_with_fields_has_no_others(given: dict[str, Any], made: dict[str, Any]) -> None:
    assert _strict(given) == made


def test_there_is_a_schema_for_every_kind_that_a_module_defines(schema_folder: Path) -> None:
    for name in (
        "apps/deployment-v1",
        "v1/service-v1",
        "admissionregistration.k8s.io/validatingadmissionpolicy-v1",
        "cert-manager.io/certificate-v1",
        "cert-manager.io/issuer-v1",
        "external-secrets.io/externalsecret-v1",
        "policy.sigstore.dev/clusterimagepolicy-v1beta1",
        "elbv2.k8s.aws/targetgroupbinding-v1beta1",
        "kustomize.toolkit.fluxcd.io/kustomization-v1",
        "source.toolkit.fluxcd.io/gitrepository-v1",
        "helm.toolkit.fluxcd.io/helmrelease-v2",
        "source.toolkit.fluxcd.io/ocirepository-v1",
        "notification.toolkit.fluxcd.io/receiver-v1",
        "notification.toolkit.fluxcd.io/alert-v1beta3",
        "notification.toolkit.fluxcd.io/provider-v1beta3",
        "image.toolkit.fluxcd.io/imagerepository-v1",
        "image.toolkit.fluxcd.io/imagepolicy-v1",
        "image.toolkit.fluxcd.io/imageupdateautomation-v1",
    ):
        schema = json.loads((schema_folder / f"{name}.json").read_text())
        assert schema["additionalProperties"] is False


def test_a_module_that_cannot_be_had_is_told(
    tool: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool("go")
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(SystemExit, match=r"schemas: example\.com/a@v1\.0\.0: .*GOPROXY=off"):
        schemas._download(tmp_path, "example.com/a@v1.0.0")


@pytest.mark.parametrize("module", schemas._CUSTOM)
def test_every_module_has_its_sum(module: str) -> None:
    assert re.search(rf"^{module} \S+ h1:", (schemas._PINS / "go.sum").read_text(), re.MULTILINE)
