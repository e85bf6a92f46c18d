"""Makes the schemas that manifests are checked with, out of pinned Go modules and of our own files.

Ours, because the collections that kubeconform takes otherwise are downloads of nobody's release.

The Go module proxy is the one place where Kubernetes and every project with custom resources
publish them. ``go`` verifies what it downloads; the sums hold it to what was looked at here.
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

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".tools" / "schemas"
LOCATION: Final = f"{CACHE}/{{{{.Group}}}}/{{{{.ResourceKind}}}}-{{{{.ResourceAPIVersion}}}}.json"
"""kubeconform's template for the path of a schema."""

Schema: TypeAlias = dict[str, Any]

# What the test cluster runs.
_PINS: Final = ROOT / "e2e" / "no-registry" / "tools" / "k8s" / "go.sum"
_PINNED: Final = re.search(
    r"^k8s\.io/kubernetes (v1\.(\d+)\.\d+) (h1:\S+)$", _PINS.read_text(), re.MULTILINE
)
if not _PINNED:
    raise SystemExit(f"schemas: {_PINS.relative_to(ROOT)} does not pin k8s.io/kubernetes")
_VERSION, MINOR, _SUM = _PINNED.groups()
# Each project whose custom resources may stand in a manifest: the module, its sum, the definitions.
_CUSTOM: Final = (
    (
        "github.com/cert-manager/cert-manager@v1.19.2",
        "h1:jSprN1h5pgNDSl7HClAmIzXuTxic/5FXJ32kbQHqjlM=",
        "deploy/crds/cert-manager.io_*.yaml",
    ),
    (
        "github.com/external-secrets/external-secrets@v1.3.2",
        "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=",
        "deploy/crds/*.yaml",
    ),
    # v3.2.2; the project's tags are no versions that the module proxy serves.
    (
        "github.com/kubernetes-sigs/aws-load-balancer-controller@v0.0.0-20260423195125-93ff3b5fdaad",
        "h1:sttxR+rS5X6cS1ldieB5JKVucs61EHq8XO7VKySyU5w=",
        "config/crd/bases/*.yaml",
    ),
    (
        "github.com/sigstore/policy-controller@v0.13.1",
        "h1:Woy+6bQ7pT/0m3/PSO2RtDxSHKBZ/8iHpCZFcZJThM8=",
        "config/300-clusterimagepolicy.yaml",
    ),
)
_OWN: Final = "flux/controllers/*/crds.yaml"

_DEFINITIONS: Final = "../definitions/"
_METADATA: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def _key() -> str:
    """Return what the schemas depend on."""
    files = (Path(__file__), _PINS, *sorted(ROOT.glob(_OWN)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def is_current() -> bool:
    """Tell whether the cache holds what this file would make."""
    stamp = CACHE / "KEY"
    return stamp.is_file() and stamp.read_text() == _key()


def _download(module: str, wanted: str) -> Path:
    """Return the folder with a module; ``wanted`` is its sum."""
    print(f"  {module}", flush=True)
    command = ["go", "mod", "download", "-json", module]
    done = subprocess.run(command, cwd="/", stdout=subprocess.PIPE, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    if done.returncode or "Dir" not in found:
        raise SystemExit(f"schemas: {module}: {found.get('Error', 'go could not get it')}")
    if found["Sum"] != wanted:
        raise SystemExit(
            f"schemas: {module} has the sum {found['Sum']}, not {wanted}: "
            f"look at what changed, then set it in {Path(__file__).name}"
        )
    return Path(found["Dir"])


def _strict(node: Any, *, closed: bool = True) -> Any:
    """Return an OpenAPI schema as JSON Schema that refuses unknown fields."""
    if isinstance(node, list):
        return [_strict(item, closed=closed) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string") or node.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    out: Schema = {}
    for name, value in node.items():
        if name == "properties":
            out[name] = {field: _strict(schema, closed=closed) for field, schema in value.items()}
        elif not name.startswith("x-kubernetes-") and name not in {"description", "nullable"}:
            # A schema inside anyOf and the like names only some of the fields.
            part = name not in {"allOf", "anyOf", "oneOf", "not"}
            out[name] = _strict(value, closed=closed and part)
    is_open = "additionalProperties" in out or node.get("x-kubernetes-preserve-unknown-fields")
    if closed and "properties" in out and not is_open:
        out["additionalProperties"] = False
    if node.get("nullable") and isinstance(out.get("type"), str):
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
    raw: Schema = json.loads(text.replace("#/definitions/", _DEFINITIONS))["definitions"]
    known: Schema = _strict(raw)
    # A quantity may be written as a number.
    known["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {
        "type": ["string", "number"],
        "pattern": r"^[+-]?[0-9.]+([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$",
    }
    (folder / "definitions").mkdir()
    for name, schema in known.items():
        (folder / "definitions" / name).write_text(json.dumps(schema))
        if "apiVersion" in schema.get("properties", {}):
            for of in raw[name].get("x-kubernetes-group-version-kind", []):
                _write(folder, of, schema)


def _custom(source: Path, pattern: str, folder: Path) -> None:
    """Write the schema of every version of every CustomResourceDefinition in files."""
    found = 0
    for file in source.glob(pattern):
        for document in yaml.load_all(file.read_text(), yaml.CSafeLoader):
            spec = document["spec"] if document else {"versions": []}
            for version in spec["versions"]:
                schema = _strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"$ref": f"{_DEFINITIONS}{_METADATA}"}
                of = {"group": spec["group"], "version": version["name"]}
                _write(folder, {**of, "kind": spec["names"]["kind"]}, schema)
                found += 1
    if not found:
        raise SystemExit(f"schemas: {source} has no definition in {pattern}")


def main() -> None:
    """Fill the cache unless it is current."""
    if is_current():
        return
    if not shutil.which("go"):
        raise SystemExit("schemas: Go is missing: install it from https://go.dev/dl/")
    print(f"Making the schemas of Kubernetes {_VERSION} and of custom resources ...")
    fresh = CACHE.with_name("schemas.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _builtin(_download(f"k8s.io/kubernetes@{_VERSION}", _SUM), fresh)
    for module, wanted, pattern in _CUSTOM:
        _custom(_download(module, wanted), pattern, fresh)
    _custom(ROOT, _OWN, fresh)
    (fresh / "KEY").write_text(_key())
    shutil.rmtree(CACHE, ignore_errors=True)
    fresh.rename(CACHE)
    print(f"{sum(1 for _ in CACHE.glob('*/*.json'))} schemas are in .tools/schemas.")


if __name__ == "__main__":
    main()
