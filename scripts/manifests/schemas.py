"""Makes the schemas that manifests are checked with, out of pinned Go modules and of our own files.

Ours, because the collections that kubeconform takes otherwise are downloads of nobody's release.

The Go module proxy is the one place where Kubernetes and every project with custom resources
publish them. ``go`` verifies what it downloads; the sums below hold it to what was looked at here.
Flux's own custom resources stand in this repository, because a push installs them.
"""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".tools" / "schemas"
INSTALL: Final = "make servers"

Schema: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Module:
    """A Go module at one version, and the files in it that hold CustomResourceDefinitions."""

    path: str
    version: str
    sum: str
    crds: str = ""


def _kubernetes_version() -> str:
    """Return the version that the test cluster runs, which is pinned where it is built."""
    pins = (ROOT / "e2e" / "no-registry" / "tools" / "k8s" / "go.mod").read_text()
    found = re.search(r"^\s*k8s\.io/kubernetes v1\.(\S+)$", pins, re.MULTILINE)
    if not found:
        raise SystemExit("schemas: e2e/no-registry/tools/k8s/go.mod does not pin k8s.io/kubernetes")
    return found[1]


KUBERNETES: Final = _kubernetes_version()
MINOR: Final = int(KUBERNETES.split(".", maxsplit=1)[0])

KUBERNETES_MODULE: Final = Module(
    "k8s.io/kubernetes",
    f"v1.{KUBERNETES}",
    "h1:Yy6R4QB8C9kJPp25GFqEvX5XQwY5qzKeqD0Xx6oAcmk=",
)
# One line per project whose custom resources may stand in a manifest.
CRD_MODULES: Final = (
    Module(
        "github.com/cert-manager/cert-manager",
        "v1.19.2",
        "h1:jSprN1h5pgNDSl7HClAmIzXuTxic/5FXJ32kbQHqjlM=",
        crds="deploy/crds/cert-manager.io_*.yaml",
    ),
    Module(
        "github.com/external-secrets/external-secrets",
        "v1.3.2",
        "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=",
        crds="deploy/crds/*.yaml",
    ),
    # v3.2.2; the project's tags are no versions that the module proxy serves.
    Module(
        "github.com/kubernetes-sigs/aws-load-balancer-controller",
        "v0.0.0-20260423195125-93ff3b5fdaad",
        "h1:sttxR+rS5X6cS1ldieB5JKVucs61EHq8XO7VKySyU5w=",
        crds="config/crd/bases/*.yaml",
    ),
    Module(
        "github.com/sigstore/policy-controller",
        "v0.13.1",
        "h1:Woy+6bQ7pT/0m3/PSO2RtDxSHKBZ/8iHpCZFcZJThM8=",
        crds="config/300-clusterimagepolicy.yaml",
    ),
)


def _own_crds() -> list[Path]:
    """Return the files with the CustomResourceDefinitions that Flux installs from here."""
    return sorted((ROOT / "flux" / "controllers").glob("*/crds.yaml"))


def key() -> str:
    """Return what the schemas in the cache depend on: the pins, this file and our own files."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + KUBERNETES.encode())
    for file in _own_crds():
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def is_current() -> bool:
    """Tell whether the cache holds what this file would make."""
    stamp = CACHE / "KEY"
    return stamp.is_file() and stamp.read_text() == key()


def location() -> str:
    """Return kubeconform's template for the path of a schema."""
    return f"{CACHE}/{{{{.Group}}}}/{{{{.ResourceKind}}}}-{{{{.ResourceAPIVersion}}}}.json"


def _download(module: Module) -> Path:
    print(f"  {module.path} {module.version}", flush=True)
    done = subprocess.run(
        ["go", "mod", "download", "-json", f"{module.path}@{module.version}"],
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout or "{}")
    if done.returncode or "Dir" not in found:
        raise SystemExit(f"schemas: {module.path}: {found.get('Error', 'go could not get it')}")
    if found["Sum"] != module.sum:
        raise SystemExit(
            f"schemas: {module.path} {module.version} has the sum {found['Sum']}, "
            f"not {module.sum}: look at what changed, then set it in {Path(__file__).name}"
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


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].removeprefix("#/definitions/")
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def _write(folder: Path, name: tuple[str, str, str], schema: Schema, known: Schema) -> None:
    """Write the schema of a group's version's kind with all the definitions that it reaches."""
    group, version, kind = name
    reached: Schema = {}
    wanted = list(_references(schema))
    while wanted:
        part = wanted.pop()
        if part not in reached:
            reached[part] = known[part]
            wanted.extend(_references(known[part]))
    api_version = f"{group}/{version}" if group else version
    schema["properties"]["apiVersion"] = {"const": api_version}
    schema["properties"]["kind"] = {"const": kind}
    schema["required"] = sorted({*schema.get("required", []), "apiVersion", "kind"})
    # kubeconform calls the core group by its version.
    path = folder / (group or version) / f"{kind.lower()}-{version}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**schema, "definitions": reached}))


def _builtin(source: Path, folder: Path) -> Schema:
    """Write the schema of every built-in kind and return all definitions."""
    raw: Schema = json.loads((source / "api/openapi-spec/swagger.json").read_text())["definitions"]
    known: Schema = _strict(raw)
    prefix = "io.k8s.apimachinery.pkg"
    # A quantity may be written as a number.
    known[f"{prefix}.api.resource.Quantity"] = {
        "type": ["string", "number"],
        "pattern": r"^[+-]?[0-9.]+([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$",
    }
    for name, schema in raw.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            if "apiVersion" in schema.get("properties", {}):
                copy = {**known[name], "properties": dict(known[name]["properties"])}
                _write(folder, (kind["group"], kind["version"], kind["kind"]), copy, known)
    return known


def _custom(files: list[Path], folder: Path, known: Schema) -> None:
    """Write the schema of every version of every CustomResourceDefinition in the files."""
    metadata = {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    for file in files:
        for document in yaml.load_all(file.read_text(), yaml.CSafeLoader):
            if not document or document["kind"] != "CustomResourceDefinition":
                continue
            spec = document["spec"]
            for version in spec["versions"]:
                schema = _strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = metadata
                names = (spec["group"], version["name"], spec["names"]["kind"])
                _write(folder, names, schema, known)


def main() -> None:
    """Fill the cache unless it is current."""
    if is_current():
        return
    if not shutil.which("go"):
        raise SystemExit("schemas: Go is missing: install it from https://go.dev/dl/")
    print(f"Making the schemas of Kubernetes 1.{KUBERNETES} and of custom resources ...")
    fresh = CACHE.with_name("schemas.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    known = _builtin(_download(KUBERNETES_MODULE), fresh)
    for module in CRD_MODULES:
        files = sorted(_download(module).glob(module.crds))
        if not files:
            raise SystemExit(f"schemas: {module.path} {module.version} has no {module.crds}")
        _custom(files, fresh, known)
    _custom(_own_crds(), fresh, known)
    (fresh / "KEY").write_text(key())
    shutil.rmtree(CACHE, ignore_errors=True)
    fresh.rename(CACHE)
    print(f"{sum(1 for _ in CACHE.glob('*/*.json'))} schemas are in .tools/schemas.")


if __name__ == "__main__":
    main()
