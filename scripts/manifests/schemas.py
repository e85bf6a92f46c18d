"""Makes the schemas that manifests are checked with, out of pinned Go modules and of our own files.

Ours, because the collections that kubeconform takes otherwise are downloads of nobody's release.

The Go module proxy is the one place where Kubernetes and every project with custom resources
publish them, and ``go`` holds what it downloads to the pins' sums.
Flux's own custom resources stand in this repository, because a push installs them.
"""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from scripts.programs import ROOT

Schema: TypeAlias = dict[str, Any]

_PINS: Final = ROOT / "e2e" / "no-registry" / "tools" / "schemas"
_KUBERNETES: Final = _PINS.with_name("k8s")  # what the test cluster runs
_CUSTOM: Final = {
    "github.com/cert-manager/cert-manager": "deploy/crds/cert-manager.io_*.yaml",
    "github.com/external-secrets/external-secrets": "deploy/crds/*.yaml",
    "github.com/sigstore/policy-controller": "config/300-clusterimagepolicy.yaml",
    "sigs.k8s.io/aws-load-balancer-controller": "config/crd/bases/*.yaml",
}
"""Where each module has the definitions of the custom resources that may stand in a manifest."""
_OWN: Final = "flux/controllers/*/crds.yaml"

_FROM: Final = (Path(__file__), *_PINS.glob("go.*"), *_KUBERNETES.glob("go.*"), *ROOT.glob(_OWN))
_KEY: Final = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(_FROM))).hexdigest()
CACHE: Final = ROOT / ".tools" / "schemas" / _KEY[:16]
"""The folder with the schemas; once it is there they are all there."""
[MINOR] = re.findall(
    r"^\s*k8s\.io/kubernetes v1\.(\d+)", (_KUBERNETES / "go.mod").read_text(), re.MULTILINE
)

_DEFINITIONS: Final = "../definitions/"
_METADATA: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def _download(pins: Path, module: str) -> Path:
    """Return the folder with a module that a folder's go.mod and go.sum pin."""
    print(f"  {module}", flush=True)
    command = ["go", "mod", "download", "-json", module]
    done = subprocess.run(command, cwd=pins, stdout=subprocess.PIPE, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    if done.returncode or "Dir" not in found:
        raise SystemExit(f"schemas: {module}: {found.get('Error', 'go could not get it')}")
    return Path(found["Dir"])


def _strict(node: Any) -> Any:
    """Return an OpenAPI schema as JSON Schema that refuses unknown fields."""
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string") or node.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    out: Schema = {name: value for name, value in node.items() if name != "description"}
    # A schema inside anyOf and the like names only some of the fields: it stays as it is.
    for name in {"items", "additionalProperties"} & out.keys():
        out[name] = _strict(out[name])
    if "properties" in out:
        out["properties"] = {name: _strict(field) for name, field in out["properties"].items()}
        if not out.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
    if out.get("nullable") and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    return out


def _write(folder: Path, of: Schema, schema: Schema) -> None:
    """Write the schema of a group's version's kind."""
    # kubeconform looks for the kind in lower case, and calls the core group by its version.
    fields = {"apiVersion": {"type": "string"}, "kind": {"enum": [of["kind"]]}}
    schema = {**schema, "properties": {**schema["properties"], **fields}}
    path = folder / (of["group"] or of["version"]) / f"{of['kind'].lower()}-{of['version']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(schema))


def _builtin(source: Path, folder: Path) -> None:
    """Write a file of each definition of Kubernetes', and one of each built-in kind."""
    text = (source / "api/openapi-spec/swagger.json").read_text()
    known: Schema = json.loads(text.replace("#/definitions/", _DEFINITIONS))["definitions"]
    # A quantity may be written as a number.
    known["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {
        "type": ["string", "number"],
        "pattern": r"^[+-]?[0-9.]+([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$",
    }
    (folder / "definitions").mkdir()
    for name, definition in known.items():
        schema = _strict(definition)
        (folder / "definitions" / name).write_text(json.dumps(schema))
        if "apiVersion" in schema.get("properties", {}):
            for of in schema.get("x-kubernetes-group-version-kind", []):
                _write(folder, of, schema)


def _custom(source: Path, pattern: str, folder: Path) -> None:
    """Write the schema of every version of every CustomResourceDefinition in files."""
    for file in source.glob(pattern):
        for document in filter(None, yaml.load_all(file.read_text(), yaml.CSafeLoader)):
            spec = document["spec"]
            for version in spec["versions"]:
                schema = _strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"$ref": f"{_DEFINITIONS}{_METADATA}"}
                of = {"group": spec["group"], "version": version["name"]}
                _write(folder, {**of, "kind": spec["names"]["kind"]}, schema)


def main() -> None:
    """Fill the cache unless it is there."""
    if CACHE.is_dir():
        return
    print("Making the schemas of Kubernetes and of custom resources ...")
    fresh = CACHE.parent.with_name("schemas.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _builtin(_download(_KUBERNETES, "k8s.io/kubernetes"), fresh)
    for module, pattern in _CUSTOM.items():
        _custom(_download(_PINS, module), pattern, fresh)
    _custom(ROOT, _OWN, fresh)
    shutil.rmtree(CACHE.parent, ignore_errors=True)
    CACHE.parent.mkdir()
    fresh.rename(CACHE)
    print(f"{sum(1 for _ in CACHE.glob('*/*.json'))} schemas are in .tools/schemas.")


if __name__ == "__main__":
    main()
