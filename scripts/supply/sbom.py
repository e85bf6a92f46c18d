"""Bills of materials (CycloneDX 1.6, JSON) of the images and of the Python tree."""

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from scripts.supply import locks
from scripts.supply.licences import LicenceError, licence

FOLDER: Final = locks.ROOT / "var/sbom"

# Run in an image. Python is no package of Debian where the official image has built it.
_LOOK: Final = r"""
import importlib.metadata, json, platform, subprocess
fields = "${Package} ${Version} ${Architecture} ${source:Package} ${db:Status-Status}\n"
lines = subprocess.check_output(["dpkg-query", "--show", "--showformat=" + fields], text=True)
print(json.dumps({
    "python": platform.python_version(),
    "codename": platform.freedesktop_os_release()["VERSION_CODENAME"],
    "debian": [line.split() for line in lines.splitlines()],
    "distributions": [
        [one.name, one.version] for one in importlib.metadata.distributions()
    ],
}))
"""


class SbomError(Exception):
    """An image that is not there, or holds something else than its lock file says."""


def names() -> Sequence[str]:
    """Return what has a bill: each image, and ``python``, the tree of all that is locked."""
    return [*locks.images(), "python"]


def write(wanted: Sequence[str], *, images: bool) -> Iterator[Path]:
    """Write a file for each name that is wanted, and yield each.

    With ``images``, what is in the built images is looked at: Debian's packages are listed, too.
    The same input gives the same bytes. Raises SbomError.
    """
    for name in wanted:
        if name not in names():
            raise SbomError(f"no image is called {name}: choose from {', '.join(names())}")
    tag = subprocess.check_output([locks.ROOT / "scripts/image-tag"], text=True).strip()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        if name == "python":
            pins = locks.pins(locks.FOLDER / "dev.txt")
            subject = Component(name="facestack", version=tag, type=ComponentType.APPLICATION)
        else:
            pins = locks.image_pins(name)
            subject = Component(name=f"facestack/{name}", version=tag, type=ComponentType.CONTAINER)
        subject.bom_ref.value = name
        components = [_distribution(pin) for pin in pins]
        if images and name != "python":
            components += _inside(f"facestack/{name}:{tag}", pins)
        yield _write(FOLDER / f"{name}.cdx.json", subject, components)


def _distribution(pin: locks.Pin) -> Component:
    component = _component(PackageURL("pypi", None, pin.name, pin.version))
    component.hashes = [HashType(alg=HashAlgorithm.SHA_256, content=one) for one in pin.hashes]
    with suppress(LicenceError):  # what an image may hold, `make licences` says
        component.licenses = [LicenseExpression(licence(pin.name))]
    return component


def _inside(image: str, pins: Sequence[locks.Pin]) -> Iterator[Component]:
    """Yield what an image holds beside the distributions of its lock file."""
    look = ["docker", "run", "--rm", "--network=none", "--entrypoint=python", image, "-c", _LOOK]
    try:
        done = subprocess.run(look, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SbomError("Docker is missing, and only it can look into an image") from None
    if done.returncode:
        raise SbomError(f"cannot look into {image}, run 'make images': {done.stderr.strip()}")
    held: Mapping[str, Any] = json.loads(done.stdout)
    installed = {(canonicalize_name(name), version) for name, version in held["distributions"]}
    if installed != {(pin.name, pin.version) for pin in pins}:
        raise SbomError(f"{image} holds other distributions than its lock file: run 'make images'")
    yield _component(PackageURL("generic", None, "python", held["python"]), ComponentType.PLATFORM)
    for name, version, architecture, source, status in held["debian"]:
        if status == "installed":
            # Debian tells of vulnerabilities by source package.
            of = {} if source == name else {"upstream": source}
            qualifiers = {"arch": architecture, "distro": held["codename"], **of}
            yield _component(PackageURL("deb", "debian", name, version, qualifiers))


def _component(purl: PackageURL, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    return Component(
        name=purl.name, version=purl.version, type=kind, purl=purl, bom_ref=purl.to_string()
    )


def _write(file: Path, subject: Component, components: Iterable[Component]) -> Path:
    bom = Bom(components=components)
    bom.metadata.component = subject
    bom.register_dependency(subject, bom.components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    # A time and a random number are all that would differ from one run to the next.
    del document["metadata"]["timestamp"], document["serialNumber"]
    document["serialNumber"] = uuid5(NAMESPACE_OID, json.dumps(document)).urn
    file.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return file
